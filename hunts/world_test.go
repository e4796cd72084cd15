package hunts_test

import (
	"bytes"
	"context"
	"crypto/rsa"
	"encoding/binary"
	"fmt"
	"io"
	"math/big"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// key is a public key that nobody has the private one of.
func key(i int) *rsa.PublicKey {
	modulus := bytes.Repeat([]byte{0xa5}, 256)
	binary.BigEndian.PutUint64(modulus[100:], uint64(i))
	return &rsa.PublicKey{N: new(big.Int).SetBytes(modulus), E: 65537}
}

var known sync.Map // of ids, as making one hashes a key

// id is the i-th client.
func id(i int) ids.Client {
	if c, ok := known.Load(i); ok {
		return c.(ids.Client)
	}
	c := ids.ClientOfKey(key(i))
	known.Store(i, c)
	return c
}

func idsOf(which ...int) []ids.Client {
	out := make([]ids.Client, len(which))
	for i, n := range which {
		out[i] = id(n)
	}
	return out
}

// node is the rooms of one node that a hunt goes through.
type node struct {
	clients *clients.Room
	flows   *flows.Room
	*hunts.Room
}

type state interface {
	Kind() string
	Apply(*buspb.Entry) error
	View() io.WriterTo
	Restore(io.Reader) error
}

func newNode(change ...func(*hunts.Options)) *node {
	n := &node{clients: clients.New(nil)}
	o := hunts.Options{Clients: n.clients}
	for _, c := range change {
		c(&o)
	}
	n.Room = hunts.New(o)
	n.clients.Follow(n.ClientChanged)
	n.flows = flows.New(flows.Options{Hunts: n.Room})
	return n
}

func (n *node) states() []state { return []state{n.clients, n.flows.Table, n.Room} }

func (n *node) apply(e *buspb.Entry) error {
	for _, s := range n.states() {
		if s.Kind() == e.Mutation.Kind {
			return s.Apply(e)
		}
	}
	return fmt.Errorf("no room for %q", e.Mutation.Kind)
}

// dump is what a state writes.
func dump(s state) []byte {
	var b bytes.Buffer
	if _, err := s.View().WriteTo(&b); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// restored is a node that begins with another's snapshot.
func (n *node) restored() (*node, error) {
	fresh := newNode()
	for i, s := range n.states() {
		if err := fresh.states()[i].Restore(bytes.NewReader(dump(s))); err != nil {
			return nil, err
		}
	}
	return fresh, nil
}

// world is one node and its ledger, whose time is the test's.
type world struct {
	*node
	mu    sync.Mutex
	index uint64
	now   func() time.Time
}

// newWorld makes a world with clients 0 to n-1 enrolled at noon, whose time stands
// still until a test moves it.
func newWorld(t testing.TB, n int) *world {
	t.Helper()
	w := &world{node: newNode(), now: func() time.Time { return noon }}
	w.enrol(t, 0, n)
	return w
}

func (w *world) enrol(t testing.TB, from, to int) {
	t.Helper()
	var all []clients.Enrolment
	for i := from; i < to; i++ {
		all = append(all, clients.Enrolment{Client: id(i), Key: key(i)})
	}
	if len(all) > 0 {
		w.must(t)(w.clients.PlanEnrol(ids.RootOrg, all...))
	}
}

// propose puts a mutation into the ledger; it is safe for concurrent use.
func (w *world) propose(m *buspb.Mutation) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.index++
	return w.apply(&buspb.Entry{Index: w.index, Epoch: 1, Time: w.now().UnixMicro(), Mutation: m})
}

func (w *world) Propose(_ context.Context, m *buspb.Mutation) error { return w.propose(m) }

// tell is the outbox of a pack without delay.
func (w *world) tell(_ context.Context, all []*buspb.Mutation) error {
	for _, m := range all {
		if err := w.propose(m); err != nil {
			return err
		}
	}
	return nil
}

func (w *world) must(t testing.TB) func(*buspb.Mutation, error) {
	return func(m *buspb.Mutation, err error) {
		t.Helper()
		if err == nil {
			err = w.propose(m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// collect is what hunts of tests run.
func collect() flows.Start {
	return flows.Start{
		Creator: "ada", Artifacts: []flows.Artifact{{Name: "Linux.Sys.Pslist"}, {Name: "Linux.Mounts", Parameters: []flows.Parameter{{Name: "x", Value: "1"}}}},
		Names: map[string]string{"$a": "Linux.Sys.Pslist"}, Limits: flows.Limits{Rows: 1000},
		Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{
			{Vql: "SELECT * FROM pslist()", Name: "$a"},
		}}}},
	}
}

func (w *world) create(t testing.TB, change ...func(*hunts.Create)) hunts.Key {
	t.Helper()
	c := hunts.Create{Collect: collect(), Start: true, Settings: hunts.Settings{Description: "test"}}
	for _, edit := range change {
		edit(&c)
	}
	m, hunt, err := w.PlanCreate(c, w.now())
	w.must(t)(m, err)
	return hunts.Key{Org: c.Org, Hunt: hunt}
}

func (w *world) nominate(t testing.TB, k hunts.Key, who ...int) {
	t.Helper()
	all, err := hunts.PlanNominate(k, idsOf(who...))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		w.must(t)(m, nil)
	}
}

// admission starts an attempt on clients, as the manager plans it.
func admission(t testing.TB, k hunts.Key, attempt int, who ...int) *buspb.Mutation {
	t.Helper()
	s := collect()
	s.Hunt = k.Hunt
	spec, err := flows.PlanSpec(s)
	if err != nil {
		t.Fatal(err)
	}
	m, err := flows.PlanAdmit(k.Org, spec, k.Hunt.Flow(attempt), idsOf(who...))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func flowOf(k hunts.Key, attempt, who int) *buspb.FlowKey {
	return &buspb.FlowKey{Client: id(who).String(), Flow: k.Hunt.Flow(attempt).String()}
}

func facts(changes ...*buspb.FlowChange) *buspb.Mutation {
	data, err := proto.Marshal(&buspb.FlowsBody{Changes: changes})
	if err != nil {
		panic(err)
	}
	return &buspb.Mutation{Kind: flows.Kind, Body: data}
}

// ended is the end of a client's flow with some rows of those it says it sent.
func ended(k hunts.Key, attempt, who int, outcome buspb.FlowEnd_Outcome, rows, of int64) *buspb.FlowChange {
	key := flowOf(k, attempt, who)
	end := &buspb.FlowEnd{
		Key: key, Outcome: outcome, Totals: &buspb.FlowTotals{Rows: of, Logs: 1}, Duration: 5,
		Coverage: &buspb.FlowCoverage{Key: key, Incarnation: "n1-1"},
	}
	if rows > 0 {
		end.Coverage.Names = []*buspb.FlowExtent{{Name: "Linux.Sys.Pslist", Bounds: []int64{0, rows}}}
	}
	return &buspb.FlowChange{Change: &buspb.FlowChange_End{End: end}}
}

// costly is an end that tells its processor time, as stock agents do not.
func costly(c *buspb.FlowChange, ns int64) *buspb.FlowChange {
	c.GetEnd().CpuNs = proto.Int64(ns)
	return c
}

func deletes(k hunts.Key, attempt, who int) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{Key: flowOf(k, attempt, who)}}}
}

const (
	endedOK  = buspb.FlowEnd_OUTCOME_OK
	endedBad = buspb.FlowEnd_OUTCOME_ERROR
)

func (w *world) hunt(t testing.TB, k hunts.Key) *hunts.Hunt {
	t.Helper()
	h, err := w.Hunt(k)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// counts are pending, running, completed, errored, declined, removed, with results.
func (w *world) counts(t testing.TB, k hunts.Key, want ...int) {
	t.Helper()
	if got := w.hunt(t, k).Counts; got != hunts.Counts(want) {
		t.Errorf("counts %v, want %v", got, want)
	}
}

func to[T any](v T) *T { return &v }

func forgetBody(t testing.TB, k hunts.Key) []byte {
	t.Helper()
	body, err := proto.Marshal(&buspb.HuntsBody{Changes: []*buspb.HuntChange{
		{Hunt: k.Hunt.String(), Change: &buspb.HuntChange_Forget{Forget: &buspb.HuntForget{}}},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return body
}
