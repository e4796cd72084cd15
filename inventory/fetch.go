package inventory

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

const (
	fetchWithin  = 15 * time.Minute // one tool, all in all
	answerWithin = time.Minute      // until the first byte of an answer
	maxRedirects = 10
	maxFetches   = 4 // at once
	sweepEvery   = time.Minute
	againPause   = 5 * time.Second // after the ledger did not take what became of a fetch

	githubAPI = "https://api.github.com"
)

// FetcherOptions wire a Fetcher. The first block is required.
type FetcherOptions struct {
	Room    *Room
	Files   *Files
	Propose func(ctx context.Context, m *buspb.Mutation) error

	GithubAPI string        // where releases are asked for; empty: the public one
	Within    time.Duration // how long one fetch may take; 0: 15 minutes
	Logger    *slog.Logger  // nil: slog.Default
}

// Fetcher fetches what was asked for, and removes the files that no tool names any
// more. One node at a time runs it: the one that leads.
type Fetcher struct {
	o      FetcherOptions
	client *http.Client
}

// NewFetcher wires a Fetcher; nothing runs before Run.
func NewFetcher(o FetcherOptions) *Fetcher {
	if o.GithubAPI == "" {
		o.GithubAPI = githubAPI
	}
	if o.Within == 0 {
		o.Within = fetchWithin
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Fetcher{o: o, client: &http.Client{Transport: transport(), CheckRedirect: redirect}}
}

// transport reaches what the environment's proxy, or this machine, reaches. What
// clouds tell their machines, credentials too, lies at link-local addresses: no
// artifact's author is to read that through us.
func transport() *http.Transport {
	dialer := &net.Dialer{Timeout: 30 * time.Second, Control: func(_, address string, _ syscall.RawConn) error {
		at, err := netip.ParseAddrPort(address)
		if err == nil && at.Addr().Unmap().IsLinkLocalUnicast() {
			return fmt.Errorf("%s is a link-local address: %w", at.Addr(), ErrInvalid)
		}
		return err
	}}
	return &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: dialer.DialContext, TLSHandshakeTimeout: 30 * time.Second,
		ResponseHeaderTimeout: answerWithin, IdleConnTimeout: 10 * time.Second, ForceAttemptHTTP2: true,
		DisableCompression: true, // the hash is that of the file
	}
}

func redirect(request *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return fmt.Errorf("more than %d redirects", maxRedirects)
	}
	if first := via[0].URL; first.Scheme == "https" && request.URL.Scheme != "https" {
		return fmt.Errorf("redirect from https to %s", request.URL.Scheme)
	}
	return nil
}

// Run works until ctx ends. What an earlier master did not finish is begun anew.
func (f *Fetcher) Run(ctx context.Context) error {
	defer f.client.CloseIdleConnections()
	var working sync.WaitGroup
	defer working.Wait()
	ended := make(chan uint64, maxFetches) // a slot for each that works: nobody waits
	busy := map[uint64]bool{}
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	f.sweep(ctx)
	for {
		changed := f.o.Room.Changed()
		for _, w := range f.o.Room.Wanted() {
			if busy[w.Index] || len(busy) == maxFetches {
				continue
			}
			busy[w.Index] = true
			working.Go(func() {
				f.settle(ctx, w)
				ended <- w.Index
			})
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case index := <-ended:
			delete(busy, index)
		case <-sweep.C:
			f.sweep(ctx)
		}
	}
}

// settle fetches one tool and tells what came of it. What the ledger refuses is not
// wanted any more.
func (f *Fetcher) settle(ctx context.Context, w Wanted) {
	start := time.Now()
	got, filename, err := f.fetch(ctx, w)
	if ctx.Err() != nil {
		if err == nil {
			f.o.Files.Drop(ctx, got)
		}
		return // the next master begins anew
	}
	f.o.Files.metrics.fetching.Observe(time.Since(start).Seconds())
	log := f.o.Logger.With("tool", w.Tool.Name, "version", w.Tool.Version)
	if err != nil {
		f.o.Files.metrics.fetches.WithLabelValues("failed").Inc()
		log.Warn("tool could not be fetched", "err", err)
		f.tell(ctx, func() (*buspb.Mutation, error) { return PlanFailed(w, err.Error(), wrongHash(err)) })
		return
	}
	f.o.Files.metrics.fetches.WithLabelValues("fetched").Inc()
	log.Info("tool is fetched", "bytes", got.Size, "took", time.Since(start))
	var named bool
	told := f.tell(ctx, func() (m *buspb.Mutation, err error) {
		m, named, err = f.o.Room.PlanFetched(w, got, filename)
		return m, err
	})
	if told == nil && !named || told != nil && refused(told) {
		f.o.Files.Drop(ctx, got)
	}
}

