package wholepack

import (
	"slices"
	"strings"

	"raptorpack/cluster"
)

// members is what one life of a node is told of who is there, instead of by gossip:
// the newest life of every other node, alive or not, but for whom it is made not to
// see.
type members struct {
	pack    *Pack
	self    string
	changed chan struct{} // one slot: a ring while one is pending says nothing new
}

// Members implements node.Members.
func (m *members) Members() []cluster.Member {
	p := m.pack
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []cluster.Member
	for name, one := range p.listed {
		if name != m.self && !p.hidden[way{m.self, name}] {
			all = append(all, one)
		}
	}
	slices.SortFunc(all, func(a, b cluster.Member) int { return strings.Compare(a.Incarnation, b.Incarnation) })
	return all
}

// Changed implements node.Members.
func (m *members) Changed() <-chan struct{} { return m.changed }

// enlist tells every node of a new life of one.
func (p *Pack) enlist(one cluster.Member) {
	p.mu.Lock()
	p.listed[one.Node] = one
	p.mu.Unlock()
	p.ring()
}

// Hide takes a node out of what another is told of the pack; Show puts it back.
func (p *Pack) Hide(from, node *Node) { p.see(from, node, true) }

// Show undoes Hide.
func (p *Pack) Show(from, node *Node) { p.see(from, node, false) }

func (p *Pack) see(from, node *Node, hidden bool) {
	p.mu.Lock()
	p.hidden[way{from.Name, node.Name}] = hidden
	p.mu.Unlock()
	p.ring()
}

// ring has every node look at its members.
func (p *Pack) ring() {
	for _, n := range p.Nodes {
		if l, _ := n.present(); l != nil {
			select {
			case l.bus.changed <- struct{}{}:
			default:
			}
		}
	}
}
