package history_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/integration/history"
	"raptorpack/proto/buspb"
)

var quiet = slog.New(slog.DiscardHandler)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// archive is a store into which one incarnation wrote numbered rows of one flow.
type archive struct {
	t     *testing.T
	store *filestore.Store
	node  *filestore.Incarnation
	flow  history.Flow
	told  []agent.Acknowledged
}

type noFacts struct{}

func (noFacts) AppendSync(context.Context, []*buspb.Mutation) error { return nil }

const result = "Custom.Rows"

func newArchive(t *testing.T) *archive {
	t.Helper()
	a := &archive{t: t}
	var err error
	a.store, err = filestore.Open(t.TempDir(), filestore.Options{Logger: quiet})
	check(t, err)
	t.Cleanup(func() { check(t, a.store.Close(context.Background())) })
	name, err := ids.ParseNode("a")
	check(t, err)
	a.node, err = a.store.ClaimIncarnation(t.Context(), filestore.IncarnationOptions{Node: name})
	check(t, err)
	flow := ids.NewFlow(time.Now())
	a.flow = history.Flow{Client: laptop, ID: flow.String(), Result: result, Rows: 20, State: "completed", File: filepath.Join(t.TempDir(), "history")}
	return a
}

// write stores rows as batches of ten, from row by row, and tells the agent so.
func (a *archive) write(firsts ...int64) {
	a.t.Helper()
	committer, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: a.store, Incarnation: a.node.Name(), Valid: a.node.Valid, Outbox: noFacts{}, Logger: quiet,
	})
	check(a.t, err)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- committer.Run(ctx) }()
	client, err := ids.ParseClient(laptop)
	check(a.t, err)
	flow, err := ids.ParseFlow(a.flow.ID)
	check(a.t, err)
	for _, first := range firsts {
		var lines strings.Builder
		for i := range int64(10) {
			fmt.Fprintf(&lines, `{"N":%d}`+"\n", first+i)
		}
		check(a.t, committer.Submit(ctx, &filestore.Commit{Appends: []filestore.Append{{
			Set:    filestore.FlowResults(ids.RootOrg, client, flow, result),
			Extent: filestore.Extent{Client: client, Flow: flow, Name: result, FirstRow: first, Rows: 10}, Lines: []byte(lines.String()),
		}}}))
		a.told = append(a.told, agent.Acknowledged{
			Flow: a.flow.ID, Kind: "rows", Name: result, First: first, Count: 10,
			CRC: crc32.Checksum([]byte(lines.String()), crc32.MakeTable(crc32.Castagnoli)),
		})
	}
	cancel()
	check(a.t, <-ended)
}

// found is what the checker says.
func (a *archive) found() string {
	a.t.Helper()
	var text []byte
	for _, line := range a.told {
		one, err := json.Marshal(line)
		check(a.t, err)
		text = append(text, append(one, '\n')...)
	}
	check(a.t, os.WriteFile(a.flow.File, text, 0o600))
	all, err := history.CheckRows(a.t.Context(), a.store, []history.Flow{a.flow})
	check(a.t, err)
	return history.Report(all)
}

func (a *archive) wantFound(text string) {
	a.t.Helper()
	if got := a.found(); !strings.Contains(got, text) {
		a.t.Errorf("nothing says %q: %s", text, got)
	}
}

func TestRowsThatAreThereAreGood(t *testing.T) {
	a := newArchive(t)
	a.write(0, 10, 0) // one batch came twice
	if got := a.found(); got != "" {
		t.Error(got)
	}
}

func TestRowsThatAreNotThereAreNoticed(t *testing.T) {
	a := newArchive(t)
	a.write(0)
	a.wantFound("violation rows: flow " + a.flow.ID)
	a.wantFound("10 rows, produced were 20")
	a.told = append(a.told, agent.Acknowledged{Flow: a.flow.ID, Kind: "rows", Name: result, First: 10, Count: 10})
	a.wantFound("rows 10 to 20 were acknowledged and are not there")
	a.flow.State = "running"
	a.wantFound("violation unfinished: flow " + a.flow.ID)
	a.wantFound("rows 10 to 20 were acknowledged and are not there")
}

// What lies beyond the seal of a dead incarnation is not there for anybody.
func TestRowsBeyondASealAreMissing(t *testing.T) {
	a := newArchive(t)
	a.write(0)
	client, err := ids.ParseClient(laptop)
	check(t, err)
	flow, err := ids.ParseFlow(a.flow.ID)
	check(t, err)
	set := filestore.FlowResults(ids.RootOrg, client, flow, result)
	reader := filestore.NewReader(filestore.ReaderOptions{Store: a.store, Logger: quiet})
	segments, _, err := reader.Segments(t.Context(), set)
	check(t, err)
	if len(segments) != 1 {
		t.Fatalf("%d segments", len(segments))
	}
	check(t, a.node.Release(t.Context())) // it is over for good
	check(t, a.store.SealIncarnation(t.Context(), a.node.Name(), map[string]int64{segments[0].Path: segments[0].Valid}))
	file, err := a.store.OpenWrite(t.Context(), segments[0].Path)
	check(t, err)
	late := newArchive(t)
	late.flow.ID = a.flow.ID
	late.write(10)
	more, err := late.store.ReadFile(t.Context(), segments[0].Path, 1<<20)
	check(t, err)
	_, err = file.WriteAt(t.Context(), more, segments[0].Valid)
	check(t, err)
	check(t, file.Close(t.Context()))
	a.told = append(a.told, late.told...)
	a.wantFound("rows 10 to 20 were acknowledged and are not there")
}
