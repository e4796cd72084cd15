package flows_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

func contextOf(t *testing.T) (context.Context, context.CancelFunc) {
	t.Helper()
	return context.WithCancel(t.Context())
}

// A client sends its packets in any order, any number of times, through two
// nodes that fail, tear and restart. Whatever happens: stored rows are rows the
// client made, at their place; the flow is complete if and only if every row is
// stored and told; and once all packets got through, it is complete with each
// row once, and all nodes have the same state.
func TestAnyResendEndsWithEachRowOnce(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		m := newModel(t, r)
		steps := rapid.IntRange(1, 40).Draw(r, "steps")
		for range steps {
			m.step(r)
			m.check(r)
		}
		m.finish(r)
	})
}

type model struct {
	w       *world
	nodes   []*node
	key     flows.Key
	packets [][]*wirepb.VeloMessage
	acked   []bool
	total   int
	upload  string
}

func newModel(t *testing.T, r *rapid.T) *model {
	m := &model{w: newWorld(t)}
	m.nodes = []*node{m.w.node(), m.w.node()}
	m.key = m.w.start()
	for range rapid.IntRange(0, 6).Draw(r, "batches") {
		n := rapid.IntRange(1, 5).Draw(r, "rows")
		m.packets = append(m.packets, []*wirepb.VeloMessage{rows(m.key, procs, m.total, n)})
		m.total += n
	}
	files := int64(0)
	if rapid.Bool().Draw(r, "with upload") {
		files = 1
		m.upload = "0123456789"
		m.packets = append(m.packets, []*wirepb.VeloMessage{buffer(m.key, 0, 0, "01234")},
			[]*wirepb.VeloMessage{buffer(m.key, 0, 5, "56789"), eof(m.key, 0, 10)})
	}
	s := status(wirepb.VeloStatus_OK, int64(m.total), "")
	s.UploadedFiles = files
	m.packets = append(m.packets, []*wirepb.VeloMessage{complete(m.key, s)})
	m.acked = make([]bool, len(m.packets))
	return m
}

func (m *model) step(r *rapid.T) {
	n := m.nodes[rapid.IntRange(0, 1).Draw(r, "node")]
	switch rapid.SampledFrom([]string{"send", "send", "send", "several", "fail", "tear", "facts", "restart", "unknown", "expire"}).Draw(r, "step") {
	case "send":
		m.send(r, n, rapid.IntRange(0, len(m.packets)-1).Draw(r, "packet"))
	case "several":
		m.send(r, n, rapid.SliceOfN(rapid.IntRange(0, len(m.packets)-1), 1, 4).Draw(r, "packets")...)
	case "fail":
		n.committer.Before = failing(rapid.IntRange(0, 2).Draw(r, "failures"))
	case "tear":
		left := rapid.IntRange(0, 2).Draw(r, "tears")
		n.committer.Torn = func(*filestore.Commit) error {
			if left--; left >= 0 {
				return flowstest.ErrInjected
			}
			return nil
		}
	case "facts":
		m.facts(r)
	case "restart":
		m.restart(r, rapid.IntRange(0, 1).Draw(r, "which"))
	case "unknown":
		_ = n.try(unknown(m.key)) // a stray answer; the real end beats it
	case "expire":
		if err := m.w.ledger.Propose(body(expire(m.key))); err != nil {
			r.Fatal(err)
		}
	}
}

func (m *model) send(r *rapid.T, n *node, which ...int) bool {
	var all []*wirepb.VeloMessage
	for _, i := range which {
		for _, msg := range m.packets[i] {
			all = append(all, proto.CloneOf(msg)) // messages are given away
		}
	}
	if n.try(all...) != nil {
		return false
	}
	for _, i := range which {
		m.acked[i] = true
	}
	return true
}

func (m *model) facts(r *rapid.T) {
	if err := m.w.ledger.Deliver(); err != nil {
		r.Fatal(err)
	}
}

// restart kills a node: its memory is gone, its files and outbox are not. The
// master seals it and reads its coverage.
func (m *model) restart(r *rapid.T, i int) {
	old := m.nodes[i]
	m.w.ledger.Leave(old.Table, old.Events)
	m.nodes[i] = m.w.node()
	m.facts(r)
	m.recover(r, m.nodes[1-i])
}

func (m *model) recover(r *rapid.T, n *node) {
	mutations, err := n.RecoverCoverage(context.Background(), "dead-1")
	if err != nil {
		r.Fatal(err)
	}
	for _, mutation := range mutations {
		if err := m.w.ledger.Propose(mutation); err != nil {
			r.Fatal(err)
		}
	}
}

func (m *model) check(r *rapid.T) {
	stored, err := m.w.disk.Rows(results(m.key, "Linux.Sys.Pslist"))
	if err != nil {
		r.Fatal(err)
	}
	for i, line := range stored {
		if line != "" && line != fmt.Sprintf("{\"n\":%d}\n", i) {
			r.Fatalf("row %d is %q", i, line)
		}
	}
	for i, ok := range m.acked {
		if ok {
			m.checkAcked(r, m.packets[i], stored)
		}
	}
	f := m.nodes[0].flow(m.key)
	whole := len(stored) == m.total && !slices.Contains(stored, "")
	if m.upload != "" {
		data, named := m.w.disk.Upload(uploadKey(m.key, 0))
		whole = whole && named && string(data) == m.upload
	}
	if f.State == flows.Completed && !whole {
		r.Fatalf("flow is completed with %d of %d rows", len(stored), m.total)
	}
}

