package flows_test

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/ids"
)

var packSeeds = flag.Uint64("packseeds", 12, "how many random packs TestRandomPackKeepsItsPromises goes through")

// Five clients, three nodes and a store. Clients move, hold two connections, lose
// answers, have posts that hang, forget; nodes fall behind, die and come back under
// a new incarnation, reload snapshots, cannot write their outbox; the master is
// away; operators start, cancel and delete. Whatever happens: no task is given to a
// client that has it or of which a node took a message; what leaves with a
// connection is told. And when all has calmed down: every acknowledged row is there
// once, in its place; every flow that ended well is completed; counters equal a
// recount; uploads are whole; deleted trees are gone; all nodes have one state;
// nothing became a dead letter; and nothing is remembered of clients that left.
func TestRandomPackKeepsItsPromises(t *testing.T) {
	for seed := range *packSeeds {
		t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { newFleet(t, seed).run(200) })
		})
	}
}

type fleet struct {
	*pack
	r       *rand.Rand
	agents  []*agent
	keys    []flows.Key
	hunts   map[ids.Flow]bool
	deleted map[flows.Key]bool
	dead    []*member
	away    atomic.Bool // nobody leads
	trail   []string
}

func newFleet(t *testing.T, seed uint64) *fleet {
	f := &fleet{pack: newPack(t), r: rand.New(rand.NewPCG(seed, 7)), hunts: map[ids.Flow]bool{}, deleted: map[flows.Key]bool{}}
	for _, name := range []string{"a", "b", "c"} {
		f.launch(name)
	}
	for n := range 5 {
		f.agents = append(f.agents, newAgent(n, f.r))
	}
	f.watch(eventGroup("", execsTok, execs))
	return f
}

func (f *fleet) launch(name string) {
	f.pack.launch(name, func(o *flows.Options) {
		fresh := o.Fresh
		o.Fresh = func(ctx context.Context) error {
			if f.away.Load() {
				return errors.New("nobody leads")
			}
			return fresh(ctx)
		}
	})
}

func (f *fleet) fail(format string, args ...any) {
	f.t.Helper()
	f.t.Fatalf("%s\nafter %s\n%.3000s", fmt.Sprintf(format, args...), strings.Join(f.trail, ", "), f.logs)
}

func (f *fleet) check(err error) {
	f.t.Helper()
	if err != nil {
		f.fail("%v", err)
	}
}

