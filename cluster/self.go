package cluster

import (
	"context"
	"time"

	"github.com/hashicorp/memberlist"
)

// broadcastLimit is how long a change of load waits for its broadcast, which
// happens anyway.
const broadcastLimit = 500 * time.Millisecond

// self is what memberlist asks of this node. Nothing but membership is gossiped.
type self struct{ c *Cluster }

// NodeMeta implements memberlist.Delegate.
func (s self) NodeMeta(int) []byte {
	text, err := s.c.s.meta(int(s.c.load.Load())).encode()
	if err != nil {
		s.c.journal.trouble(troubleOther, "meta", "this node cannot say what it is", "err", err) // New has tried the longest
	}
	return text
}

// NotifyMsg implements memberlist.Delegate: no node of ours sends any.
func (s self) NotifyMsg(b []byte) {
	s.c.journal.trouble(troubleForeign, "message", "gossip message of a kind that this version does not know", "bytes", len(b))
}

// GetBroadcasts implements memberlist.Delegate.
func (self) GetBroadcasts(int, int) [][]byte { return nil }

// LocalState implements memberlist.Delegate.
func (self) LocalState(bool) []byte { return nil }

// MergeRemoteState implements memberlist.Delegate: no node of ours sends any.
func (s self) MergeRemoteState(b []byte, _ bool) { s.NotifyMsg(b) }

func (c *Cluster) clients() int64 {
	if c.s.Clients == nil {
		return 0
	}
	return int64(min(max(c.s.Clients(), 0), maxClients))
}

// tellLoad tells the others how many clients are connected here when that has
// changed by more than a sixteenth since it was last told.
func (c *Cluster) tellLoad(ctx context.Context, list *memberlist.Memberlist) {
	tick := time.NewTicker(c.pace.tell)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		now, told := c.clients(), c.load.Load()
		if max(now-told, told-now)*16 <= told {
			continue
		}
		c.load.Store(now)
		_ = list.UpdateNode(broadcastLimit) // its one error is that the broadcast takes longer
	}
}

// report logs who came and who went. It looks at the table instead of hearing
// each event, so that a slow log never holds up gossip; who comes and goes
// between two looks is only counted.
func (c *Cluster) report(ctx context.Context) {
	known, refused := map[string]Member{}, map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.table.look:
		}
		now := map[string]Member{}
		for _, m := range c.table.members() {
			now[m.Incarnation] = m
			if _, was := known[m.Incarnation]; !was {
				c.s.Logger.Info("node joined", "node", m.Node, "incarnation", m.Incarnation, "bus", m.Bus, "candidate", m.Candidate, "version", m.Version)
			}
		}
		for name, m := range known {
			if _, is := now[name]; !is {
				c.s.Logger.Info("node gone", "node", m.Node, "incarnation", name)
			}
		}
		known, refused = now, c.reportRefused(refused)
	}
}

func (c *Cluster) reportRefused(known map[string]bool) map[string]bool {
	now := map[string]bool{}
	for name, err := range c.table.refusals() {
		now[name] = true
		if !known[name] {
			c.s.Logger.Warn("node left out of the pack", "incarnation", name, "err", err)
		}
	}
	return now
}
