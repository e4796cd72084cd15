//go:build nfslab

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"raptorpack/config"
)

// Cluster is a pack whose nodes and agents have machines of their own (guest kernels
// of lab/umlnfs), with the filestore on the NFS server of one more. Any of them can
// lose its power.
type Cluster struct {
	t       testing.TB
	pack    *Pack // its file, and calls to whichever node answers
	nodes   []*ClusterNode
	agents  []*ClusterAgent
	written int // files made for the guests, which cache what they read: each is read once only
	nfsOff  bool
	turn    atomic.Uint64  // of the nodes, for calls to any of them
	over    atomic.Bool    // the story has ended: whatever runs is ended
	work    sync.WaitGroup // whoever looks after a process in a guest
}

// The machines of the lab.
const (
	AgentMachine = "c4"
	NFSServer    = "server"
)

// nodeMachines are those of the nodes, candidates first.
var nodeMachines = []struct {
	name      string
	candidate bool
}{{"c1", true}, {"c2", true}, {"c3", false}}

// LaunchCluster makes a deployment whose store lies below the NFS mount; nothing
// runs yet.
func LaunchCluster(t testing.TB, name, binary string) *Cluster {
	t.Helper()
	if os.Getenv("LAB_MODE") != "cluster" || os.Getenv("UMLNFS") == "" {
		t.Fatal("these stories run inside `umlnfs.sh cluster` (make integration-nfs)")
	}
	if binary == "" {
		t.Fatal("no binary of the program: the guests cannot build one")
	}
	c := &Cluster{t: t, pack: &Pack{t: t, dir: t.ArtifactDir(), binary: binary}}
	text, err := json.Marshal(clusterConfig(t))
	if err != nil {
		t.Fatal(err)
	}
	generated, err := config.Generate(config.GenerateOptions{
		Datastore: filepath.Join(os.Getenv("LAB_MOUNT"), name), MergeJSON: string(text), Now: time.Now(),
	})
	if err != nil {
		t.Fatal(err)
	}
	c.pack.write("server.yaml", generated)
	if c.pack.file, err = config.Load(c.pack.path("server.yaml"), config.Options{}); err != nil {
		t.Fatal(err)
	}
	c.pack.http = c.caller(c.toAny)
	c.pack.http.Transport.(*http.Transport).DisableKeepAlives = true // each call looks for a node anew
	for _, m := range nodeMachines {
		c.nodes = append(c.nodes, newClusterNode(c, m.name, m.candidate))
	}
	t.Cleanup(c.stop)
	return c
}

// clusterConfig is laid over the generated file. The ports are those that a
// deployment has.
func clusterConfig(t testing.TB) map[string]any {
	var join, urls []string
	for _, m := range nodeMachines {
		join = append(join, address(t, m.name)+":7946")
		urls = append(urls, clientURL(t, m.name))
	}
	return map[string]any{
		"Frontend": map[string]any{"bind_address": "0.0.0.0", "bind_port": 8000, "hostname": "localhost", "do_not_compress_artifacts": true},
		"Gossip":   map[string]any{"join": join},
		"Pack":     map[string]any{"reserve_bytes": 1 << 20},
		"Client": map[string]any{
			"server_urls": urls,
			"max_poll":    2, "max_poll_std": 1, "min_poll": 1, "default_server_flow_stats_update": 1,
			"ws_ping_wait_sec": 10, // an agent hears nothing of a machine whose power was cut
		},
	}
}

func clientURL(t testing.TB, machine string) string {
	return "https://" + address(t, machine) + ":8000/"
}

// address of a machine; it exists only inside the lab.
func address(t testing.TB, machine string) string {
	t.Helper()
	for _, one := range strings.Fields(os.Getenv("LAB_NODES")) {
		if at, ok := strings.CutPrefix(one, machine+"="); ok {
			return at
		}
	}
	t.Fatalf("no machine %s in LAB_NODES=%q", machine, os.Getenv("LAB_NODES"))
	return ""
}

// Nodes are all nodes of the pack, candidates first.
func (c *Cluster) Nodes() []*ClusterNode { return c.nodes }

// Store is the folder of the filestore, the same in every guest.
func (c *Cluster) Store() string { return c.pack.Store() }

// Wait waits for a condition.
func (c *Cluster) Wait(what string, met func() (bool, string)) {
	c.t.Helper()
	await(c.t, patience, what, met)
}

// StartAll starts every node and returns when all are ready and one leads.
func (c *Cluster) StartAll() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.Start()
	}
	c.WaitAllReady()
}

// WaitAllReady returns when all nodes can serve and one leads. An outage is over
// then: a node that ends by itself from now on has failed.
func (c *Cluster) WaitAllReady() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.WaitReady()
	}
	c.Master()
}

// Master waits for a node that leads. Those of not are not asked: one that stands
// still would not answer.
func (c *Cluster) Master(not ...*ClusterNode) *ClusterNode {
	c.t.Helper()
	var found *ClusterNode
	c.Wait("a master", func() (bool, string) {
		var all []string
		for _, n := range c.nodes {
			if slices.Contains(not, n) {
				continue
			}
			s, err := n.Status()
			all = append(all, fmt.Sprintf("%s: %+v %v", n.Machine, s, err))
			if err == nil && s.Role == "master" {
				found = n
			}
		}
		return found != nil, strings.Join(all, "\n")
	})
	return found
}

