package wholepack

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/cluster"
	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/integration/history"
	"raptorpack/internal/seeded"
)

// Options say what a pack is made of; the zero value is one candidate.
type Options struct {
	Candidates int // nodes a, b, c, ...; 0: one
	Minions    int // and those after them

	// Disk is what all nodes mount; nil: a temporary folder whose syncs cost nothing.
	Disk filestore.FS

	Tune func(*node.Tuning)   // changes the short times of all nodes
	Edit func(*config.Loaded) // changes the file of all nodes
}

// Pack is nodes on one disk with what surrounds them. Nothing of it runs before
// Start.
type Pack struct {
	Nodes   []*Node // candidates first
	Net     *Net
	History *history.Recorder // of everybody who works on the pack

	t     testing.TB
	dir   string
	store *disk
	tune  node.Tuning
	file  *config.Loaded // as agents and operators see it
	lives sync.WaitGroup // of nodes

	mu     sync.Mutex
	listed map[string]cluster.Member // newest life by name
	hidden map[way]bool              // who does not see whom

	works []*Work
	flows []history.Flow
	stops []func() // of agents and operators

	agents    []*Agent
	operators *host
	crowd     *host // where agents are
}

// short are times at which a pack crashes and recovers within a second or two, and
// which a slow machine under the race detector still keeps.
var short = node.Tuning{
	LeaseTTL: 600 * time.Millisecond, IncarnationTTL: time.Second, Margin: 150 * time.Millisecond, WatchEvery: 300 * time.Millisecond,
	Silence: time.Second, CommitWait: 5 * time.Second, RetryDelay: 20 * time.Millisecond, DrainWindow: 200 * time.Millisecond,
	DiskEvery: time.Second, SnapshotEntries: 300,
}

// deployment is made once: its keys are dear, and no story depends on fresh ones.
var deployment = sync.OnceValues(func() ([]byte, error) {
	merge, err := json.Marshal(map[string]any{
		"Frontend": map[string]any{
			"bind_address": "127.0.0.1", "hostname": "localhost", "use_plain_http": true,
			"do_not_compress_artifacts":           true, // the agents' histories speak of result names to the checker
			"default_client_monitoring_artifacts": []string{}, "resources": map[string]any{"connections_per_second": 10000},
		},
		"Bus":    map[string]any{"bind_address": "127.0.0.1"},
		"Client": map[string]any{"max_poll": 2, "max_poll_std": 1},
		"Pack":   map[string]any{"reserve_bytes": 1 << 16, "drain_timeout_sec": 2},
	})
	if err != nil {
		return nil, err
	}
	return config.Generate(config.GenerateOptions{Now: time.Now(), MergeJSON: string(merge)})
})

// New makes a pack.
func New(t testing.TB, o Options) *Pack {
	t.Helper()
	p := &Pack{
		t: t, dir: t.TempDir(), Net: newNet(), History: history.NewRecorder(), tune: short,
		listed: map[string]cluster.Member{}, hidden: map[way]bool{}, operators: &host{name: Operators}, crowd: &host{name: Agents},
	}
	if o.Tune != nil {
		o.Tune(&p.tune)
	}
	p.Mount(o.Disk)
	p.file = p.config(o.Edit)
	for i := range max(o.Candidates, 1) + o.Minions {
		name := string(rune('a' + i))
		p.Nodes = append(p.Nodes, &Node{Name: name, Candidate: i < max(o.Candidates, 1), Log: &Log{}, pack: p, file: p.config(o.Edit)})
	}
	t.Cleanup(p.end)
	return p
}

func (p *Pack) config(edit func(*config.Loaded)) *config.Loaded {
	p.t.Helper()
	text, err := deployment()
	if err != nil {
		p.t.Fatal(err)
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		p.t.Fatal(err)
	}
	file.Datastore.FilestoreDirectory = filepath.Join(p.dir, "store")
	file.Frontend.BindPort, file.API.BindPort, file.GUI.BindPort, file.Monitoring.BindPort, file.Bus.BindPort = 0, 0, 0, 0, 0
	if edit != nil {
		edit(file)
	}
	return file
}

