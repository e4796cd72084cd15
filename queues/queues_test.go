package queues_test

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/internal/testkit"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/queues"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

var stamps = regexp.MustCompile(`"(_ts|Timestamp|create_time|expires)":\d+`)

// want compares rows with the times cut out.
func (n *node) want(queue string, want ...string) {
	n.w.t.Helper()
	var got []string
	for _, row := range n.rows(queue) {
		got = append(got, strings.TrimSuffix(stamps.ReplaceAllString(row, `"$1":T`), "\n"))
	}
	if !slices.Equal(got, want) {
		n.w.t.Errorf("%s:\n%s\nwant:\n%s", queue, strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTheLeaderWritesWhatEntriesTell(t *testing.T) {
	w := newWorld(t)
	a, b := w.node("a-1"), w.node("b-1")
	w.enrol(a)
	key := w.ended(a)
	w.propose(a.clients.PlanLabels(ids.RootOrg, []ids.Client{w.client}, []string{"x", "y"}, []string{"z"}))
	w.propose(a.clients.PlanMetadata(ids.RootOrg, w.client, map[string]string{"b": "1", "a": "secret"}, nil))
	w.propose(a.clients.PlanMetadata(ids.RootOrg, ids.Server, map[string]string{"key": "secret"}, []string{"old"}))
	w.propose(a.clients.PlanInfo(ids.RootOrg, w.client, []byte(`{"Hostname":"h"}`), key.Flow, nil))
	w.propose(a.clients.PlanInfo(ids.RootOrg, w.client, []byte(`{"Hostname":"i"}`), ids.Flow{}, nil)) // an agent's own words
	m, _, err := a.artifacts.PlanSet(ids.RootOrg, "name: Custom.A\nsources:\n- query: SELECT 1 FROM scope()\n", "ada")
	w.propose(m, err)
	w.propose(a.artifacts.PlanDelete(ids.RootOrg, "Custom.A", "bob"))
	hunt := w.hunt(a)
	notebook, err := ids.ParseNotebook("N.ONE")
	w.must(err)
	w.propose(a.notebooks.PlanAdd(
		notebooks.Wish{Key: notebooks.Key{Notebook: notebook}, Timeline: "Super", Name: "logins", Column: "Time"},
		notebooks.Stored{Folder: "~0-" + strings.Repeat("0", 32), Rows: 3},
	))
	w.propose(a.flows.PlanDelete(key, "ada"))
	w.propose(a.clients.PlanDelete(ids.RootOrg, w.client))
	a.leads()
	id := w.client.String()
	for _, n := range []*node{a, b} {
		if waiting, lost := n.queues.Waiting(); waiting+int(lost) != 0 {
			t.Errorf("%d wait, %d are lost", waiting, lost)
		}
		n.want(queues.Enrollment, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T}`)
		n.want(queues.FlowCompletion, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T,"FlowId":"`+key.Flow.String()+`","Flow":null}`) // deleted before it was written
		n.want(queues.Label, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T,"Added":["x","y"],"Principal":"ada","Removed":["z"]}`)
		n.want(queues.Metadata, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T,"Principal":"ada","Removed":[],"Set":["a","b"]}`,
			`{"ClientId":"server","_ts":T,"Timestamp":T,"Principal":"ada","Removed":["old"],"Set":["key"]}`)
		n.want(queues.Interrogation, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T,"InterrogationFlow":"`+key.Flow.String()+`"}`)
		n.want(queues.ArtifactModification,
			`{"_ts":T,"Timestamp":T,"definition":"name: Custom.A\nsources:\n- query: SELECT 1 FROM scope()\n","name":"Custom.A","op":"set","setter":"ada"}`,
			`{"_ts":T,"Timestamp":T,"definition":"","name":"Custom.A","op":"delete","setter":"bob"}`)
		n.want(queues.HuntCreation, `{"_ts":T,"Timestamp":T,"Hunt":{"hunt_id":"`+hunt+`","creator":"ada","hunt_description":"all","create_time":T,"expires":T,"artifacts":["Test.A"],"client_limit":7},"HuntId":"`+hunt+`"}`)
		n.want(queues.TimelineAdd, `{"_ts":T,"Timestamp":T,"Name":"logins","NotebookId":"N.ONE","Principal":"ada","Rows":3,"Timeline":"Super"}`)
		n.want(queues.ClientDelete, `{"ClientId":"`+id+`","_ts":T,"Timestamp":T,"Principal":"ada"}`)
	}
}

func (w *world) hunt(n *node) string {
	w.t.Helper()
	m, id, err := n.hunts.PlanCreate(hunts.Create{
		Collect: flows.Start{
			Creator: "ada", Artifacts: []flows.Artifact{{Name: "Test.A"}}, Names: map[string]string{"t": "Test.A"},
			Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{{Name: "t", Vql: "SELECT 1"}}}}},
		},
		Settings: hunts.Settings{Description: "all", Limit: 7, Expires: time.Now().Add(time.Hour)},
	}, time.Now())
	w.propose(m, err)
	return id.String()
}

// The leader dies when the rows are durable and the fact is not, and its successor
// writes them again; a third finds nothing to do. Readers and followers see each once.
func TestRowsComeOnceHoweverLeadersFollowEachOther(t *testing.T) {
	w := newWorld(t)
	a, b, c := w.node("a-1"), w.node("b-1"), w.node("c-1")
	w.enrol(a)
	var want []string
	for range 5 {
		key := w.ended(a)
		want = append(want, fmt.Sprintf(`{"ClientId":%q,"_ts":T,"Timestamp":T,"FlowId":%q,"Flow":{"session_id":%q,"state":"cancelled"}}`, key.Client, key.Flow, key.Flow))
	}
	f, err := c.flows.FollowEvents(flows.FollowOptions{Name: queues.FlowCompletion})
	w.must(err)
	defer f.Close()
	if page, err := f.Look(t.Context(), 100); err != nil || len(page.Rows) != 0 {
		t.Fatalf("%v, %v", page, err)
	}
	a.outbox.set(true)
	stop := w.background(a.writer.Run)
	testkit.Eventually(t, "the rows are durable", func() (any, bool) {
		rows := a.rows(queues.FlowCompletion)
		return rows, len(rows) == 5
	})
	stop()
	if waiting, _ := b.queues.Waiting(); waiting != 6 { // with the enrolment
		t.Errorf("%d rows wait", waiting)
	}
	b.leads()
	a.outbox.set(false)
	stop = w.background(a.writer.Run) // deposed, and does not know: its state is behind in the next moment
	stop()
	c.leads()
	var seen []string
	for page, err := f.Look(t.Context(), 100); ; page, err = f.Look(t.Context(), 100) {
		w.must(err)
		for _, row := range page.Rows {
			seen = append(seen, string(row.Line))
		}
		if len(page.Rows) == 0 {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("a follower saw %d rows:\n%s", len(seen), strings.Join(seen, ""))
	}
	for _, n := range []*node{a, b, c} {
		n.want(queues.FlowCompletion, want...)
	}
	if w.now().IsZero() {
		t.Error("no entry")
	}
}

// A row of one client is found by that client.
func TestRowsAreFoundByTheirClient(t *testing.T) {
	w := newWorld(t)
	a := w.node("a-1")
	w.enrol(a)
	w.ended(a)
	a.leads()
	for client, want := range map[ids.Client]int{w.client: 1, ids.Server: 0} {
		page, err := a.flows.EventRows(t.Context(), flows.EventRowsQuery{Name: queues.FlowCompletion, Client: client})
		if err != nil || len(page.Rows) != want {
			t.Errorf("%s: %d rows, %v", client, len(page.Rows), err)
		}
	}
}

// state is a queue that is told by entries of another kind.
type state struct{ *queues.Room }

func (s state) Apply(e *buspb.Entry) error {
	if e.GetMutation().GetKind() == queues.Kind {
		return s.Room.Apply(e)
	}
	client, err := ids.ParseClient("C.0123456789abcdef")
	if err != nil {
		return err
	}
	flow, err := ids.ParseFlow("F.D4K8M2O9P1Q3R")
	if err != nil {
		return err
	}
	s.FlowsFinished(e.GetIndex(), time.UnixMicro(e.GetTime()), []*flows.Flow{{Key: flows.Key{Client: client, Flow: flow}}})
	s.Tell(e.GetIndex(), time.UnixMicro(e.GetTime()), queues.Item{Queue: "Q", Row: []byte(`{"a":"<b>"}`)}, queues.Item{Queue: "Q", Client: ids.Server, Row: []byte(`{}`)})
	return nil
}

func TestStateKeepsItsPromises(t *testing.T) {
	entries := []*buspb.Entry{
		{Index: 1, Mutation: &buspb.Mutation{Kind: "other"}},
		{Index: 2, Mutation: &buspb.Mutation{Kind: "other"}},
		{Index: 3, Mutation: queues.Written(1, 2)},
		{Index: 4, Mutation: &buspb.Mutation{Kind: "other"}},
		{Index: 5, Mutation: queues.Written(1, 1)}, // of a leader that is late
		{Index: 6, Mutation: queues.Written(4, 1)},
		{Index: 7, Mutation: &buspb.Mutation{Kind: queues.Kind, Body: []byte{0xff}}},
		{Index: 8, Mutation: queues.Written(9, 9)},
		{Index: 9, Mutation: &buspb.Mutation{Kind: "other"}},
	}
	statetest.Run(t, func() replication.State { return state{queues.New()} }, entries)
}

func TestWhatHasNoRoomIsCounted(t *testing.T) {
	r := queues.New()
	r.SetLimit(3)
	for i := range uint64(5) {
		r.Tell(i+1, time.Unix(0, 0), queues.Item{Queue: "Q", Row: []byte(`{}`)})
	}
	if waiting, lost := r.Waiting(); waiting != 3 || lost != 2 {
		t.Errorf("%d wait, %d are lost", waiting, lost)
	}
}

func FuzzRestore(f *testing.F) {
	f.Add(`{"index":1,"n":1,"at_us":5,"queue":"Q","client":"server","row":{"a":1}}` + "\n" + `{"index":2,"n":1,"queue":"Q","flow":"F.1"}`)
	f.Add(`{"lost":7}`)
	f.Add(`{"index":2,"n":1,"queue":"Q"}{"index":1,"n":1,"queue":"Q"}`)
	f.Fuzz(func(t *testing.T, text string) {
		r := queues.New()
		if err := r.Restore(strings.NewReader(text)); err != nil {
			return
		}
		var once, twice strings.Builder
		if _, err := r.View().WriteTo(&once); err != nil {
			t.Fatal(err)
		}
		if err := r.Restore(strings.NewReader(once.String())); err != nil {
			t.Fatalf("%q does not restore: %v", once.String(), err)
		}
		if _, err := r.View().WriteTo(&twice); err != nil || once.String() != twice.String() {
			t.Errorf("%q, then %q: %v", once.String(), twice.String(), err)
		}
	})
}

// A write that fails is tried until it works, and nothing is passed over.
func TestAWriteThatFailsIsRepeated(t *testing.T) {
	w := newWorld(t)
	a := w.node("a-1")
	w.enrol(a)
	a.outbox.set(true)
	stop := w.background(a.writer.Run)
	w.ended(a)
	testkit.Eventually(t, "a row is durable", func() (any, bool) { return nil, len(a.rows(queues.Enrollment)) == 1 })
	a.outbox.set(false)
	testkit.Eventually(t, "it is told", func() (any, bool) {
		a.deliver()
		n, _ := a.queues.Waiting()
		return n, n == 0
	})
	stop()
	for _, queue := range []string{queues.Enrollment, queues.FlowCompletion} {
		if rows := a.rows(queue); len(rows) != 1 {
			t.Errorf("%s has rows %v", queue, rows)
		}
	}
}
