package flows_test

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// agent is a client of a random pack as the protocol has them: one reader at a
// time, one post in flight, its messages in order, each sent until it is answered.
type agent struct {
	id      ids.Client
	polls   bool // over HTTP: each answer ends the connection
	forgets bool // like a stock client it may be restarted and know nothing, but has its buffer

	at    *flows.Attachment
	on    *member
	stale []stale // connections that it has left and their nodes have not noticed

	known  map[ids.Flow]*work
	done   map[ids.Flow]*account
	urgent []*wirepb.VeloMessage
	ring   []*wirepb.VeloMessage
	hung   []hung
	table  uint64
}

type stale struct {
	at *flows.Attachment
	on *member
}

// hung is a post that a node will come to much later.
type hung struct {
	on       *member
	messages []*wirepb.VeloMessage
}

// work is a flow that the client is at.
type work struct {
	key  flows.Key
	todo []*wirepb.VeloMessage
	over bool
}

// account is what a client knows to have been taken of a flow, ever.
type account struct {
	key    flows.Key
	taken  bool // some message of it was acknowledged
	rows   map[string]*filestore.Intervals
	at     map[string]map[string]*filestore.Intervals // by incarnation
	upload string                                     // its file; acknowledged when its end was
	filed  bool
	ended  bool // it ended well, and that was acknowledged
}

func newAgent(n int, r *rand.Rand) *agent {
	return &agent{
		id: mustClient(fmt.Sprintf("C.%016x", 0xa0+n)), polls: r.IntN(2) == 0, forgets: n%3 == 2,
		known: map[ids.Flow]*work{}, done: map[ids.Flow]*account{},
	}
}

func (a *agent) account(key flows.Key) *account {
	c := a.done[key.Flow]
	if c == nil {
		c = &account{key: key, rows: map[string]*filestore.Intervals{}, at: map[string]map[string]*filestore.Intervals{}}
		a.done[key.Flow] = c
	}
	return c
}

// obey does what a node says. The error is a broken promise.
func (a *agent) obey(told []*wirepb.VeloMessage, r *rand.Rand) error {
	for _, m := range told {
		switch {
		case m.FlowRequest != nil:
			if err := a.begin(mustFlow(m.SessionId), r); err != nil {
				return err
			}
		case m.FlowStatsRequest != nil:
			for _, id := range m.FlowStatsRequest.FlowId {
				a.urgent = append(a.urgent, a.answer(id))
			}
		case m.Cancel != nil:
			if w := a.known[mustFlow(m.SessionId)]; w != nil && !w.over {
				w.over, w.todo = true, nil
				a.ring = append(a.ring, complete(w.key, status(wirepb.VeloStatus_GENERIC_ERROR, 99, "Cancelled")))
			}
		case m.UpdateEventTable != nil:
			if m.UpdateEventTable.Version <= a.table {
				return fmt.Errorf("%s runs table %d and is sent %d", a.id, a.table, m.UpdateEventTable.Version)
			}
			a.table = m.UpdateEventTable.Version
		}
	}
	return nil
}

func (a *agent) answer(id string) *wirepb.VeloMessage {
	flow, err := ids.ParseFlow(id)
	if w := a.known[flow]; err == nil && w != nil {
		return progress(w.key, status(wirepb.VeloStatus_PROGRESS, 0, ""))
	}
	return &wirepb.VeloMessage{SessionId: id, FlowStats: unknown(flows.Key{}).FlowStats}
}

