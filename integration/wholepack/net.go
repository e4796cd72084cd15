package wholepack

import (
	"context"
	"fmt"
	"net"
	"sync"
	"syscall"
	"time"
)

// The ends of links that are no nodes.
const (
	Agents    = "agents"
	Operators = "operators"
)

// Net is what nodes, agents and operators reach each other by. All links are whole
// at first. A link has two directions; each is named by who sends and who receives.
// Safe for concurrent use.
type Net struct {
	mu      sync.Mutex
	ways    map[way]weather
	conns   map[*conn]struct{}
	hosts   map[string]*host // by the address that they listen on
	changed chan struct{}    // closed and replaced when anything above is another
}

// way is one direction of a link.
type way struct{ from, to string }

// weather is what happens to bytes on a way.
type weather struct {
	silent bool          // they stay away until it is over; nothing is closed
	cut    bool          // nobody gets through, and is told so at once
	slow   time.Duration // each piece takes so long
}

// host is one life of a node, or the place of all agents or operators.
type host struct {
	name string
	dead bool // guarded by Net.mu
}

func newNet() *Net {
	return &Net{ways: map[way]weather{}, conns: map[*conn]struct{}{}, hosts: map[string]*host{}, changed: make(chan struct{})}
}

// Cut closes all connections between two ends and refuses new ones.
func (n *Net) Cut(a, b string) {
	n.both(a, b, func(w *weather) { w.cut = true })
}

// Silence holds back what either sends to the other, and closes nothing: what was
// sent arrives afterwards, if anybody still waits for it, as with TCP.
func (n *Net) Silence(a, b string) {
	n.both(a, b, func(w *weather) { w.silent = true })
}

// SilenceWay is Silence in one direction.
func (n *Net) SilenceWay(from, to string) {
	n.change(func() { n.set(way{from, to}, func(w *weather) { w.silent = true }) })
}

// Slow lets each piece that either sends take so long.
func (n *Net) Slow(a, b string, by time.Duration) {
	n.both(a, b, func(w *weather) { w.slow = by })
}

// Heal makes a link whole again.
func (n *Net) Heal(a, b string) {
	n.both(a, b, func(w *weather) { *w = weather{} })
}

// HealAll makes all links whole again.
func (n *Net) HealAll() {
	n.change(func() { clear(n.ways) })
}

func (n *Net) both(a, b string, edit func(*weather)) {
	n.change(func() {
		n.set(way{a, b}, edit)
		n.set(way{b, a}, edit)
	})
}

// set edits a way. The caller holds mu.
func (n *Net) set(on way, edit func(*weather)) {
	w := n.ways[on]
	edit(&w)
	n.ways[on] = w
}

// change edits under the lock, tells those who wait, and closes the connections that
// cannot live on.
func (n *Net) change(edit func()) {
	n.mu.Lock()
	edit()
	var over []*conn
	for c := range n.conns {
		if n.ends(c) {
			over = append(over, c)
		}
	}
	close(n.changed)
	n.changed = make(chan struct{})
	n.mu.Unlock()
	for _, c := range over {
		c.reset()
	}
}

// ends reports whether a connection has to be closed now. The caller holds mu.
func (n *Net) ends(c *conn) bool {
	out, in := n.ways[way{c.from.name, c.to.name}], n.ways[way{c.to.name, c.from.name}]
	c.broken = c.broken || out.cut || in.cut || c.from.dead || c.to.dead
	// Who hears nothing does not hear either that the other side is gone.
	return c.broken && (c.from.dead || !out.silent && !in.silent)
}

// settle notes that a host listens on these addresses.
func (n *Net) settle(h *host, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, address := range addresses {
		n.hosts[address] = h
	}
}

// kill ends all conversations of a host.
func (n *Net) kill(h *host) {
	n.change(func() { h.dead = true })
}

// dial connects from a host to an address that another listens on.
func (n *Net) dial(ctx context.Context, from *host, address string) (net.Conn, error) {
	n.mu.Lock()
	to := n.hosts[address]
	n.mu.Unlock()
	if to == nil {
		return nil, fmt.Errorf("dial %s: %w", address, syscall.ECONNREFUSED)
	}
	c := &conn{net: n, from: from, to: to, closed: make(chan struct{})}
	c.reading.over, c.writing.over = make(chan struct{}), make(chan struct{})
	for _, on := range []way{{from.name, to.name}, {to.name, from.name}} {
		if err := c.clear(on, ctx.Done()); err != nil {
			return nil, fmt.Errorf("dial %s: %w", to.name, err)
		}
	}
	var err error
	if c.Conn, err = (&net.Dialer{}).DialContext(ctx, "tcp", address); err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.conns[c] = struct{}{}
	over := n.ends(c) // it may have been cut meanwhile
	n.mu.Unlock()
	if over {
		c.reset()
	}
	return c, nil
}

// dialNode connects to a door of a node's present life. Who hears nothing of the
// node does not hear either that it does not run.
func (n *Net) dialNode(ctx context.Context, from *host, name string, address func() string) (net.Conn, error) {
	gone := &conn{net: n, from: from, to: &host{name: name}, closed: make(chan struct{})}
	for _, on := range []way{{from.name, name}, {name, from.name}} {
		if err := gone.clear(on, ctx.Done()); err != nil {
			return nil, fmt.Errorf("dial %s: %w", name, err)
		}
	}
	return n.dial(ctx, from, address())
}

// at returns what happens on a way, whether a connection is broken, and what is
// closed when either may be different.
func (n *Net) at(on way, c *conn) (w weather, broken bool, changed <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ways[on], c.broken || c.from.dead || c.to.dead, n.changed
}

// isDead reports whether a host was killed.
func (n *Net) isDead(h *host) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return h.dead
}
