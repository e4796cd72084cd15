package server_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/vql/server"
)

// copies lets a session's queries add collections, as a node does.
func (w *huntWorld) copies(h *server.Host) {
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: w.store, Incarnation: "n3-1", Valid: func() bool { return true }, Outbox: outbox(w.ledger.Outbox),
	})
	must(w.t, err)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one value: how it ended
	go func() { ended <- committer.Run(ctx) }()
	w.t.Cleanup(func() { stop(); must(w.t, <-ended) })
	copier := hunts.NewCopier(hunts.CopierOptions{
		Hunts: w.hunts, Flows: w.flows, Writer: committer, Incarnation: "n3-1", Forget: committer.Forget,
		Files: hunts.Files{Store: w.store, Reader: h.Rows},
	})
	h.AddFlow = func(ctx context.Context, wish hunts.CopyWish) error {
		out, err := copier.Copy(ctx, wish)
		if err != nil {
			return err
		}
		return w.ledger.Propose(out.Mutation)
	}
}

// A collection whose rows came to two nodes is added by query, and stands among the
// rows of clients that the hunt asked, on both nodes.
func TestHuntAddTakesAFlow(t *testing.T) {
	w := newHuntWorld(t)
	const name = "Linux.Test.Procs"
	key := w.hunt(name, w.one)
	w.ingest(flowOf(key, w.one), numbered(name, 0, 2), ended(2, 0))
	from := w.start(w.two, flows.Artifact{Name: name}, flows.Artifact{Name: "Linux.Test.Listing"})
	host := w.host("inv")
	s := w.session(roles{"investigator"}, nil, host)
	add := func(flow ids.Flow, want string) {
		t.Helper()
		s.want(fmt.Sprintf(`SELECT hunt_add(hunt_id='%s', client_id='%s', flow_id='%s') AS A FROM scope()`, key.Hunt, w.two, flow), want)
	}
	add(from.Flow, `{"A":null}`)
	s.wantLog("not available in this version") // no copier here
	w.copies(host)
	add(from.Flow, `{"A":null}`)
	s.wantLog("has not ended")
	w.ingest(from, numbered(name, 0, 3), numbered("Linux.Test.Listing/Files", 0, 4))
	w.ingestAt(w.other, from, numbered(name, 3, 2), ended(9, 0))
	told, err := w.other.RecoverCoverage(t.Context(), "n1-1") // as when the client has left the first
	must(t, err)
	for _, m := range told {
		w.apply(m, nil)
	}
	add(from.Flow, fmt.Sprintf(`{"A":%q}`, from.Flow))
	add(from.Flow, fmt.Sprintf(`{"A":%q}`, from.Flow))
	s.wantLog("already: completed")
	want := slices.Concat(rowsOf(flowOf(key, w.one), "web-1.example", 0, 2), rowsOf(from, "db-1", 0, 5))
	got := s.rows(`SELECT * FROM hunt_results(hunt_id='%s')`, key.Hunt)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("rows\n%q, want\n%q, log:\n%s", got, want, s.log())
	}
	s.want(fmt.Sprintf(`SELECT count() AS N FROM source(hunt_id='%s') GROUP BY 1`, key.Hunt), `{"N":7}`)
	s.want(fmt.Sprintf(`SELECT count() AS N FROM hunt_flows(hunt_id='%s') GROUP BY 1`, key.Hunt), `{"N":2}`)
	m, set, _ := w.hunts.Member(key, w.two)
	one, err := w.hunts.Hunt(key)
	if err != nil || set != hunts.CompletedClients || one.Counts[hunts.CompletedClients] != 2 || one.Counts[hunts.WithResults] != 2 || one.Sums.Rows != 7 {
		t.Errorf("member %+v in %s, hunt %+v, %v", m, set, one, err)
	}
	page, err := w.other.Results(t.Context(), flows.Key{Client: w.two, Flow: m.Flow}, name, flows.Page{})
	if err != nil || len(page.Rows) != 5 || len(page.Holes) != 0 {
		t.Errorf("on the other node %+v, %v", page, err)
	}
	w.manage()
	if _, again, _ := w.hunts.Member(key, w.two); again != hunts.CompletedClients {
		t.Errorf("it is asked again: %s", again)
	}
	w.apply(w.hunts.PlanStop(key, false, "ada", time.Now()))
	w.apply(w.flows.PlanDelete(from, "ada"))
	if got := s.rows(`SELECT * FROM hunt_results(hunt_id='%s')`, key.Hunt); len(got) != 7 {
		t.Errorf("without the collection %d rows", len(got))
	}
}

// A collection that erred makes its client one that erred, and nobody can send rows for
// its copy: no client was ever given that.
func TestHuntAddTakesAFlowThatErred(t *testing.T) {
	w := newHuntWorld(t)
	const name = "Linux.Test.Procs"
	key := w.hunt(name)
	from := w.start(w.two, flows.Artifact{Name: name})
	w.ingest(from, numbered(name, 0, 1), failed())
	host := w.host("inv")
	w.copies(host)
	s := w.session(roles{"investigator"}, nil, host)
	add := fmt.Sprintf(`SELECT hunt_add(hunt_id='%s', client_id='%s', flow_id='%s'`, key.Hunt, w.two, from.Flow)
	s.want(add+`) AS A FROM scope()`, fmt.Sprintf(`{"A":%q}`, from.Flow))
	first, set, _ := w.hunts.Member(key, w.two)
	if f, err := w.flows.Flow(flows.Key{Client: w.two, Flow: first.Flow}); err != nil || set != hunts.ErroredClients || f.Error != "broke" {
		t.Fatalf("member %+v in %s, flow %+v, %v", first, set, f, err)
	}
	w.ingest(flows.Key{Client: w.two, Flow: first.Flow}, numbered(name, 1, 5))
	if got := s.rows(`SELECT * FROM hunt_results(hunt_id='%s')`, key.Hunt); len(got) != 1 {
		t.Errorf("rows %q", got)
	}
	s.want(add+`) AS A FROM scope()`, fmt.Sprintf(`{"A":%q}`, from.Flow))
	s.wantLog("already: errored")
	s.want(add+`, relaunch=TRUE) AS A FROM scope()`, `{"A":null}`)
	s.wantLog("the hunt has it as " + first.Flow.String()) // its rows would be there twice
	if again, set, _ := w.hunts.Member(key, w.two); set != hunts.ErroredClients || again != first {
		t.Errorf("member %+v in %s", again, set)
	}
}
