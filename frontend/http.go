package frontend

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/wire"
)

const (
	writeWait = 30 * time.Second

	// deadlineStep is how finely the deadline of a body is kept.
	deadlineStep = time.Second

	// What a refused client still sends is taken so long, and so far: beyond
	// the largest post of a client with customary settings.
	lingerTime  = 2 * time.Second
	lingerBytes = 8 << 20
)

func (f *Frontend) routes() http.Handler {
	mux := http.NewServeMux()
	base := f.options.BasePath + "/"
	mux.HandleFunc(base+wire.PathServerPEM, f.serveServerPEM)
	for _, path := range []string{wire.PathControl, wire.PathSendMessages} {
		mux.HandleFunc(base+path, f.serveControl)
	}
	for _, path := range []string{wire.PathReader, wire.PathReceiveMessages} {
		mux.HandleFunc(base+path, f.serveReader)
	}
	mux.HandleFunc("GET "+base+"healthz", f.serveHealth)
	if f.options.Public != nil {
		mux.HandleFunc("GET "+base+"public/{name}", f.servePublic)
	}
	return f.guarded(mux)
}

// guarded counts and tells of panics. The client sees a broken connection, and
// keeps what it has.
func (f *Frontend) guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			fault := recover()
			if fault == nil {
				return
			}
			if fault != http.ErrAbortHandler {
				f.panicked(r.URL.Path, fault)
			}
			panic(http.ErrAbortHandler)
		}()
		next.ServeHTTP(w, r)
	})
}

func (f *Frontend) panicked(route string, fault any) {
	f.metrics.panics.Inc()
	if f.quiet.may("panic") {
		f.log.Error("panic while serving a client", "route", route, "err", fault, "stack", string(debug.Stack()))
	}
}

// header sets what all answers have. Buffering proxies would hold polls back.
func header(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	h.Set("X-Accel-Buffering", "no")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
}

