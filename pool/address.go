package pool

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// whose is the key under which a context carries the agent that dials, so that
// agents may share a transport and yet come from addresses of their own.
type whose struct{}

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
	if a != nil && loopback(target) {
		dialer.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(a.address, 0))
		network = "tcp4"
	}
	begun := time.Now()
	conn, err := dialer.DialContext(ctx, network, target)
	if err != nil {
		if ctx.Err() == nil {
			p.count.dialErrors.Add(1)
		}
		return nil, err
	}
	p.connects.add(time.Since(begun))
	if a == nil {
		return conn, nil
	}
	a.connected(1)
	return &counted{Conn: conn, agent: a}, nil
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

// counted is a connection that tells its agent when it closes.
type counted struct {
	net.Conn
	agent  *agent
	closed atomic.Bool
}

func (c *counted) Close() error {
	if !c.closed.Swap(true) {
		c.agent.connected(-1)
	}
	return c.Conn.Close()
}
