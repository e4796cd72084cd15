package flows

import (
	"fmt"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// killLife is how long an order to exit waits for the connection that it is for to be
// known as old enough.
const killLife = 10 * time.Second

// kill is an order to exit, by the entry that gave it. A connection that began after
// the entry is not told: the client has been away since, or is one that was told and
// has come back.
type kill struct {
	owner owner
	index uint64
}

// PlanKill orders a client to exit. Nothing is kept of it: only a connection that is
// open when the order comes hands it out.
func PlanKill(org ids.Org, client ids.Client) (*buspb.Mutation, error) {
	if client == ids.Server || client.IsZero() {
		return nil, fmt.Errorf("kill client %s: it is no agent: %w", client, ErrInvalid)
	}
	return mutation(org, "", &buspb.FlowChange{Change: &buspb.FlowChange_Kill{Kill: &buspb.FlowKill{Client: client.String()}}})
}

// kill notes the order for the connections that are here.
func (r *Room) kill(k kill) {
	s := r.shard(k.owner)
	s.mu.Lock()
	var wakes []chan struct{}
	if v := s.visits[k.owner]; v != nil && len(v.attachments) > 0 {
		v.kill, v.killAt = k.index, time.Now()
		wakes = v.wakes()
	}
	s.mu.Unlock()
	signal(wakes)
	if len(wakes) > 0 && r.o.Wake != nil {
		r.o.Wake(k.owner.org, k.owner.client)
	}
}

// kill hands the order out, once.
func (d *delivery) kill() {
	if d.v.kill == 0 || d.v.kill <= d.a.since || d.now.Sub(d.v.killAt) > killLife {
		return
	}
	d.kills = true
	if d.real {
		d.v.kill = 0
	}
}

func killMessage() *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: "F.Kill", Urgent: true, KillKillKill: &wirepb.Cancel{}}
}