// tell brings what became of a fetch into the ledger. It goes on until the ledger
// says yes or no: otherwise the tool would be fetched again and again.
func (f *Fetcher) tell(ctx context.Context, plan func() (*buspb.Mutation, error)) error {
	for {
		m, err := plan()
		if err == nil {
			err = f.o.Propose(ctx, m)
		}
		if err == nil || ctx.Err() != nil || refused(err) {
			return err
		}
		f.o.Logger.Warn("what became of fetching a tool is not in the ledger yet", "err", err)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(againPause):
		}
	}
}

// refused reports an error that every node gives alike.
func refused(err error) bool {
	return errors.Is(err, ErrChanged) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnknown)
}

// wrongHashError is what came in place of what was expected.
type wrongHashError struct{ got, want string }

func (e *wrongHashError) Error() string {
	return fmt.Sprintf("what came has the SHA-256 %s, expected %s: an administrator may accept it by expecting it", e.got, e.want)
}

func wrongHash(err error) string {
	var wrong *wrongHashError
	if errors.As(err, &wrong) {
		return wrong.got
	}
	return ""
}

// fetch brings one tool into the public folder.
func (f *Fetcher) fetch(ctx context.Context, w Wanted) (got Received, filename string, err error) {
	ctx, cancel := context.WithTimeout(ctx, f.o.Within)
	defer cancel()
	from := w.Tool.URL
	if w.Tool.GithubProject != "" {
		if from, err = f.newestAsset(ctx, w.Tool.GithubProject, w.Tool.GithubAssetRegex); err != nil {
			return got, "", err
		}
	}
	response, err := f.get(ctx, from, "")
	if err != nil {
		return got, "", err
	}
	defer response.Body.Close()
	if response.ContentLength > f.o.Files.maxBytes {
		return got, "", fmt.Errorf("fetch %s: %d bytes: %w", from, response.ContentLength, ErrTooLarge)
	}
	got, err = f.o.Files.Receive(ctx, w.Org, response.Body)
	if err != nil {
		return got, "", fmt.Errorf("fetch %s: %w", from, err)
	}
	if want := w.Tool.ExpectedHash; want != "" && want != got.Hash {
		f.o.Files.Drop(ctx, got)
		return got, "", fmt.Errorf("fetch %s: %w", from, &wrongHashError{got.Hash, want})
	}
	return got, nameIn(from), nil
}

// get asks for a URL; anything but 200 is an error.
func (f *Fetcher) get(ctx context.Context, from, accept string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, from, nil)
	if err != nil {
		return nil, fmt.Errorf("fetch %s: %w", from, err)
	}
	request.Header.Set("User-Agent", "raptorpack")
	if accept != "" {
		request.Header.Set("Accept", accept)
	}
	response, err := f.client.Do(request)
	if err != nil {
		return nil, fmt.Errorf("fetch: %w; does this node reach the network? An administrator can upload the tool instead", err)
	}
	if response.StatusCode != http.StatusOK {
		response.Body.Close() // its error says nothing beside the status
		return nil, fmt.Errorf("fetch %s: the server answers %s", from, response.Status)
	}
	return response, nil
}

// sweep removes files that no tool names any more. What cannot be removed now is
// tried again.
func (f *Fetcher) sweep(ctx context.Context) {
	for org, paths := range f.o.Room.Unused(time.Now()) {
		if err := f.sweepOrg(ctx, org, paths); err != nil && ctx.Err() == nil {
			f.o.Logger.Warn("files of tools that are gone are still there", "org", org.String(), "err", err)
		}
	}
}

func (f *Fetcher) sweepOrg(ctx context.Context, org ids.Org, paths []string) error {
	gone, err := f.o.Files.Sweep(ctx, org, paths)
	if len(gone) == 0 {
		return err
	}
	m, planErr := PlanSwept(org, gone)
	if planErr != nil {
		return errors.Join(err, planErr)
	}
	return errors.Join(err, f.o.Propose(ctx, m))
}
