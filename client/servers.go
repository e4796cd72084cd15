package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"raptorpack/wire"
)

// servers knows the frontends' addresses and which one is spoken to. Reader and
// sender share it: when one of them meets trouble both move on.
type servers struct {
	options   *Options
	identity  *Identity
	writeback *Writeback // nil: nothing is stored

	turn chan struct{} // one slot: whoever holds it fetches server.pem

	mu         sync.Mutex
	urls       []string
	at         int // the address in use
	worked     int // the last one that answered
	generation int // grows with each rotation
	session    *wire.Session
	failures   int // in a row, of all addresses
	redirected int // requests that still carry ?r=1
	plain      map[string]time.Time
}

// redirectMarks is how many requests after a redirect are marked (client
// protocol 3.5).
const redirectMarks = 200

// maxRedirects bounds the addresses that redirects may add.
const maxRedirects = 16

func newServers(o *Options, identity *Identity, w *Writeback) *servers {
	urls := slices.Clone(o.ServerURLs)
	rand.Shuffle(len(urls), func(i, j int) { urls[i], urls[j] = urls[j], urls[i] })
	return &servers{
		options: o, identity: identity, writeback: w, urls: urls, turn: make(chan struct{}, 1),
		plain: map[string]time.Time{},
	}
}

// peer is a server with which a session stands.
type peer struct {
	session    *wire.Session
	base       string // the URL as configured
	url        string // the one to use: maybe by WebSocket
	generation int
	redirected bool
}

// peer gives the present server; if none is known it fetches and checks
// server.pem.
func (s *servers) peer(ctx context.Context) (peer, error) {
	if p, ok := s.present(); ok {
		return p, nil
	}
	select {
	case s.turn <- struct{}{}:
	case <-ctx.Done():
		return peer{}, context.Cause(ctx)
	}
	defer func() { <-s.turn }()
	if p, ok := s.present(); ok { // somebody else was faster
		return p, nil
	}
	p := s.address()
	session, err := s.greet(ctx, p.url)
	if err != nil {
		return p, fmt.Errorf("greet %s: %w", p.base, err)
	}
	s.mu.Lock()
	if s.generation == p.generation {
		s.session = session
	}
	s.mu.Unlock()
	p.session = session
	return p, nil
}

func (s *servers) greet(ctx context.Context, url string) (*wire.Session, error) {
	text, err := s.options.Transport.ServerPEM(ctx, url)
	if err != nil {
		return nil, err
	}
	server, err := wire.CheckServer(text, wire.Trust{CA: s.options.CA, PinnedName: s.options.PinnedName})
	if err != nil {
		return nil, err
	}
	if s.writeback != nil {
		// Only local helpers read it: an agent that cannot write it still works.
		if err := s.writeback.SetServerPEM(text); err != nil {
			s.options.Logger.Warn("server certificate not written back", "err", err)
		}
	}
	return wire.NewSession(wire.SessionOptions{
		Key: s.identity.Key, Server: server, Nonce: s.options.Nonce, DisableCompression: s.options.DisableCompression,
	})
}

func (s *servers) present() (peer, bool) {
	p := s.address()
	return p, p.session != nil
}

func (s *servers) address() peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	base := s.urls[s.at]
	return peer{
		session: s.session, base: base, url: s.carrier(base), generation: s.generation, redirected: s.redirected > 0,
	}
}

// carrier chooses between POST and WebSocket for a URL; mu is held.
func (s *servers) carrier(base string) string {
	if !s.options.UpgradeHTTP || !strings.HasPrefix(base, "http") || time.Now().Before(s.plain[base]) {
		return base
	}
	return "ws" + strings.TrimPrefix(base, "http")
}

// answered notes that p works.
func (s *servers) answered(p peer) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.generation == s.generation {
		s.worked, s.failures = s.at, 0
	}
	s.redirected = max(0, s.redirected-1)
}

// moveOn leaves p for the next address, forgets the server's key, and says how
// long to wait first: nothing while there are addresses not yet tried. A
// WebSocket that failed at an http URL is tried as POST before that. It reports
// whether p was the present server: the other loop may have moved already.
func (s *servers) moveOn(p peer, cause error) (pause time.Duration, present bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.generation != s.generation {
		return 0, false
	}
	s.generation++
	s.session = nil
	switch {
	case p.url == p.base:
		// POST does not get through either: the server is away, and sockets are not
		// to blame. When it is back they come first again.
		delete(s.plain, p.base)
	case errors.Is(cause, wire.ErrForged), errors.Is(cause, errAnswer): // the socket carried that
	case unreached(cause): // a post would go the same way
	default:
		s.plain[p.base] = time.Now().Add(s.options.FallbackTime)
		return 0, true
	}
	s.at = (s.at + 1) % len(s.urls)
	s.options.Metrics.rotations.Inc()
	if s.at != s.worked {
		return 0, true
	}
	s.failures++
	return s.options.backOff(s.failures), true
}

// redirect follows a 301. It says how long to wait first: a redirect that
// follows a redirect waits, so that two servers cannot play ball with us.
func (s *servers) redirect(p peer, location string) (time.Duration, error) {
	if err := wire.CheckURL(location); err != nil {
		return 0, fmt.Errorf("redirected by %s: %w", p.base, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.generation != s.generation {
		return 0, nil
	}
	at := slices.Index(s.urls, location)
	if at < 0 {
		if len(s.urls) >= len(s.options.ServerURLs)+maxRedirects {
			s.urls = slices.Delete(s.urls, len(s.options.ServerURLs), len(s.options.ServerURLs)+1)
		}
		s.urls = append(s.urls, location)
		at = len(s.urls) - 1
	}
	again := s.redirected > 0
	s.at, s.session, s.redirected = at, nil, redirectMarks
	s.generation++
	if !again {
		return 0, nil
	}
	s.failures++
	return s.options.backOff(s.failures), nil
}

// verdict is what an answer's status means (client protocol 3.5).
type verdict uint8

const (
	taken    verdict = iota // 200: delivered
	refused                 // 400: drop the batch, go on
	stranger                // 406: enrol; the batch is gone
	again                   // 408, 503: try again, here
	moved                   // 301
	other                   // anything else: the next address, keep the batch
)

func judge(code int) verdict {
	switch code {
	case http.StatusOK:
		return taken
	case http.StatusBadRequest:
		return refused
	case http.StatusNotAcceptable:
		return stranger
	case http.StatusRequestTimeout, http.StatusServiceUnavailable:
		return again
	case http.StatusMovedPermanently:
		return moved
	}
	return other
}

func (v verdict) String() string {
	return [...]string{"taken", "refused", "unknown client", "try again", "moved", "error"}[v]
}
