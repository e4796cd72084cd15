package pool

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// whose is the key under which a context carries the agent that dials, so that
// agents may share a transport and yet come from addresses of their own.
type whose struct{}

// errAway means that an agent's host has no network at the moment.
var errAway = errors.New("simulated host has no network")

// address is the local address of agent n: the first one and those after it.
func address(first netip.Addr, n int) (netip.Addr, error) {
	bytes := first.As4()
	value := uint32(bytes[0])<<24 | uint32(bytes[1])<<16 | uint32(bytes[2])<<8 | uint32(bytes[3])
	value += uint32(n)
	made := netip.AddrFrom4([4]byte{byte(value >> 24), byte(value >> 16), byte(value >> 8), byte(value)})
	if !made.IsLoopback() {
		return made, fmt.Errorf("%w: address %v of client %d is not in 127.0.0.0/8", errOption, made, n)
	}
	return made, nil
}

// dial connects from the address of the agent that ctx belongs to, and keeps
// count of its connections.
func (p *Pool) dial(ctx context.Context, network, target string) (net.Conn, error) {
	a, _ := ctx.Value(whose{}).(*agent)
	target = p.options.Route(target)
	dialer := net.Dialer{Timeout: p.options.Wire.ConnectionTimeout}
	if a != nil && a.away.Load() {
		return nil, &net.OpError{Op: "dial", Net: network, Err: errAway}
	}
	if a != nil && loopback(target) {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.address, 0))
		network = "tcp4"
	}
	begun := time.Now()
	made, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		if ctx.Err() == nil {
			p.count.dialErrors.Add(1)
		}
		return nil, err
	}
	p.connects.add(time.Since(begun))
	if a == nil {
		return made, nil
	}
	c := &conn{Conn: made, agent: a, timing: timing{at: &p.posts}}
	switch a.manner {
	case slow:
		c.closed = make(chan struct{})
	case cut:
		c.budget = cutAfter()
	}
	if !a.holds(c) {
		return nil, errors.Join(&net.OpError{Op: "dial", Net: network, Err: errAway}, made.Close())
	}
	return c, nil
}

// loopback reports whether a dialled address is on this machine's loopback.
func loopback(target string) bool {
	host, _, err := net.SplitHostPort(target)
	if err != nil {
		return false
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Is4() && ip.IsLoopback()
}

// conn is a connection of an agent: as slow as its line, broken off where its agent
// breaks off, and known to its agent until it closes.
type conn struct {
	net.Conn
	agent  *agent
	timing timing
	budget int // bytes that may be written before it breaks; 0: any number

	once   sync.Once
	closed chan struct{} // made for slow agents only; closed by Close
}

func (c *conn) Close() error {
	c.once.Do(func() {
		c.agent.letGo(c)
		if c.closed != nil {
			close(c.closed)
		}
	})
	return c.Conn.Close()
}

func (c *conn) Read(b []byte) (int, error) {
	rate := c.agent.pool.options.Manners.ReadRate
	if c.agent.manner == slow && len(b) > rate {
		b = b[:rate]
	}
	n, err := c.Conn.Read(b)
	c.timing.came(b[:n])
	if c.agent.manner == slow {
		c.pause(time.Duration(n) * time.Second / time.Duration(rate))
	}
	return n, err
}

// errCut is what an agent gets whose connection the pool broke on purpose.
var errCut = errors.New("connection broken on purpose")

func (c *conn) Write(b []byte) (int, error) {
	if c.agent.manner == slow {
		c.pause(c.agent.pool.options.Manners.Delay)
	}
	c.timing.goes(b)
	if c.budget == 0 {
		return c.Conn.Write(b)
	}
	if c.budget -= len(b); c.budget > 0 {
		return c.Conn.Write(b)
	}
	c.agent.pool.count.cuts.Add(1)
	n, err := c.Conn.Write(b[:len(b)/2])
	return n, errors.Join(errCut, err, c.Close())
}

// pause waits, or less when the connection closes.
func (c *conn) pause(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-c.closed:
	}
}
