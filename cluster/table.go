package cluster

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"sync"

	"github.com/hashicorp/memberlist"
)

// seen is a node that memberlist takes for alive, under one gossip name.
type seen struct {
	member  Member // but for its names empty if refused
	address netip.AddrPort
	number  uint64 // of the incarnation
	refused error  // why it is left out; nil: it is not
}

// table keeps who seems alive. memberlist calls the Notify methods one at a time,
// under its own lock. Safe for concurrent use.
type table struct {
	self    string // this node's gossip name
	metrics *metrics

	// Each has one slot and rings after the table changed; full: it rings already.
	changed chan struct{} // of Members, for the user
	look    chan struct{} // anything, for the log
	lost    chan struct{} // somebody has gone, for whoever joins

	mu      sync.Mutex
	closed  bool // nobody is known any more
	nodes   map[string]*seen
	newest  map[string]uint64 // the highest number seen of each node in nodes, and of this node
	visible []Member          // never written to: replaced
}

func newTable(s *settings) *table {
	return &table{
		self: s.Incarnation, nodes: map[string]*seen{}, newest: map[string]uint64{s.Node.String(): s.number},
		changed: make(chan struct{}, 1), look: make(chan struct{}, 1), lost: make(chan struct{}, 1),
	}
}

// NotifyJoin implements memberlist.EventDelegate.
func (t *table) NotifyJoin(n *memberlist.Node) { t.set(n) }

// NotifyUpdate implements memberlist.EventDelegate.
func (t *table) NotifyUpdate(n *memberlist.Node) { t.set(n) }

// NotifyLeave implements memberlist.EventDelegate: n is dead or said farewell;
// memberlist does not tell which.
func (t *table) NotifyLeave(n *memberlist.Node) {
	if n.Name == t.self {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	gone, known := t.nodes[n.Name]
	if t.closed || !known {
		return
	}
	delete(t.nodes, n.Name)
	if gone.refused == nil {
		t.metrics.gone.Inc()
	}
	t.forget(gone.member.Node)
	t.refresh()
	ring(t.lost)
}

func (t *table) set(n *memberlist.Node) {
	if n.Name == t.self {
		return
	}
	s := read(n)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if s.refused != nil {
		t.metrics.refused.Inc()
	} else {
		t.newest[s.member.Node] = max(t.newest[s.member.Node], s.number)
	}
	t.nodes[n.Name] = s
	t.refresh()
}

// read makes sense of what a node tells, which need not be one of ours.
func read(n *memberlist.Node) *seen {
	s := &seen{member: Member{Incarnation: n.Name}}
	node, number, err := parseIncarnation(n.Name)
	if err != nil {
		s.refused = fmt.Errorf("%w: %w", errMeta, err)
		return s
	}
	s.member.Node, s.number = node.String(), number
	ip, ok := netip.AddrFromSlice(n.Addr)
	if !ok {
		s.refused = fmt.Errorf("%w: its address has %d bytes", errMeta, len(n.Addr))
		return s
	}
	s.address = netip.AddrPortFrom(ip.Unmap(), n.Port)
	m, err := decodeMeta(n.Meta)
	if err != nil {
		s.refused = err
		return s
	}
	s.member.Candidate, s.member.Version, s.member.Clients = m.Candidate, m.Version, m.Clients
	if m.BusPort != 0 {
		s.member.Bus = netip.AddrPortFrom(ip.Unmap(), uint16(m.BusPort)).String()
	}
	return s
}

// forget drops what was known of a node when its last incarnation has gone. Till
// then the number stays, so that an older run does not show up once more.
func (t *table) forget(node string) {
	own, _, _ := parseIncarnation(t.self) // was checked
	if node == own.String() {
		return
	}
	for _, s := range t.nodes {
		if s.member.Node == node {
			return
		}
	}
	delete(t.newest, node)
}

// refresh makes the list anew, with the lock held. Of one node only the newest
// run is shown: a name has one holder, so whatever gossip still says of older
// runs, they are over.
func (t *table) refresh() {
	var list []Member
	for _, s := range t.nodes {
		if s.refused == nil && s.number == t.newest[s.member.Node] {
			list = append(list, s.member)
		}
	}
	slices.SortFunc(list, func(a, b Member) int { return cmp.Compare(a.Incarnation, b.Incarnation) })
	ring(t.look)
	if !slices.Equal(list, t.visible) {
		t.visible = list
		ring(t.changed)
	}
}

// members returns the list, which must not be written to.
func (t *table) members() []Member {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.visible
}

// refusals returns who is left out, and why.
func (t *table) refusals() map[string]error {
	t.mu.Lock()
	defer t.mu.Unlock()
	out := map[string]error{}
	for name, s := range t.nodes {
		if s.refused != nil {
			out[name] = s.refused
		}
	}
	return out
}

// at reports whether some node with this gossip address seems alive.
func (t *table) at(address netip.AddrPort) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.nodes {
		if s.address == address {
			return true
		}
	}
	return false
}

// close empties the table for good: what memberlist still says is of no use.
func (t *table) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	clear(t.nodes)
	t.refresh()
}

func ring(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}
