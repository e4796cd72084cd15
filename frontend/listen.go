package frontend

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/pires/go-proxyproto"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"
)

// ListenOptions describe the TCP door for clients.
type ListenOptions struct {
	Address string // host:port

	// PerSecond bounds new connections; the rest are closed at once, which
	// costs next to nothing. Zero is 1000, less than zero no limit.
	PerSecond float64

	// MaxConnections bounds open connections; zero is 200,000.
	MaxConnections int64

	// ProxyProtocol expects a PROXY header (v1 or v2) from TrustedProxies, or
	// from everybody when that is empty.
	ProxyProtocol  bool
	TrustedProxies []netip.Prefix

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default()
}

// Listen opens the door. Give the listener to Options.
func Listen(ctx context.Context, o ListenOptions) (net.Listener, error) {
	orDefault(&o.PerSecond, 1000)
	orDefault(&o.MaxConnections, 200_000)
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	config := net.ListenConfig{KeepAlive: 5 * time.Minute}
	inner, err := config.Listen(ctx, "tcp", o.Address)
	if err != nil {
		return nil, fmt.Errorf("listen for clients: %w", err)
	}
	var l net.Listener = newDoor(inner, o)
	if o.ProxyProtocol {
		l = &proxyproto.Listener{Listener: l, ConnPolicy: o.policy, ReadHeaderTimeout: 10 * time.Second, ReadBufferSize: 512}
	}
	return l, nil
}

// policy demands the header of trusted proxies. Others may connect without one,
// for health checks and clients on the inner side; theirs is refused.
func (o *ListenOptions) policy(c proxyproto.ConnPolicyOptions) (proxyproto.Policy, error) {
	if len(o.TrustedProxies) == 0 {
		return proxyproto.REQUIRE, nil
	}
	a, err := netip.ParseAddrPort(c.Upstream.String())
	if err != nil {
		return proxyproto.REJECT, nil
	}
	for _, p := range o.TrustedProxies {
		if p.Contains(a.Addr().Unmap()) {
			return proxyproto.REQUIRE, nil
		}
	}
	return proxyproto.REJECT, nil
}

// door sheds connections at accept.
type door struct {
	net.Listener
	limiter *rate.Limiter // nil: no limit
	max     int64
	open    atomic.Int64
	taken   prometheus.Counter
	shed    prometheus.Counter
	logger  *slog.Logger

	// The two reasons to shed, each told once a minute.
	full, hurried rate.Sometimes
}

func newDoor(inner net.Listener, o ListenOptions) *door {
	accepts := newAccepts(o.Registerer)
	d := &door{
		Listener: inner, max: o.MaxConnections,
		taken: accepts.WithLabelValues("taken"), shed: accepts.WithLabelValues("shed"),
		logger: o.Logger, full: rate.Sometimes{Interval: time.Minute}, hurried: rate.Sometimes{Interval: time.Minute},
	}
	if o.PerSecond > 0 {
		d.limiter = rate.NewLimiter(rate.Limit(o.PerSecond), int(max(1, 2*o.PerSecond)))
	}
	return d
}

// Accept implements net.Listener.
func (d *door) Accept() (net.Conn, error) {
	for {
		conn, err := d.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if d.admits(conn) {
			d.open.Add(1)
			d.taken.Inc()
			return &guest{Conn: conn, door: d}, nil
		}
		d.shed.Inc()
		conn.Close() // nobody is served on it
	}
}

// admits decides about a connection; of those that it turns away it tells now
// and then, because their clients look connected by the socket they have.
func (d *door) admits(conn net.Conn) bool {
	if open := d.open.Load(); open >= d.max {
		d.full.Do(func() {
			d.logger.Warn("connections are turned away: too many are open; raise the limit on open files or add a node",
				"open", open, "limit", d.max, "address", conn.RemoteAddr().String())
		})
		return false
	}
	if d.limiter == nil || d.limiter.Allow() {
		return true
	}
	d.hurried.Do(func() {
		d.logger.Warn("connections are turned away: too many come at once (Frontend.resources.connections_per_second)",
			"per_second", float64(d.limiter.Limit()), "address", conn.RemoteAddr().String())
	})
	return false
}

// guest is an open connection that counts.
type guest struct {
	net.Conn
	door *door
	once sync.Once
}

// SyscallConn implements syscall.Conn: it is how the connection may rest.
func (g *guest) SyscallConn() (syscall.RawConn, error) {
	inner, ok := g.Conn.(syscall.Conn)
	if !ok {
		return nil, fmt.Errorf("connection without a descriptor: %w", errors.ErrUnsupported)
	}
	return inner.SyscallConn()
}

// Close implements net.Conn.
func (g *guest) Close() error {
	g.once.Do(func() { g.door.open.Add(-1) })
	err := g.Conn.Close()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