func pick[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

func (f *fleet) run(steps int) {
	for range steps {
		f.step()
		synctest.Wait()
	}
	f.calm()
	f.verify()
	f.forget()
}

func (f *fleet) step() {
	a := pick(f.r, f.agents)
	steps := []struct {
		weight int
		name   string
		do     func()
	}{
		{10, "connect", func() { f.connect(a) }},
		{14, "poll", func() { f.poll(a) }},
		{8, "work", func() { a.work(f.r) }},
		{22, "send", func() { f.send(a) }},
		{3, "notice", func() { f.notice(a) }},
		{3, "hung", func() { f.late(a) }},
		{1, "forget", func() {
			if a.forgets {
				a.restart()
			}
		}},
		{8, "start", f.start},
		{1, "cancel", f.cancel},
		{1, "delete", f.remove},
		{14, "facts", f.facts},
		{14, "entries", f.entries},
		{1, "reload", func() {
			if m := pick(f.r, f.nodes); !f.away.Load() {
				f.check(m.follower.Restart(f.master.Table, f.master.Events))
			}
		}},
		{2, "kill", f.kill},
		{2, "bury", f.buryOne},
		{2, "outbox", f.breakOutbox},
		{2, "lead", func() { f.away.Store(!f.away.Load() && f.r.IntN(3) == 0) }},
		{6, "sleep", func() { time.Sleep(time.Duration(f.r.IntN(90)) * time.Second) }},
		{1, "expire", f.expire},
	}
	total := 0
	for _, s := range steps {
		total += s.weight
	}
	at := f.r.IntN(total)
	for _, s := range steps {
		if at -= s.weight; at < 0 {
			f.trail = append(f.trail, s.name)
			s.do()
			return
		}
	}
}

func (f *fleet) connect(a *agent) {
	f.part(a, f.r.IntN(2) == 0)
	a.on = pick(f.r, f.nodes)
	a.at = a.on.Attach(ids.RootOrg, a.id)
	a.on.CheckedIn(ids.RootOrg, a.id, a.table)
}

// part ends a client's connection. A node that notices and has no other tells what
// it holds.
func (f *fleet) part(a *agent, noticed bool) {
	left := a.on
	a.leave(noticed)
	other := slices.ContainsFunc(a.stale, func(s stale) bool { return s.on == left })
	if left == nil || !noticed || other || f.away.Load() || f.r.IntN(4) > 0 || left.torn.Load() {
		return
	}
	time.Sleep(6 * time.Second) // it tells no faster
	synctest.Wait()
	f.check(left.outbox.Deliver(1 << 30))
	for _, c := range a.done {
		record, err := f.master.Flow(c.key)
		if err != nil || record.State != flows.Running {
			continue
		}
		for token, rows := range c.at[left.run] {
			told := record.Names
			at := slices.IndexFunc(told, func(t flows.Coverage) bool { return t.Name == resultOf[token] })
			for _, i := range *rows {
				if at < 0 || !told[at].Rows.Has(i.Start, i.End) {
					f.fail("%s has left %s, which holds rows %v of %s and told %v", a.id, left.run, *rows, c.key.Flow, told)
				}
			}
		}
	}
}

var resultOf = map[string]string{procs: pslist, mounts: "Linux.Mounts/All"}

func (f *fleet) poll(a *agent) {
	if a.at == nil {
		f.connect(a)
		synctest.Wait()
	}
	told := a.at.Next()
	for _, s := range a.stale {
		s.at.Next() // and what it says is lost
	}
	f.check(a.obey(told, f.r))
	if len(told) > 0 && a.polls {
		f.part(a, true)
	} else if len(told) > 0 {
		a.on.CheckedIn(ids.RootOrg, a.id, a.table)
	}
}

func (f *fleet) send(a *agent) {
	messages, urgent := a.batch(f.r)
	if len(messages) == 0 {
		return
	}
	m := pick(f.r, f.nodes)
	switch f.r.IntN(10) {
	case 0: // never arrives
		return
	case 1: // hangs; the client gives up and sends it elsewhere
		a.hung = append(a.hung, hung{m, cloned(messages)})
		return
	}
	peer := flows.Peer{Client: a.id, Received: time.Now()}
	if err := m.Ingest(f.t.Context(), peer, cloned(messages)); err != nil {
		if !errors.Is(err, flows.ErrTryAgain) {
			f.fail("%v", err)
		}
		return
	}
	a.acknowledged(m, messages)
	if f.r.IntN(6) > 0 { // else the answer is lost
		a.drop(len(messages), urgent)
	}
}

func (f *fleet) late(a *agent) {
	if len(a.hung) == 0 {
		return
	}
	h := a.hung[0]
	a.hung = a.hung[1:]
	if slices.Contains(f.nodes, h.on) {
		_ = h.on.Ingest(f.t.Context(), flows.Peer{Client: a.id, Received: time.Now()}, h.messages) // nobody hears of it
	}
}

func (f *fleet) notice(a *agent) {
	if len(a.stale) > 0 {
		a.stale[0].at.Close()
		a.stale = a.stale[1:]
	}
}

func (f *fleet) start() {
	s := request()
	first := pick(f.r, f.agents)
	s.Clients = []ids.Client{first.id}
	if f.r.IntN(3) == 0 {
		s.Hunt, _ = ids.ParseHunt("H.D4K8M2O9P1Q3R")
		if other := pick(f.r, f.agents); other != first {
			s.Clients = append(s.Clients, other.id)
		}
	}
	m, id, err := flows.PlanStart(s)
	f.check(err)
	f.check(f.ledger.Propose(m))
	f.hunts[id] = !s.Hunt.IsZero()
	for _, c := range s.Clients {
		f.keys = append(f.keys, flows.Key{Client: c, Flow: id})
	}
}

func (f *fleet) cancel() {
	if len(f.keys) == 0 {
		return
	}
	if m, err := f.master.PlanCancel(pick(f.r, f.keys), "ada"); err == nil {
		f.check(f.ledger.Propose(m))
	}
}

func (f *fleet) remove() {
	if len(f.keys) == 0 {
		return
	}
	key := pick(f.r, f.keys)
	if m, err := f.master.PlanDelete(key, "ada"); err == nil {
		f.check(f.ledger.Propose(m))
		f.deleted[key] = true
	}
}

func (f *fleet) expire() {
	mutations, err := f.master.PlanExpire(time.Now())
	f.check(err)
	for _, m := range mutations {
		f.check(f.ledger.Propose(m))
	}
}

func (f *fleet) facts() {
	if !f.away.Load() {
		f.check(pick(f.r, f.nodes).outbox.Deliver(1 + f.r.IntN(4)))
	}
}

func (f *fleet) entries() { f.check(pick(f.r, f.nodes).follower.Apply(1 + f.r.IntN(8))) }

// kill ends a node; another run of it begins at once.
func (f *fleet) kill() {
	m := pick(f.r, f.nodes)
	for _, a := range f.agents {
		if a.on == m {
			a.at, a.on = nil, nil
		}
		a.stale = slices.DeleteFunc(a.stale, func(s stale) bool { return s.on == m })
	}
	f.pack.kill(m)
	f.dead = append(f.dead, m)
	f.launch(m.name)
}

func (f *fleet) buryOne() {
	if len(f.dead) > 0 && !f.away.Load() {
		f.bury(f.dead[0])
		f.dead = f.dead[1:]
	}
}

// breakOutbox lets a node store rows and then fail to say so, or heals it.
func (f *fleet) breakOutbox() {
	m := pick(f.r, f.nodes)
	m.torn.Store(!m.torn.Load())
}

// calm lets everything come to rest.
func (f *fleet) calm() {
	f.away.Store(false)
	for _, m := range f.nodes {
		m.torn.Store(false)
	}
	for len(f.dead) > 0 {
		f.buryOne()
	}
	for round := 0; ; round++ {
		for _, a := range f.agents {
			f.late(a)
			f.poll(a)
			a.work(f.r)
			for range 20 {
				f.send(a)
			}
		}
		f.deliver()
		time.Sleep(20 * time.Second)
		f.deliver()
		if f.atRest() {
			break
		}
		if round == 300 {
			f.fail("it does not come to rest: %s", f.unrest())
		}
	}
	for _, d := range f.master.Deletions() {
		for _, m := range f.nodes {
			if !m.settled(d.Index) {
				f.fail("%s has not closed %s", m.run, d.Flow)
			}
		}
		f.check(f.master.RemoveTree(context.Background(), d.Key))
	}
}

func (f *fleet) atRest() bool { return f.unrest() == "" }

func (f *fleet) unrest() string {
	for _, a := range f.agents {
		if len(a.ring)+len(a.urgent)+len(a.hung) > 0 {
			return fmt.Sprintf("%s has %d messages, %d urgent, %d hung", a.id, len(a.ring), len(a.urgent), len(a.hung))
		}
		for _, w := range a.known {
			if len(w.todo) > 0 {
				return fmt.Sprintf("%s is at %s", a.id, w.key.Flow)
			}
		}
	}
	for _, key := range f.keys {
		if record, err := f.master.Flow(key); err == nil && (!record.State.Final() || record.CancelDue) {
			return fmt.Sprintf("flow %s of %s is %s: %s, cancel due %v", key.Flow, key.Client, record.State, record.Error, record.CancelDue)
		}
	}
	return ""
}

func (f *fleet) verify() {
	for _, a := range f.agents {
		for _, c := range a.done {
			f.verifyFlow(c)
		}
	}
	wantLetters(f.t.(*testing.T), f.pack, "")
	f.sameEverywhere()
}

func (f *fleet) verifyFlow(c *account) {
	record, err := f.master.Flow(c.key)
	if errors.Is(err, flows.ErrNotFound) {
		if !f.deleted[c.key] {
			f.fail("flow %s of %s is lost", c.key.Flow, c.key.Client)
		}
		dir := filestore.FlowDir(c.key.Org, c.key.Client, c.key.Flow)
		if uploads := filestore.FlowUploadsDir(c.key.Org, c.key.Client, c.key.Flow); f.exists(dir) || f.exists(uploads) {
			f.fail("flow %s of %s is deleted, and its files are there", c.key.Flow, c.key.Client)
		}
		return
	}
	f.check(err)
	if c.ended && record.State != flows.Completed {
		f.fail("flow %s of %s ended well and is %s: %s", c.key.Flow, c.key.Client, record.State, record.Error)
	}
	total := int64(0)
	for token, name := range resultOf {
		total += f.verifyRows(c, token, name)
	}
	if record.Rows() != total {
		f.fail("flow %s of %s has %d rows, its record says %d", c.key.Flow, c.key.Client, total, record.Rows())
	}
	if c.filed {
		if u := f.upload(c.key, 0, c.upload); u.Mode != 0o644 {
			f.fail("what the client said of its file is lost: %+v", u)
		}
		if record.UploadBytes() != int64(len(c.upload)) {
			f.fail("record counts %d bytes of an upload of %d", record.UploadBytes(), len(c.upload))
		}
	}
}

// verifyRows checks one result and counts its rows.
func (f *fleet) verifyRows(c *account, token, name string) int64 {
	set := results(c.key, name)
	if f.hunts[c.key.Flow] {
		hunt, _ := ids.ParseHunt("H.D4K8M2O9P1Q3R")
		set = filestore.HuntResults(c.key.Org, hunt, name)
	}
	page, err := f.reader.ReadRows(f.t.Context(), set, filestore.RowsQuery{
		RowsFilter: filestore.RowsFilter{Client: c.key.Client, Flow: c.key.Flow, Name: name}, Limit: 1 << 20,
	})
	f.check(err)
	if len(page.Conflicts) > 0 {
		f.fail("conflicts in %s of %s: %+v", name, c.key.Flow, page.Conflicts)
	}
	var seen filestore.Intervals
	last := int64(-1)
	for _, row := range page.Rows {
		want := fmt.Sprintf(`{"n":%d}`, row.Number)
		if f.hunts[c.key.Flow] {
			want = fmt.Sprintf(`{"ClientId":%q,"FlowId":%q,"n":%d}`, c.key.Client, c.key.Flow, row.Number)
		}
		if row.Number <= last || !bytes.Equal(row.Line, []byte(want)) {
			f.fail("row %d of %s in %s of %s follows row %d: %s", row.Number, name, c.key.Flow, c.key.Client, last, row.Line)
		}
		last = row.Number
		seen.Add(row.Number, row.Number+1)
	}
	if acked := c.rows[token]; acked != nil {
		for _, i := range *acked {
			if !seen.Has(i.Start, i.End) {
				f.fail("rows %v of %s in %s of %s were acknowledged, readers see %v", *acked, name, c.key.Flow, c.key.Client, seen)
			}
		}
	}
	return int64(len(page.Rows))
}

// sameEverywhere: all nodes, the master and one that replays the ledger agree.
func (f *fleet) sameEverywhere() {
	fresh := flows.New(flows.Options{})
	f.check(f.ledger.Join(fresh.Table, fresh.Events))
	for _, pair := range [][2]flowstest.State{{f.master.Table, fresh.Table}, {f.master.Events, fresh.Events}} {
		want, err := flowstest.Dump(pair[0])
		f.check(err)
		for _, s := range f.states(pair[0].Kind(), pair[1]) {
			if got, err := flowstest.Dump(s); err != nil || got != want {
				f.fail("states differ (%v):\n%s\n%s", err, got, want)
			}
		}
	}
}

func (f *fleet) states(kind string, all ...flowstest.State) []flowstest.State {
	for _, m := range f.nodes {
		if kind == flows.Kind {
			all = append(all, m.Table)
		} else {
			all = append(all, m.Events)
		}
	}
	return all
}

// forget lets all clients go and time pass.
func (f *fleet) forget() {
	for _, a := range f.agents {
		a.leave(true)
		for len(a.stale) > 0 {
			f.notice(a)
		}
	}
	for range 8 {
		time.Sleep(10 * time.Minute)
		f.deliver()
	}
	for _, m := range f.nodes {
		if visits, errands, locals := m.Soft(); visits+errands+locals > 0 {
			f.fail("%s remembers %d clients, %d errands, %d flows", m.run, visits, errands, locals)
		}
	}
}
