package hunts_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// copier adds collections as a node does.
func (g *rig) copier(node string) *hunts.Copier {
	g.t.Helper()
	c := g.node(node)
	return hunts.NewCopier(hunts.CopierOptions{
		Hunts: g.Room, Flows: g.flows, Writer: c, Incarnation: node, Forget: c.Forget, Files: hunts.Files{Store: g.store, Reader: g.reader},
	})
}

// collected is a collection of a client with rows, of which some node has some, a log
// and an upload; more changes what is recorded of it.
func (g *rig) collected(client int, rows int, more ...func(*flows.Arrival)) flows.Key {
	g.t.Helper()
	key := flows.Key{Client: id(client), Flow: ids.NewFlow(noon)}
	a := flows.Arrival{
		Key: key, Incarnation: "n-1", Creator: "ada", Artifacts: []flows.Artifact{{Name: pslist}, {Name: "Other"}}, Logs: 1,
		Rows: []flows.ArrivedRows{{Name: pslist, Rows: int64(rows)}, {Name: "Other", Rows: 1}}, Duration: 3 * time.Second,
		Origin: flows.Origin{SHA256: fmt.Sprintf("%064x", len(key.Flow.String())*1000+int(g.index))},
	}
	for i := range rows {
		g.line([]string{"n-1", "n-2"}[i%2], filestore.FlowResults(key.Org, key.Client, key.Flow, pslist), key, pslist, i, fmt.Sprintf(`{"N":%d,"client_FlowId":"x"}`, i))
	}
	g.line("n-1", filestore.FlowResults(key.Org, key.Client, key.Flow, "Other"), key, "Other", 0, `{"other":1}`)
	g.line("n-1", filestore.FlowLogs(key.Org, key.Client, key.Flow), key, flows.LogName, 0, `{"level":"INFO","message":"hello"}`)
	a.Uploads = g.sent(key)
	for _, change := range more {
		change(&a)
	}
	g.must(g.t)(flows.PlanImport(a))
	return key
}

func (g *rig) line(node string, set filestore.Set, key flows.Key, name string, first int, row string) {
	g.t.Helper()
	g.check(g.node(node).Submit(context.Background(), &filestore.Commit{Appends: []filestore.Append{{
		Set: set, Lines: []byte(row + "\n"), Extent: filestore.Extent{Client: key.Client, Flow: key.Flow, Name: name, FirstRow: int64(first), Rows: 1},
	}}}))
}

// sent stores uploads of a collection, a sparse one among them.
func (g *rig) sent(key flows.Key) (sizes []flows.UploadSize) {
	g.t.Helper()
	for number, ranges := range [][]filestore.Range{nil, {
		{FileOffset: 0, OriginalOffset: 0, FileLength: 5, Length: 5}, {FileOffset: 5, OriginalOffset: 5, FileLength: 0, Length: 1 << 20},
	}} {
		at := filestore.UploadKey{Org: key.Org, Client: key.Client, Flow: key.Flow, Number: int64(number)}
		g.check(g.node("n-1").Submit(context.Background(), &filestore.Commit{Uploads: []filestore.UploadWrite{{Key: at, Data: []byte("bytes")}}}))
		end := filestore.UploadFinish{Key: at, Accessor: "file", Components: []string{"a", fmt.Sprint("file", number)}, Size: 5, StoredSize: 5, Index: ranges, Whole: true}
		if ranges != nil {
			end.Size += 1 << 20
		}
		stored, err := g.node("n-1").FinishUpload(context.Background(), end)
		g.check(err)
		line, err := json.Marshal(flows.Upload{
			Number: at.Number, Accessor: "file", Components: end.Components, Size: end.Size, StoredSize: 5, SHA256: stored.SHA256,
			StoredPath: stored.Path, Sparse: ranges != nil, Finished: "2026-11-22T12:00:00Z",
		})
		g.check(err)
		g.line("n-1", flows.UploadSet(key), key, flows.UploadName, number, string(line))
		sizes = append(sizes, flows.UploadSize{Number: at.Number, Bytes: 5})
	}
	return sizes
}

func (g *rig) wish(of flows.Key) hunts.CopyWish {
	return hunts.CopyWish{Key: g.key, Client: of.Client, Flow: of.Flow, Principal: "ada"}
}

// member is where a client of the hunt is, and its flow there.
func (g *rig) member(client int) (hunts.Set, ids.Flow) {
	m, set, _ := g.Member(g.key, id(client))
	return set, m.Flow
}

