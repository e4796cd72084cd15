package frontend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"raptorpack/wire"
)

// Frontend is one node's door for clients.
type Frontend struct {
	options   Options
	log       *slog.Logger
	metrics   *metrics
	opener    *wire.Opener
	sealer    *wire.Sealer
	admission *admission
	enrolment *enrolment
	strangers *ration // new sessions
	contests  *contests
	partings  *partings
	quiet     *quiet
	handler   http.Handler

	sockets   *sockets
	newcomers *sources // WebSockets that did not say who they are
	pushes    *pushes
	wheel     *wheel
	watcher   *wire.Watcher // of WebSockets that have nothing to say
	draining  atomic.Bool
	polls     atomic.Int64
	paced     atomic.Int64

	// handover ends one waiting HTTP poll per value. It has no slot: a value
	// is only given to a poll that takes it, otherwise handing over goes on.
	handover chan struct{}

	publicTurns chan struct{} // a slot for each public file that is being sent; full: others wait, then are told later
}

// New wires a Frontend; nothing runs before Run.
func New(o Options) (*Frontend, error) {
	o.setDefaults()
	if err := o.validate(); err != nil {
		return nil, err
	}
	opener, err := wire.NewOpener(wire.OpenerOptions{
		Identity: o.Identity, Keys: o.Keys.Key, Orgs: o.Tenants.Org, Sessions: o.Sessions,
		MaxElement: o.MaxElement, MaxPacket: o.MaxPacket,
	})
	if err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	sealer, err := wire.NewSealer(wire.SealerOptions{Identity: o.Identity, Nonce: o.Tenants.Nonce, Sessions: o.Sessions})
	if err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	f := &Frontend{
		options: o, log: o.Logger, metrics: newMetrics(o.Registerer), opener: opener, sealer: sealer,
		quiet: newQuiet(), sockets: newSockets(), newcomers: newSources(maxNewcomers), pushes: newPushes(), partings: newPartings(), handover: make(chan struct{}),
		publicTurns: make(chan struct{}, publicAtOnce),
	}
	if f.admission, err = newAdmission(&f.options, opener); err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	if f.enrolment, err = newEnrolment(&f.options); err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	if f.strangers, err = newRation(strangersPerSecond, strangersAtOnce); err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	if f.contests, err = newContests(); err != nil {
		return nil, fmt.Errorf("frontend: %w", err)
	}
	f.wheel = newWheel(o.PingWait, f.visit)
	f.watcher = wire.NewWatcher(f.silence())
	f.handler = f.routes()
	return f, nil
}

// Handler serves the clients' paths. WebSockets need Run beside it.
func (f *Frontend) Handler() http.Handler { return f.handler }

// Run serves clients until ctx ends, then hands them over at a measured pace and
// returns when the last connection is closed. Nil means told to stop.
func (f *Frontend) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer end()
	helpers.Go(func() { f.wheel.run(life) })
	helpers.Go(func() { f.pushes.run(life) })
	helpers.Go(func() { f.forgetAway(life) })
	helpers.Go(func() {
		if err := f.watcher.Run(life); err != nil { // then connections are read as they come
			f.log.Error("idle connections take a goroutine each", "err", err)
		}
	})

	server := f.server()
	served := make(chan error, 1) // one slot: the server's end never waits
	if f.options.Listener != nil {
		helpers.Go(func() { served <- f.serve(server) })
	}
	var failure error
	select {
	case <-ctx.Done():
	case failure = <-served:
		failure = fmt.Errorf("serve clients: %w", failure)
	}
	return errors.Join(failure, f.drain(life, server))
}

