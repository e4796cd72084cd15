package hunts_test

import (
	"bytes"
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/flows"
	"raptorpack/hunts"
)

const pslist = "Linux.Sys.Pslist"

// rig is a hunt that ran on some clients, with rows on a filestore.
type rig struct {
	*world
	t       testing.TB
	root    string
	faulty  *filestoretest.Faulty
	store   *filestore.Store
	reader  *filestore.Reader
	results *hunts.Results
	key     hunts.Key
	nodes   map[string]*filestore.Committer
}

// newRig makes a hunt on clients 0 to n-1 that all take part.
func newRig(t testing.TB, n int, change ...func(*hunts.ResultsOptions)) *rig {
	t.Helper()
	g := &rig{t: t, root: t.TempDir(), nodes: map[string]*filestore.Committer{}}
	disk, err := filestore.OpenOS(g.root)
	g.check(err)
	g.faulty = filestoretest.NewFaulty(disk)
	g.store, err = filestore.Open("", filestore.Options{FS: g.faulty})
	g.check(err)
	t.Cleanup(func() { g.check(disk.Close()) })
	t.Cleanup(func() { g.check(g.store.Close(context.Background())) })
	g.reader = filestore.NewReader(filestore.ReaderOptions{Store: g.store})
	own := &node{clients: clients.New(nil)}
	own.Room = hunts.New(hunts.Options{Clients: own.clients})
	own.clients.Follow(own.ClientChanged)
	own.flows = flows.New(flows.Options{Hunts: own.Room, Store: g.store, Reader: g.reader})
	g.world = &world{node: own, now: func() time.Time { return noon }}
	g.enrol(t, 0, n)
	g.key = g.create(t)
	var all []int
	for i := range n {
		all = append(all, i)
	}
	if n > 0 {
		g.nominate(t, g.key, all...)
		g.must(t)(admission(t, g.key, 0, all...), nil)
	}
	g.results = g.open(change...)
	return g
}

// open makes results of the rig's filestore, with Run under way.
func (g *rig) open(change ...func(*hunts.ResultsOptions)) *hunts.Results {
	o := hunts.ResultsOptions{
		Hunts: g.Room, Flows: g.flows, Clients: g.clients, Reader: g.reader, Store: g.store, Scratch: g.t.TempDir(),
	}
	for _, c := range change {
		c(&o)
	}
	r := hunts.NewResults(o)
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1) // one answer
	go func() { ended <- r.Run(ctx) }()
	g.t.Cleanup(func() { stop(); g.check(<-ended) })
	return r
}

func (g *rig) check(err error) {
	g.t.Helper()
	if err != nil {
		g.t.Fatal(err)
	}
}

// node is the committer of a node, made when first asked for.
func (g *rig) node(name string) *filestore.Committer {
	g.t.Helper()
	if c := g.nodes[name]; c != nil {
		return c
	}
	c, err := filestore.NewCommitter(filestore.CommitterOptions{
		Store: g.store, Incarnation: name, Valid: func() bool { return true }, Outbox: takesFacts{},
	})
	g.check(err)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = c.Run(ctx) }) // nil always
	g.t.Cleanup(func() { stop(); running.Wait() })
	g.nodes[name] = c
	return c
}

// row is how a row of a client is stored; more begins with a comma.
func (g *rig) row(client int, more string) string {
	return fmt.Sprintf(`{"ClientId":%q,"FlowId":%q%s}`, id(client), g.key.Hunt.Flow(0), more)
}

// put stores lines of a client from a row number on.
func (g *rig) put(node string, client, first int, rows ...string) {
	g.t.Helper()
	g.store1(node, filestore.HuntResults(g.key.Org, g.key.Hunt, pslist), pslist, client, first, rows...)
}

func (g *rig) store1(node string, set filestore.Set, name string, client, first int, rows ...string) {
	g.t.Helper()
	g.check(g.node(node).Submit(context.Background(), &filestore.Commit{Appends: []filestore.Append{{
		Set: set, Lines: []byte(strings.Join(rows, "\n") + "\n"),
		Extent: filestore.Extent{Client: id(client), Flow: g.key.Hunt.Flow(0), Name: name, FirstRow: int64(first), Rows: int64(len(rows))},
	}}}))
}

// numbers stores rows of a client that say N, from first on.
func (g *rig) numbers(node string, client, first, count int) {
	g.t.Helper()
	rows := make([]string, count)
	for i := range rows {
		rows[i] = g.row(client, fmt.Sprintf(`,"N":%d`, first+i))
	}
	g.put(node, client, first, rows...)
}

// segment is the file of a node's rows.
func (g *rig) segment(node string) string {
	return filepath.Join(g.root, filestore.HuntResults(g.key.Org, g.key.Hunt, pslist).String(), node+".jsonl.gz")
}

// page asks for a page of the rig's table, and waits for it.
func (g *rig) page(q hunts.Query) *hunts.Table {
	g.t.Helper()
	q.Name, q.Wait = pslist, time.Minute
	t, err := g.results.Page(context.Background(), g.key, q)
	g.check(err)
	return t
}

// all reads a table page by page.
func (g *rig) all(q hunts.Query) (lines []string, pages []*hunts.Table) {
	g.t.Helper()
	for {
		t := g.page(q)
		pages = append(pages, t)
		for _, row := range t.Rows {
			lines = append(lines, string(row.Line))
		}
		if t.Next == "" {
			return lines, pages
		}
		q.Cursor, q.From = t.Next, 0
	}
}

// column is what a column says in some rows.
func columnOf(lines []string, name string) string {
	var out bytes.Buffer
	for _, line := range lines {
		fmt.Fprintf(&out, "%s ", hunts.Column([]byte(line), name))
	}
	return strings.TrimSpace(out.String())
}