// begin runs a collection. Twice at once, or again after a node took something of
// it, is what must never be asked for.
func (a *agent) begin(flow ids.Flow, r *rand.Rand) error {
	key := flows.Key{Client: a.id, Flow: flow}
	account := a.account(key)
	switch {
	case a.known[flow] != nil:
		return fmt.Errorf("%s is given flow %s while it has it", a.id, flow)
	case account.taken:
		return fmt.Errorf("%s is given flow %s again after a node took a message of it", a.id, flow)
	}
	w := &work{key: key}
	total := 0
	for _, token := range []string{procs, mounts} {
		first := 0
		for range r.IntN(4) {
			n := 1 + r.IntN(5)
			w.todo = append(w.todo, rows(key, token, first, n))
			first += n
		}
		total += first
	}
	w.todo = append(w.todo, logLines(key, 0, "begun", "ended"))
	files := int64(r.IntN(2))
	if files > 0 {
		account.upload = strings.Repeat(flow.String(), 2)
		half := len(account.upload) / 2
		w.todo = append(w.todo, transaction(key, 0), buffer(key, 0, 0, account.upload[:half]),
			buffer(key, 0, int64(half), account.upload[half:]), eof(key, 0, int64(len(account.upload))))
	}
	end := status(wirepb.VeloStatus_OK, int64(total), "")
	end.UploadedFiles = files
	if r.IntN(8) == 0 {
		end.Status, end.ErrorMessage = wirepb.VeloStatus_GENERIC_ERROR, "it broke"
	}
	w.todo = append(w.todo, complete(key, end))
	a.known[flow] = w
	return nil
}

// work moves some of what a flow makes into the buffer.
func (a *agent) work(r *rand.Rand) {
	for _, w := range a.known {
		n := min(len(w.todo), 1+r.IntN(4))
		a.ring = append(a.ring, w.todo[:n]...)
		w.todo = w.todo[n:]
		w.over = w.over || len(w.todo) == 0
	}
}

// restart is that of a stock client: what is in the buffer stays, and no more.
func (a *agent) restart() {
	a.known, a.urgent = map[ids.Flow]*work{}, nil
	a.leave(true)
}

// leave ends the connection; the node hears of it or does not.
func (a *agent) leave(noticed bool) {
	if a.at == nil {
		return
	}
	if noticed {
		a.at.Close()
	} else {
		a.stale = append(a.stale, stale{a.at, a.on})
	}
	a.at, a.on = nil, nil
}

// batch is what the next post holds: urgent messages overtake the others.
func (a *agent) batch(r *rand.Rand) (messages []*wirepb.VeloMessage, urgent bool) {
	from := a.ring
	if urgent = len(a.urgent) > 0; urgent {
		from = a.urgent
	}
	return from[:min(len(from), 1+r.IntN(5))], urgent
}

func (a *agent) drop(n int, urgent bool) {
	if urgent {
		a.urgent = a.urgent[n:]
	} else {
		a.ring = a.ring[n:]
	}
}

// acknowledged notes what a node has promised to keep.
func (a *agent) acknowledged(m *member, messages []*wirepb.VeloMessage) {
	for _, msg := range messages {
		flow, err := ids.ParseFlow(msg.SessionId)
		if err != nil || a.done[flow] == nil {
			continue // an answer about a flow that it never had
		}
		c := a.done[flow]
		if s := msg.FlowStats; s != nil && s.QueryStatus[0].Status == wirepb.VeloStatus_UNKNOWN_FLOW {
			continue
		}
		c.taken = true
		if v := msg.VqlResponse; v != nil {
			c.have(m.run, v.Query.Name, int64(v.QueryStartRow), int64(v.QueryStartRow+v.TotalRows))
		}
		c.filed = c.filed || msg.GetFileBuffer().GetEof()
		if s := msg.FlowStats; s != nil && s.FlowComplete && s.QueryStatus[0].Status == wirepb.VeloStatus_OK {
			c.ended = true
		}
	}
}

func (c *account) have(run, token string, from, to int64) {
	if c.at[run] == nil {
		c.at[run] = map[string]*filestore.Intervals{}
	}
	for _, by := range []map[string]*filestore.Intervals{c.rows, c.at[run]} {
		if by[token] == nil {
			by[token] = &filestore.Intervals{}
		}
		by[token].Add(from, to)
	}
}

func cloned(messages []*wirepb.VeloMessage) []*wirepb.VeloMessage {
	out := make([]*wirepb.VeloMessage, len(messages))
	for i, m := range messages {
		out[i] = proto.CloneOf(m)
	}
	return out
}