func TestCollectionThatIsAddedIsOneOfTheHunts(t *testing.T) {
	g := newRig(t, 1)
	g.enrol(t, 1, 3)
	g.numbers("a-1", 0, 0, 2)
	from := g.collected(1, 5)
	out, err := g.copier("b-1").Copy(context.Background(), g.wish(from))
	g.check(err)
	if before, _ := g.all(hunts.Query{}); len(before) != 2 || out.Rows != 5 || out.Uploads != 2 {
		t.Fatalf("%d rows are shown before it is recorded; copied %+v", len(before), out)
	}
	g.counts(t, g.key, 0, 1, 0, 0, 0, 0, 0)
	g.must(t)(out.Mutation, nil)
	g.counts(t, g.key, 0, 1, 1, 0, 0, 0, 1)
	if set, flow := g.member(1); set != hunts.CompletedClients || flow != out.Flow {
		t.Errorf("client is %s with %s", set, flow)
	}
	listed, _, err := g.Clients(g.key, hunts.CompletedClients, 0, 10)
	if err != nil || len(listed) != 1 || listed[0].Client != id(1) || listed[0].Flow != out.Flow {
		t.Errorf("members %+v, %v", listed, err)
	}
	g.nominate(t, g.key, 1)
	g.must(t)(g.PlanAdd(g.key, idsOf(1), "ada", noon))
	g.counts(t, g.key, 0, 1, 1, 0, 0, 0, 1) // it is not asked again
	g.shown(from, 5)
	h := g.hunt(t, g.key)
	if h.Sums.Rows != 5 || h.Sums.Uploads != 2 || h.Sums.UploadBytes != 10 || h.Sums.Flows != 2 || h.Sums.Duration != 3*time.Second {
		t.Errorf("sums %+v", h.Sums)
	}
	data, _ := g.zip(hunts.ZipOptions{})
	in := members(t, data)
	if !strings.Contains(in["logs.jsonl"], from.Flow.String()) || strings.Count(in["uploads.jsonl"], "\n") != 2 ||
		!strings.Contains(in["clients.jsonl"], out.Flow.String()) {
		t.Errorf("zip has %s, %s, %s", in["logs.jsonl"], in["uploads.jsonl"], in["clients.jsonl"])
	}
	other, imported := abroad(t, data)
	if imported.Rows != 7 || imported.Uploads != 2 || len(imported.Skipped) != 0 {
		t.Errorf("elsewhere it is %+v", imported)
	}
	if lines, _ := other.all(hunts.Query{}); len(lines) != 7 {
		t.Errorf("elsewhere %d rows are shown", len(lines))
	}
	g.must(t)(facts(gone(from)), nil) // the collection itself
	g.check(g.flows.RemoveTree(context.Background(), from))
	g.shown(from, 5)
	if again, _ := g.zip(hunts.ZipOptions{}); members(t, again)["uploads.jsonl"] != in["uploads.jsonl"] {
		t.Error("uploads changed with the collection")
	}
}

func gone(key flows.Key) *buspb.FlowChange {
	return &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{
		Key: &buspb.FlowKey{Client: key.Client.String(), Flow: key.Flow.String()},
	}}}
}

// shown reports whether the hunt shows each row of a collection once.
func (g *rig) shown(from flows.Key, rows int) {
	g.t.Helper()
	lines, _ := g.all(hunts.Query{Clients: []ids.Client{from.Client}})
	slices.Sort(lines)
	for i, line := range lines {
		want := fmt.Sprintf(`{"ClientId":%q,"FlowId":%q,"N":%d,"client_FlowId":"x"}`, from.Client, from.Flow, i)
		if line != want {
			g.t.Errorf("row %d is %s, want %s", i, line, want)
		}
	}
	if len(lines) != rows {
		g.t.Errorf("%d rows are shown, want %d", len(lines), rows)
	}
	var out bytes.Buffer
	_, err := g.results.Export(context.Background(), g.key, pslist, &out, hunts.ExportOptions{Format: hunts.JSONL})
	g.check(err)
	if n := strings.Count(out.String(), from.Flow.String()); n != rows {
		g.t.Errorf("export has %d rows of it, want %d", n, rows)
	}
}