// checkAcked: what was acknowledged is durable.
func (m *model) checkAcked(r *rapid.T, packet []*wirepb.VeloMessage, stored []string) {
	for _, msg := range packet {
		if v := msg.VqlResponse; v != nil {
			end := int(v.QueryStartRow + v.TotalRows)
			if len(stored) < end || slices.Contains(stored[v.QueryStartRow:end], "") {
				r.Fatalf("acknowledged rows %d-%d are not stored", v.QueryStartRow, end-1)
			}
		}
		if b := msg.FileBuffer; b != nil && b.Eof {
			if data, named := m.w.disk.Upload(uploadKey(m.key, 0)); !named || string(data) != m.upload {
				r.Fatalf("acknowledged upload is %q, named %v", data, named)
			}
		}
	}
}

// finish lets everything come through.
func (m *model) finish(r *rapid.T) {
	for _, n := range m.nodes {
		n.committer.Before, n.committer.Torn = nil, nil
	}
	for i := range m.packets {
		if !m.acked[i] && !m.send(r, m.nodes[i%2], i) {
			r.Fatalf("packet %d is refused though nothing fails", i)
		}
	}
	m.facts(r)
	for _, n := range m.nodes {
		if err := n.TellDue(context.Background()); err != nil {
			r.Fatal(err)
		}
	}
	m.facts(r)
	m.recoverIfTorn(r)
	m.check(r)
	f := m.nodes[0].flow(m.key)
	if f.State != flows.Completed {
		r.Fatalf("flow is %s (%s), rows %v of %d", f.State, f.Error, f.Names, m.total)
	}
	stored, err := m.w.disk.Rows(results(m.key, "Linux.Sys.Pslist"))
	if err != nil || strings.Join(stored, "") != rowText(0, m.total) {
		r.Fatalf("stored %q, %v", stored, err)
	}
	m.sameEverywhere(r)
}

// recoverIfTorn reads coverage once more: a commit that tore between data and
// facts and whose node then died left rows that only the files tell of.
func (m *model) recoverIfTorn(r *rapid.T) { m.recover(r, m.nodes[0]) }

// sameEverywhere: all nodes, and one that replays the ledger, dump the same.
func (m *model) sameEverywhere(r *rapid.T) {
	fresh := flows.New(flows.Options{})
	for _, e := range m.w.ledger.Entries() {
		if e.Mutation.Kind == flows.Kind {
			_ = fresh.Apply(e) // refusals are part of the story
		}
	}
	var dumps []string
	for _, s := range []flowstest.State{m.nodes[0].Table, m.nodes[1].Table, fresh.Table} {
		text, err := flowstest.Dump(s)
		if err != nil {
			r.Fatal(err)
		}
		dumps = append(dumps, text)
	}
	if dumps[0] != dumps[1] || dumps[0] != dumps[2] {
		r.Fatalf("states differ:\n%s\n%s\n%s", dumps[0], dumps[1], dumps[2])
	}
}

// FuzzIngest feeds any messages of a client to a room: it never panics, always
// acknowledges, never stores outside of what was issued, and every line it
// stores is a JSON object on one line.
func FuzzIngest(f *testing.F) {
	key := flows.Key{}
	key.Flow, _ = ids.ParseFlow("F.D4K8M2O9P1Q3R")
	for _, m := range []*wirepb.VeloMessage{
		rows(key, procs, 0, 3), packed(rows(key, mounts, 5, 1)), logLines(key, 0, procs), done(key, 3), unknown(key), progress(key),
		buffer(key, 0, 0, "abc"), eof(key, 0, 3), transaction(key, 0), event(execsTok, 1, `{"a":1}`),
		event("Server.Internal.ClientInfo", 1, `{"hostname":"x"}`),
		{SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{LastEventTableVersion: 1}},
	} {
		data, err := proto.Marshal(&wirepb.MessageList{Job: []*wirepb.VeloMessage{m, m}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var list wirepb.MessageList
		if proto.Unmarshal(data, &list) != nil {
			return
		}
		w := newWorld(t)
		n := w.node(func(o *flows.Options) { o.Info = &infoSink{}; o.Defaults.UploadBytes = 1 << 20 })
		w.start(func(s *flows.Start) { s.Flow = key.Flow })
		w.events(eventGroup("", execsTok, execs))
		a := w.attach(n)
		defer a.Close()
		for range 2 {
			copied := proto.CloneOf(&list)
			if err := n.try(copied.Job...); err != nil && !strings.Contains(err.Error(), "upload is incomplete") &&
				!strings.Contains(err.Error(), "bytes") {
				t.Fatal(err)
			}
			w.deliver()
			a.Next()
		}
		for _, set := range w.disk.Sets() {
			known := strings.Contains(set, "F.D4K8M2O9P1Q3R") || strings.HasPrefix(set, "deadletters") || strings.HasPrefix(set, "events/"+execs) ||
				strings.HasPrefix(set, "eventlogs/"+execs)
			if !known || strings.Contains(set, "..") {
				t.Errorf("stored in %s", set)
			}
			if _, _, err := flows.CheckLines([]byte(w.disk.Text(filestore.Set(set))), nil); err != nil {
				t.Errorf("%s: %v", set, err)
			}
		}
	})
}