// lab talks to the lab: kill, boot, net.
func (c *Cluster) lab(words ...string) {
	c.t.Helper()
	if err := labDoes(words...); err != nil {
		c.t.Fatal(err)
	}
}

func labDoes(words ...string) error {
	out, err := exec.Command(os.Getenv("UMLNFS"), words...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("lab %s: %w\n%s", strings.Join(words, " "), err, out)
	}
	return nil
}

// inside is a command in a guest.
func inside(ctx context.Context, machine string, argv ...string) *exec.Cmd {
	return exec.CommandContext(ctx, os.Getenv("UMLNFS"), append([]string{"exec", machine, "--"}, argv...)...)
}

// Inside runs a command in a guest and returns what it printed.
func (c *Cluster) Inside(machine string, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := inside(ctx, machine, argv...).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s on %s: %w: %s", filepath.Base(argv[0]), machine, err, bytes.TrimSpace(out))
	}
	return out, nil
}

// caller is an operator's HTTP client whose connections are made by dial.
func (c *Cluster) caller(dial func(ctx context.Context, network, at string) (net.Conn, error)) *http.Client {
	c.t.Helper()
	client := c.pack.operator()
	client.Timeout = 20 * time.Second // a write waits up to 15 s for a master
	client.Transport.(*http.Transport).DialContext = dial
	return client
}

// toAny connects to one node after the other, as a balancer does.
func (c *Cluster) toAny(ctx context.Context, network, at string) (net.Conn, error) {
	for range c.nodes {
		n := c.nodes[c.turn.Add(1)%uint64(len(c.nodes))]
		if n.Running() {
			return n.dial(ctx, network, at)
		}
	}
	return nil, fmt.Errorf("dial %s: no node runs", at)
}

// connect makes a connection from inside a guest, as somebody on that machine would.
// The lab's cables are not in between: a machine without network answers too.
func (c *Cluster) connect(_ context.Context, machine, at string) (net.Conn, error) {
	ends, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("connect %s on %s: %w", at, machine, err)
	}
	ours, theirs := os.NewFile(uintptr(ends[0]), "ours"), os.NewFile(uintptr(ends[1]), "theirs")
	defer ours.Close()
	defer theirs.Close()
	conn, err := net.FileConn(ours)
	if err != nil {
		return nil, fmt.Errorf("connect %s on %s: %w", at, machine, err)
	}
	cmd := exec.Command(os.Getenv("UMLNFS"), "connect", machine, at)
	cmd.Stdin, cmd.Stdout = theirs, theirs
	if err := cmd.Start(); err != nil {
		conn.Close()
		return nil, fmt.Errorf("connect %s on %s: %w", at, machine, err)
	}
	c.work.Go(func() { _ = cmd.Wait() }) // why it ended shows at the other end
	return conn, nil
}

// CutNFS takes the power from the NFS server: what it had not put on its disk is
// gone, its clients hang.
func (c *Cluster) CutNFS() {
	c.t.Helper()
	for _, n := range c.nodes {
		n.suffers()
	}
	c.nfsOff = true
	c.lab("kill", NFSServer)
}

// PowerOnNFS boots the NFS server, which begins with a grace period.
func (c *Cluster) PowerOnNFS() {
	c.t.Helper()
	c.lab("boot", NFSServer)
	c.nfsOff = false
}

// Restarts is how often nodes ended by themselves and were started again.
func (c *Cluster) Restarts() int {
	all := 0
	for _, n := range c.nodes {
		all += n.Restarts()
	}
	return all
}

// tellGuests writes a file that guests have not read yet and returns its path.
func (c *Cluster) tellGuests(name string, text []byte) string {
	c.t.Helper()
	c.written++
	name = strconv.Itoa(c.written) + "-" + name
	c.pack.write(name, text)
	return c.pack.path(name)
}

// stop ends what the story left running: the machines serve the next story.
func (c *Cluster) stop() {
	if c.t.Failed() {
		c.printLogs()
	}
	c.over.Store(true)
	for _, n := range c.nodes {
		n.tell(true)
	}
	if c.nfsOff {
		c.try("boot", NFSServer)
	}
	var machines sync.WaitGroup
	for _, m := range strings.Fields(os.Getenv("LAB_NODES")) {
		name, _, _ := strings.Cut(m, "=")
		// A hung mount would keep a process; a machine without power keeps none.
		machines.Go(func() {
			c.try("net", name, "up="+NFSServer)
			c.try("kill", name)
			c.try("boot", name)
		})
	}
	machines.Wait()
	c.work.Wait()
}

func (c *Cluster) try(words ...string) {
	if err := labDoes(words...); err != nil {
		c.t.Error(err)
	}
}

// printLogs shows the ends of all logs; a story that fails is seldom about one node.
func (c *Cluster) printLogs() {
	var names []string
	for _, n := range c.nodes {
		names = append(names, n.Machine+".log")
	}
	for _, a := range c.agents {
		names = append(names, filepath.Join(a.name, "agent.log"))
	}
	for _, name := range names {
		text, err := os.ReadFile(c.pack.path(name))
		if err == nil {
			c.t.Logf("%s ends:\n%s", name, text[max(0, len(text)-12000):])
		}
	}
}