func (f *Frontend) server() *http.Server {
	return &http.Server{
		Handler: f.handler, TLSConfig: f.options.TLS, ReadHeaderTimeout: 30 * time.Second, IdleTimeout: 150 * time.Second,
		MaxHeaderBytes: 16 << 10,
		// The least that RFC 9113 section 5.1.2 recommends: clients need three, and
		// proxies that speak for many open further connections.
		HTTP2:    &http.HTTP2Config{MaxConcurrentStreams: 100},
		ErrorLog: slog.NewLogLogger(noise{f}, slog.LevelDebug),
	}
}

func (f *Frontend) serve(server *http.Server) error {
	var err error
	if f.options.TLS != nil {
		err = server.ServeTLS(f.options.Listener, "", "")
	} else {
		err = server.Serve(f.options.Listener)
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// drain hands clients over to other nodes: new requests are told to go
// elsewhere, waiting connections are ended one after the other over the drain
// window, posts in progress are finished.
func (f *Frontend) drain(ctx context.Context, server *http.Server) error {
	f.draining.Store(true)
	server.SetKeepAlivesEnabled(false)
	window, cancel := context.WithTimeout(ctx, f.options.DrainWindow)
	defer cancel()
	start, waiting := time.Now(), f.polls.Load()+int64(f.sockets.count())
	f.log.Info("handing clients over", "waiting", waiting, "took", f.options.DrainWindow)
	f.handOver(window, waiting)
	f.sockets.closeAll()
	err := f.shutdown(ctx, server)
	f.sockets.wait()
	f.log.Info("clients handed over", "took", time.Since(start))
	return err
}

// handoverPace is the longest pause between two clients that are handed over:
// fifty in a second are no storm, and a few need no window.
const handoverPace = 20 * time.Millisecond

// handOver ends waiting connections evenly until none is left or ctx ends.
func (f *Frontend) handOver(ctx context.Context, waiting int64) {
	if waiting == 0 {
		return
	}
	// A tenth of the window is kept for those that are slow to go.
	evenly := f.options.DrainWindow * 9 / 10 / time.Duration(waiting)
	pace := time.NewTicker(min(max(evenly, time.Microsecond), handoverPace))
	defer pace.Stop()
	for f.polls.Load() > 0 || f.sockets.count() > 0 {
		if !f.sockets.closeOne() {
			select {
			case f.handover <- struct{}{}:
			case <-ctx.Done():
				return
			case <-pace.C: // polls between two waits come round
				continue
			}
		}
		select {
		case <-pace.C:
		case <-ctx.Done():
			return
		}
	}
}

// shutdown waits for posts in progress as long as one may take.
func (f *Frontend) shutdown(ctx context.Context, server *http.Server) error {
	patience, cancel := context.WithTimeout(ctx, f.options.CommitWait+5*time.Second)
	defer cancel()
	ended := make(chan struct{})
	var helper sync.WaitGroup
	helper.Go(func() { // whoever still polls is ended without pace
		for {
			select {
			case f.handover <- struct{}{}:
			case <-ended:
				return
			}
		}
	})
	defer helper.Wait()
	defer close(ended)
	if err := server.Shutdown(patience); err != nil {
		return errors.Join(fmt.Errorf("stop serving clients: %w", err), server.Close())
	}
	return nil
}

// noise takes what net/http says: nearly always about connections that speak no
// protocol of ours, as scanners, garbage, broken TLS.
type noise struct{ *Frontend }

func (n noise) Enabled(context.Context, slog.Level) bool { return true }
func (n noise) WithAttrs([]slog.Attr) slog.Handler       { return n }
func (n noise) WithGroup(string) slog.Handler            { return n }
func (n noise) Handle(_ context.Context, r slog.Record) error {
	// Nobody comes in while accepting fails: no descriptors, mostly.
	if strings.HasPrefix(r.Message, "http: Accept error") {
		if n.quiet.may("accept") {
			n.log.Warn("connections cannot be accepted", "err", r.Message)
		}
		return nil
	}
	n.metrics.noise.Inc()
	n.log.Debug("connection without protocol", "err", r.Message)
	return nil
}

// host is the IP address in a network address.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}