// Mount gives nodes that start from now on another disk; nil: a new temporary one.
func (p *Pack) Mount(below filestore.FS) {
	p.t.Helper()
	if below == nil {
		root := filepath.Join(p.dir, "store")
		if err := os.MkdirAll(root, 0o750); err != nil {
			p.t.Fatal(err)
		}
		folder, err := filestore.OpenOS(root)
		if err != nil {
			p.t.Fatal(err)
		}
		p.t.Cleanup(func() { folder.Close() })
		below = unsynced{folder}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.store = &disk{FS: below, kept: filepath.Join(p.dir, "kept")}
}

func (p *Pack) disk() *disk {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.store
}

// Start starts every node and returns when all are ready and one leads.
func (p *Pack) Start() {
	p.t.Helper()
	for _, n := range p.Nodes {
		n.Start()
	}
	p.WaitReady()
}

// WaitReady returns when every node that is wanted is ready and one leads.
func (p *Pack) WaitReady() {
	p.t.Helper()
	p.Wait("all nodes to be ready", p.whole)
}

// AwaitWhole is WaitReady for those who go on if it does not come to that.
func (p *Pack) AwaitWhole() bool {
	_, ok := p.await(patience, p.whole)
	return ok
}

// whole reports whether every node that is wanted is ready and one leads.
func (p *Pack) whole() (bool, string) {
	ready, leads := true, false
	var text strings.Builder
	for _, n := range p.Nodes {
		if !n.Wanted() {
			continue
		}
		err := n.Ready()
		ready = ready && err == nil
		leads = leads || n.Leads() != 0
		fmt.Fprintf(&text, "%s: %v, leads %d; ", n.Name, err, n.Leads())
	}
	return ready && leads, text.String()
}

// Leads is the epoch that the node leads, 0: none.
func (n *Node) Leads() uint64 {
	if one := n.Process(); one != nil {
		return one.Leads()
	}
	return 0
}

// Master waits for a node that leads.
func (p *Pack) Master() *Node {
	p.t.Helper()
	var found *Node
	p.Wait("a master", func() (bool, string) {
		var epoch uint64
		for _, n := range p.Nodes {
			if leads := n.Leads(); leads > epoch {
				found, epoch = n, leads
			}
		}
		return found != nil, ""
	})
	return found
}

// Others are all nodes but these.
func (p *Pack) Others(but ...*Node) []*Node {
	var rest []*Node
	for _, n := range p.Nodes {
		if !slices.Contains(but, n) {
			rest = append(rest, n)
		}
	}
	return rest
}

// Pause silences the whole network of a node: nobody hears it, it hears nobody, and
// no connection ends.
func (p *Pack) Pause(n *Node) { p.around(n, p.Net.Silence) }

// Isolate cuts a node off from everybody.
func (p *Pack) Isolate(n *Node) { p.around(n, p.Net.Cut) }

// Rejoin undoes Pause and Isolate.
func (p *Pack) Rejoin(n *Node) { p.around(n, p.Net.Heal) }

func (p *Pack) around(n *Node, do func(a, b string)) {
	for _, other := range p.Others(n) {
		do(n.Name, other.Name)
	}
	do(n.Name, Agents)
	do(n.Name, Operators)
}

// HealAll ends all faults of disks and links.
func (p *Pack) HealAll() {
	p.Net.HealAll()
	p.mu.Lock()
	clear(p.hidden)
	p.mu.Unlock()
	p.ring()
	for _, n := range p.Nodes {
		if fs := n.FS(); fs != nil {
			fs.Clear()
			n.Stale(0)
		}
	}
}

// patience bounds waiting for conditions; only a broken build waits so long. One that
// is broken on purpose is not waited for.
var patience = func() time.Duration {
	if slices.ContainsFunc(seeded.Guards, seeded.Out) {
		return 10 * time.Second
	}
	return 90 * time.Second
}()

// Wait waits for a condition and prints its last state when it gives up.
func (p *Pack) Wait(what string, met func() (bool, string)) {
	p.t.Helper()
	if last, ok := p.await(patience, met); !ok {
		p.t.Fatalf("waited %v for %s; last: %s", patience, what, last)
	}
}

// await waits for a condition and returns its last state.
func (p *Pack) await(limit time.Duration, met func() (bool, string)) (last string, ok bool) {
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	poll := time.NewTicker(5 * time.Millisecond)
	defer poll.Stop()
	for {
		if ok, last = met(); ok {
			return last, true
		}
		select {
		case <-poll.C:
		case <-deadline.C:
			return last, false
		}
	}
}

// end clears everything away.
func (p *Pack) end() {
	for _, w := range p.works {
		w.cancel()
	}
	p.HealAll()
	for _, w := range p.works {
		w.Stop()
	}
	for _, stop := range p.stops {
		stop()
	}
	for _, n := range p.Nodes {
		n.Kill()
	}
	p.lives.Wait()
	for _, n := range p.Nodes {
		if n.Log.Has("panic") {
			p.t.Errorf("something panicked on %s", n.Name)
		}
		if p.t.Failed() {
			p.t.Logf("log of %s ends:\n%s", n.Name, n.Log.Tail(6000))
		}
	}
}