// A node that dies between the copy and its entry leaves nothing that is shown, and the
// next call, on any node, makes it whole.
func TestCopyThatIsNotRecordedIsNobodys(t *testing.T) {
	g := newRig(t, 0)
	g.enrol(t, 0, 2)
	from := g.collected(1, 4)
	lost, err := g.copier("a-1").Copy(context.Background(), g.wish(from))
	g.check(err)
	if lines, _ := g.all(hunts.Query{}); len(lines) != 0 {
		t.Errorf("shown: %q", lines)
	}
	g.counts(t, g.key, 0, 0, 0, 0, 0, 0, 0)
	first, err := g.copier("b-1").Copy(context.Background(), g.wish(from))
	g.check(err)
	second, err := g.copier("c-1").Copy(context.Background(), g.wish(from)) // of a call at the same time
	g.check(err)
	g.must(t)(first.Mutation, nil)
	if err := g.propose(second.Mutation); !errors.Is(err, hunts.ErrState) {
		t.Errorf("the second is taken, too: %v", err)
	}
	g.check(g.copier("c-1").Drop(context.Background(), second))
	g.check(g.copier("a-1").Drop(context.Background(), lost))
	for _, out := range []*hunts.Copied{second, lost} {
		for _, dir := range flows.Dirs(out.Key) {
			if _, err := os.Stat(filepath.Join(g.root, dir)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("%s: %v", dir, err)
			}
		}
	}
	g.shown(from, 4)
	g.counts(t, g.key, 0, 0, 1, 0, 0, 0, 1)
	if _, err := g.copier("a-1").Copy(context.Background(), g.wish(from)); !errors.Is(err, hunts.ErrState) {
		t.Errorf("once more: %v", err)
	}
	data, _ := g.zip(hunts.ZipOptions{})
	if n := strings.Count(members(t, data)["uploads.jsonl"], "\n"); n != 2 {
		t.Errorf("%d uploads are listed", n)
	}
}

func TestCopyIsRefusedWhereItMakesNoSense(t *testing.T) {
	g := newRig(t, 1)
	g.enrol(t, 1, 4)
	from := g.collected(1, 1)
	other := g.collected(2, 0, func(a *flows.Arrival) {
		a.Artifacts, a.Rows = []flows.Artifact{{Name: "Other"}}, []flows.ArrivedRows{{Name: "Other", Rows: 1}}
	})
	short := g.collected(3, 2, func(a *flows.Arrival) { a.Rows[0].Rows = 3 })
	start := collect()
	start.Clients = idsOf(1)
	m, open, err := flows.PlanStart(start)
	g.must(t)(m, err)
	refused := func(what string, w hunts.CopyWish, want error, text string) {
		t.Helper()
		if _, err := g.copier("a-1").Copy(context.Background(), w); !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", what, err)
		}
	}
	w := g.wish(from)
	w.Client = id(2)
	refused("another client's", w, flows.ErrNotFound, "")
	w = g.wish(from)
	w.Hunt = ids.NewHunt(noon)
	refused("no such hunt", w, hunts.ErrNotFound, "")
	w = g.wish(from)
	w.Flow = open
	refused("not ended", w, flows.ErrUnfinished, "is pending")
	refused("of a hunt", g.wish(flows.Key{Client: id(0), Flow: g.key.Hunt.Flow(0)}), flows.ErrInvalid, "is of hunt")
	refused("other artifacts", g.wish(other), hunts.ErrInvalid, "none of the hunt's artifacts")
	refused("rows that are not there", g.wish(short), hunts.ErrUnread, "")
	g.must(t)(g.PlanEdit(g.key, hunts.Edit{Limit: to(int64(1))}, "", noon))
	refused("beyond the limit", g.wish(from), hunts.ErrLimit, "")
	g.must(t)(g.PlanEdit(g.key, hunts.Edit{Limit: to(int64(0))}, "", noon))
	late, err := g.copier("a-1").Copy(context.Background(), g.wish(from))
	g.check(err)
	g.must(t)(g.PlanStop(g.key, false, "", noon))
	g.must(t)(g.PlanArchive(g.key, "", noon))
	refused("archived", g.wish(from), hunts.ErrState, "which is archived")
	if err := g.propose(late.Mutation); !errors.Is(err, hunts.ErrState) {
		t.Errorf("recorded in an archived hunt: %v", err)
	}
	g.must(t)(g.PlanStop(g.key, true, "", noon))
	g.must(t)(facts(gone(from)), nil)
	if err := g.propose(late.Mutation); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("recorded without its collection: %v", err)
	}
	g.counts(t, g.key, 0, 1, 0, 0, 0, 0, 0)
}

