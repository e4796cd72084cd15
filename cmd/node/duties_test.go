package node

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/api"
	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/flows/flowstest"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// The files of a deleted flow stay until every live node has closed its own.
func TestFilesAreRemovedWhenAllNodesHaveSettledTheDeletion(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		store, err := filestore.Open(dir, filestore.Options{})
		must(t, err)
		disk, ledger := flowstest.NewDisk(), flowstest.NewLedger()
		room := flows.New(flows.Options{
			Committer: &flowstest.Committer{Disk: disk, Facts: ledger.Outbox}, Reader: disk, Store: store, Incarnation: "n-1",
		})
		must(t, ledger.Join(room.Table))
		key := deletedFlow(t, ledger, room)
		files := filepath.Join(dir, filestore.FlowDir(key.Org, key.Client, key.Flow))
		must(t, os.MkdirAll(files, 0o750))

		var settled atomic.Uint64
		n := &Node{flows: room, hunts: hunts.New(hunts.Options{Clients: clients.New(nil)}), log: slog.New(slog.DiscardHandler)}
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- n.removeWhen(ctx, func(index uint64) bool { return index <= settled.Load() }) }()
		time.Sleep(time.Minute)
		settled.Store(room.Deletions()[0].Index - 1)
		time.Sleep(time.Minute)
		if _, err := os.Stat(files); err != nil {
			t.Errorf("files went while a node had them open: %v", err)
		}
		settled.Add(1)
		time.Sleep(time.Minute)
		if _, err := os.Stat(files); !os.IsNotExist(err) {
			t.Errorf("files are still there: %v", err)
		}
		stop()
		must(t, <-ended)
		must(t, store.Close(context.Background()))
	})
}

func deletedFlow(t *testing.T, ledger *flowstest.Ledger, room *flows.Room) flows.Key {
	t.Helper()
	client, err := ids.ParseClient("C.00000000000000a1")
	must(t, err)
	m, flow, err := flows.PlanStart(flows.Start{
		Clients: []ids.Client{client}, Names: map[string]string{"$a": "A"},
		Request: &wirepb.FlowRequest{VqlClientActions: []*wirepb.VQLCollectorArgs{{Query: []*wirepb.VQLRequest{{Vql: "SELECT 1", Name: "$a"}}}}},
	})
	must(t, err)
	must(t, ledger.Propose(m))
	key := flows.Key{Client: client, Flow: flow}
	cancelled, err := room.PlanCancel(key, "ada")
	must(t, err)
	must(t, ledger.Propose(cancelled))
	deleted, err := room.PlanDelete(key, "ada")
	must(t, err)
	must(t, ledger.Propose(deleted))
	return key
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What the file names runs in the name of who keeps the file; what is no server event
// artifact is left out, not the rest with it.
func TestServerEventsOfTheFileAreThoseThatAreSome(t *testing.T) {
	known, err := artifacts.BuiltIn()
	must(t, err)
	d, err := artifacts.Parse("a.yaml", []byte("name: Custom.Ticks\ntype: SERVER_EVENT\nsources:\n- query: SELECT * FROM clock(period=60)\n"))
	must(t, err)
	must(t, known.Add(d))
	room := flows.New(flows.Options{})
	n := &Node{clients: clients.New(nil), flows: room, artifacts: artifacts.NewRoom(known), log: slog.New(slog.DiscardHandler), o: Options{Config: &config.Loaded{File: &config.File{}}}}
	m, err := n.firstServerEvents([]string{"No.Such", "Linux.Sys.Users", "Custom.Ticks"})
	must(t, err)
	must(t, room.Server.Apply(&buspb.Entry{Index: 7, Time: 1, Mutation: m}))
	all, version := room.Server.Artifacts(ids.RootOrg)
	if version != 7 || len(all) != 1 || all[0].Name != "Custom.Ticks" || !strings.HasPrefix(all[0].Principal, api.LocalPrefix) {
		t.Errorf("version %d: %+v", version, all)
	}
}