// write sends an answer that has no packet.
func (f *Frontend) write(w http.ResponseWriter, r *http.Request, route string, a answer) {
	f.account(route, f.address(r), a)
	f.pace(r.Context(), a)
	header(w)
	if f.draining.Load() {
		w.Header().Set("Connection", "close")
	}
	text := ""
	if a.text != "" {
		text = a.text + "\n"
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	if a.code == http.StatusOK || r.ProtoMajor != 1 || r.Body == http.NoBody {
		w.WriteHeader(a.code)
		io.WriteString(w, text) // the client has gone: nobody to tell
		return
	}
	control := http.NewResponseController(w)
	// Without deadlines (a wrapped writer) the server's own limits hold. With
	// them, the server's own reading of what is left has an end too.
	_ = control.SetReadDeadline(time.Now().Add(lingerTime))
	w.WriteHeader(a.code)
	io.WriteString(w, text) // as above
	_ = control.Flush()     // as above
	// A connection closed while its client still sends is reset, and the reset
	// overtakes the answer.
	_, _ = io.CopyN(io.Discard, r.Body, lingerBytes) // an end, or enough, or gone
}

func (f *Frontend) serveServerPEM(w http.ResponseWriter, r *http.Request) {
	switch {
	case f.draining.Load():
		f.write(w, r, wire.PathServerPEM, later("draining", nil))
	case wire.IsUpgrade(r):
		f.upgrade(w, r, wire.PathServerPEM, f.serverPEMSocket)
	case r.Method != http.MethodGet && r.Method != http.MethodHead:
		f.write(w, r, wire.PathServerPEM, answer{code: http.StatusMethodNotAllowed})
	default:
		f.account(wire.PathServerPEM, "", ok)
		header(w)
		w.Write(f.options.Identity.PEM()) // the client has gone: nobody to tell
	}
}

func (f *Frontend) serveHealth(w http.ResponseWriter, _ *http.Request) {
	header(w)
	err := f.Ready()
	if err != nil {
		w.WriteHeader(http.StatusServiceUnavailable)
		io.WriteString(w, err.Error()+"\n") // as above
		return
	}
	io.WriteString(w, "ok\n") // as above
}

var errDraining = errors.New("draining")

// Ready says whether clients should come here, with the reason if not.
func (f *Frontend) Ready() error {
	if f.draining.Load() {
		return errDraining
	}
	if f.options.Ready != nil {
		return f.options.Ready()
	}
	return nil
}

// gate answers what is neither a post nor a WebSocket for this route, and
// everything while draining. It reports whether to go on with a post.
func (f *Frontend) gate(w http.ResponseWriter, r *http.Request, route string, socket func(*connection) conversation) bool {
	switch {
	case f.draining.Load():
		f.write(w, r, route, later("draining", nil))
	case wire.IsUpgrade(r):
		f.upgrade(w, r, route, socket)
	case r.Method != http.MethodPost:
		f.write(w, r, route, answer{code: http.StatusMethodNotAllowed})
	default:
		return true
	}
	return false
}

func (f *Frontend) serveControl(w http.ResponseWriter, r *http.Request) {
	if !f.gate(w, r, wire.PathControl, f.controlSocket) {
		return
	}
	address := f.address(r)
	c := claim{size: r.ContentLength, address: address, source: f.source(address), urgent: r.Header.Get(wire.HeaderPriority) == "urgent"}
	body, t, err := f.readBody(w, r, c)
	if err != nil {
		f.write(w, r, wire.PathControl, judge(err))
		return
	}
	defer t.close()
	a, _ := f.control(r.Context(), body, t)
	t.close() // before the answer is paced
	f.write(w, r, wire.PathControl, a)
}

// readBody admits and reads the body of a post, which may not trickle in.
func (f *Frontend) readBody(w http.ResponseWriter, r *http.Request, c claim) ([]byte, *ticket, error) {
	control := http.NewResponseController(w)
	body, t, err := f.admission.read(r.Context(), &pacedBody{Reader: r.Body, control: control, pace: wire.NewPace(time.Now())}, c)
	if err != nil {
		return nil, nil, err
	}
	// Without deadlines (a wrapped writer) the server's own limits hold.
	_ = control.SetReadDeadline(time.Time{})
	return body, t, nil
}

// pacedBody is a body that has to keep coming.
type pacedBody struct {
	io.Reader
	control *http.ResponseController
	pace    wire.Pace
	set     time.Time
}

// Read implements io.Reader.
func (b *pacedBody) Read(p []byte) (int, error) {
	if deadline := b.pace.Deadline(time.Now()); deadline.Sub(b.set).Abs() > deadlineStep {
		// Without deadlines (a wrapped writer) the server's own limits hold.
		_ = b.control.SetReadDeadline(deadline)
		b.set = deadline
	}
	n, err := b.Reader.Read(p)
	b.pace.Took(n, time.Now())
	return n, err
}

// address is the client's IP address, as the trusted proxy in front tells it.
func (f *Frontend) address(r *http.Request) string {
	peer := host(r.RemoteAddr)
	if f.options.ProxyHeader == "" || !f.trusted(peer) {
		return peer
	}
	// Each proxy appends whom it talked to: the nearest of them that is not
	// ours counts, and what stands before may be anybody's claim.
	hops := strings.Split(strings.Join(r.Header.Values(f.options.ProxyHeader), ","), ",")
	for _, hop := range slices.Backward(hops) {
		hop = host(strings.TrimSpace(hop))
		if _, err := netip.ParseAddr(hop); err != nil {
			return peer
		}
		peer = hop
		if len(f.options.TrustedProxies) == 0 || !f.trusted(hop) {
			return hop
		}
	}
	return peer
}

func (f *Frontend) trusted(address string) bool {
	if len(f.options.TrustedProxies) == 0 {
		return true
	}
	a, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(f.options.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(a.Unmap()) })
}

// seal seals jobs for a peer. Jobs that were taken are in hand: a busy
// private key is waited for, and meanwhile is called again and again.
func (f *Frontend) seal(ctx context.Context, d wire.Delivery, meanwhile func() error) ([]byte, error) {
	key, err := f.options.Keys.Key(ctx, d.Org, d.Client)
	if err != nil {
		return nil, err
	}
	d.Key = key
	for {
		body, err := f.sealer.Seal(ctx, d)
		if !errors.Is(err, wire.ErrBusy) {
			return body, err
		}
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
		if err := meanwhile(); err != nil {
			return nil, err
		}
	}
}