// A client that waits, erred or was removed is replaced; what it is asked afterwards is
// a new attempt.
func TestCopyReplacesWhatAClientHas(t *testing.T) {
	g := newRig(t, 2)
	g.enrol(t, 2, 4)
	g.must(t)(g.PlanAdd(g.key, idsOf(2), "", noon))
	failing := g.collected(2, 1, func(a *flows.Arrival) { a.Error = "it broke" })
	add := func(from flows.Key, again bool) (*hunts.Copied, error) {
		w := g.wish(from)
		w.Again = again
		out, err := g.copier("a-1").Copy(context.Background(), w)
		if err == nil {
			err = g.propose(out.Mutation)
		}
		return out, err
	}
	bad, err := add(failing, false)
	g.check(err)
	g.counts(t, g.key, 0, 2, 0, 1, 0, 0, 1)
	if f, err := g.flows.Flow(bad.Key); err != nil || f.State != flows.Errored || f.Error != "it broke" {
		t.Errorf("copy is %+v, %v", f, err)
	}
	if err := g.propose(admission(t, g.key, 0, 2)); !errors.Is(err, hunts.ErrNotAdmitted) {
		t.Errorf("it is asked nevertheless: %v", err)
	}
	fine := g.collected(2, 2)
	if _, err := add(fine, false); !errors.Is(err, hunts.ErrState) {
		t.Errorf("without again: %v", err)
	}
	good, err := add(fine, true)
	g.check(err)
	g.counts(t, g.key, 0, 2, 1, 0, 0, 0, 1)
	g.must(t)(facts(gone(bad.Key)), nil) // that of before
	g.counts(t, g.key, 0, 2, 1, 0, 0, 0, 1)
	again, err := g.restored()
	g.check(err)
	if m, set, _ := again.Member(g.key, id(2)); set != hunts.CompletedClients || m.Flow != good.Flow {
		t.Errorf("restored %+v in %s", m, set)
	}
	if a, b := dump(g.Room), dump(again.Room); !bytes.Equal(a, b) {
		t.Errorf("was\n%s\nis\n%s", a, b)
	}
	g.must(t)(facts(gone(good.Key)), nil)
	g.counts(t, g.key, 0, 2, 0, 0, 0, 1, 0)
	g.must(t)(g.PlanAdd(g.key, idsOf(2), "", noon))
	g.must(t)(admission(t, g.key, 1, 2), nil)
	if set, flow := g.member(2); set != hunts.RunningClients || flow != g.key.Hunt.Flow(1) {
		t.Errorf("client is %s with %s", set, flow)
	}
	if _, err := add(fine, true); !errors.Is(err, hunts.ErrState) {
		t.Errorf("while it runs: %v", err)
	}
	if rows := g.hunt(t, g.key).Sums.Rows; rows != 0 {
		t.Errorf("%d rows are left", rows)
	}
}

// With its hunt a copy goes, files and all; the collection stays.
func TestDeletedHuntTakesItsCopies(t *testing.T) {
	g := newRig(t, 0)
	g.enrol(t, 0, 1)
	from := g.collected(0, 3)
	out, err := g.copier("a-1").Copy(context.Background(), g.wish(from))
	g.check(err)
	g.must(t)(out.Mutation, nil)
	g.must(t)(g.PlanStop(g.key, false, "", noon))
	g.must(t)(g.PlanDelete(g.key, "", noon))
	at := noon
	manager := hunts.NewManager(hunts.ManagerOptions{
		Room: g.Room, Flows: g.flows, Propose: g.Propose, Now: func() time.Time { at = at.Add(time.Minute); return at }, Connected: func(ids.Org, ids.Client) bool { return true },
	})
	for range 3 {
		_, err := manager.Step(context.Background())
		g.check(err)
	}
	if len(g.Deletions()) != 1 || !g.flows.Deleted(out.Key) {
		t.Fatal("the hunt is not forgotten")
	}
	g.check(g.flows.RemoveTree(context.Background(), out.Key))
	g.check(g.RemoveTree(context.Background(), hunts.Files{Store: g.store, Reader: g.reader}, g.key))
	for _, dir := range append(flows.Dirs(out.Key), filestore.HuntDir(g.key.Org, g.key.Hunt)) {
		if _, err := os.Stat(filepath.Join(g.root, dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
	late, err := g.copier("b-1").Copy(context.Background(), g.wish(from))
	if !errors.Is(err, hunts.ErrNotFound) {
		t.Errorf("into a hunt that is gone: %v, %v", late, err)
	}
	if all, err := g.flows.Uploads(context.Background(), from); err != nil || len(all) != 2 {
		t.Errorf("the collection has uploads %v, %v", all, err)
	}
}
