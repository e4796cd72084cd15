//go:build nfslab

package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/config"
)

// Cluster is a node and an agent on machines of their own (guest kernels of
// lab/umlnfs), with the filestore on the NFS server of a third. Any of them can
// lose its power.
type Cluster struct {
	t       testing.TB
	dir     string // on the host; the guests may read it
	binary  string
	file    *config.Loaded
	history string // the host's copy of the agent's history, as it grows
	agent   *process
	tail    *process
	server  *process

	// outage says that the store was away: a node that cannot go on after it ends by
	// itself and is started again, as systemd would. Without an outage an end is a
	// failure.
	outage   bool
	Restarts int // how often that was needed

	Client string // the agent's id

	seen    int // acknowledgements at the last call of Progress
	written int // files made for the guests; each is read once only
	began   int // length of the node's log when it was started last
	nfsOff  bool
}

// The machines of the lab.
const (
	NodeMachine  = "c1"
	AgentMachine = "c2"
	NFSServer    = "server"
)

// LaunchCluster makes a deployment whose store lies below /mnt; nothing runs yet.
func LaunchCluster(t testing.TB, name, binary string) *Cluster {
	t.Helper()
	if os.Getenv("LAB_MODE") != "cluster" || os.Getenv("UMLNFS") == "" {
		t.Fatal("these stories run inside `umlnfs.sh cluster` (make integration-nfs)")
	}
	if binary == "" {
		t.Fatal("no binary of the program: the guests cannot build one")
	}
	c := &Cluster{t: t, dir: t.TempDir(), binary: binary}
	c.history = c.path("history.jsonl")
	store := filepath.Join(os.Getenv("LAB_MOUNT"), name)
	merge := map[string]any{
		"Frontend": map[string]any{"bind_address": "0.0.0.0", "bind_port": 8000, "hostname": "localhost", "do_not_compress_artifacts": true},
		"Pack":     map[string]any{"reserve_bytes": 1 << 20},
		"Client": map[string]any{
			"server_urls": []string{"https://" + address(t, NodeMachine) + ":8000/"},
			"max_poll":    2, "max_poll_std": 1, "min_poll": 1, "default_server_flow_stats_update": 1,
		},
	}
	text, err := json.Marshal(merge)
	if err != nil {
		t.Fatal(err)
	}
	generated, err := config.Generate(config.GenerateOptions{Datastore: store, MergeJSON: string(text), Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	c.write("server.yaml", generated)
	if c.file, err = config.Load(c.path("server.yaml"), config.Options{}); err != nil {
		t.Fatal(err)
	}
	client, err := c.file.ClientFile()
	if err != nil {
		t.Fatal(err)
	}
	c.write("client.yaml", client)
	t.Cleanup(c.stop)
	return c
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

func (c *Cluster) path(name string) string { return filepath.Join(c.dir, name) }

func (c *Cluster) write(name string, text []byte) {
	c.t.Helper()
	if err := os.WriteFile(c.path(name), text, 0o600); err != nil {
		c.t.Fatal(err)
	}
}

// Store is the folder of the filestore, the same in every guest.
func (c *Cluster) Store() string { return c.file.Datastore.FilestoreDirectory }

// lab talks to the lab: kill, boot.
func (c *Cluster) lab(words ...string) {
	c.t.Helper()
	out, err := exec.Command(os.Getenv("UMLNFS"), words...).CombinedOutput()
	if err != nil {
		c.t.Fatalf("lab %s: %v\n%s", strings.Join(words, " "), err, out)
	}
}

// Inside runs a command in a guest and returns what it printed.
func (c *Cluster) Inside(machine string, argv ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	out, err := exec.CommandContext(ctx, os.Getenv("UMLNFS"), append([]string{"exec", machine, "--"}, argv...)...).CombinedOutput()
	if err != nil {
		return out, fmt.Errorf("%s on %s: %w: %s", filepath.Base(argv[0]), machine, err, bytes.TrimSpace(out))
	}
	return out, nil
}

// start runs a command in a guest until it ends or its power is cut; what it
// prints is kept on the host.
func (c *Cluster) start(machine, log string, argv ...string) *process {
	c.t.Helper()
	return launch(c.t, exec.Command(os.Getenv("UMLNFS"), append([]string{"exec", machine, "--"}, argv...)...), c.path(log))
}

// StartServer starts the node in its guest and does not wait for it.
func (c *Cluster) StartServer() {
	c.t.Helper()
	c.began = 0
	if log, err := os.ReadFile(c.path("server.log")); err == nil {
		c.began = len(log)
	}
	c.server = c.start(NodeMachine, "server.log", c.binary, "frontend", "--master", "--config", c.path("server.yaml"), "--log-level", "info")
}

// AddAgent starts the agent in its guest, whose power stays on, and returns when
// the node knows it.
func (c *Cluster) AddAgent() {
	c.t.Helper()
	if out, err := c.Inside(AgentMachine, "mkdir", "-p", "/run/agent"); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	if out, err := c.Inside(AgentMachine, "touch", "/run/agent/history.jsonl"); err != nil {
		c.t.Fatalf("%v\n%s", err, out)
	}
	c.agent = c.start(AgentMachine, "agent.log", c.binary, "client", "--config", c.path("client.yaml"),
		"--writeback", "/run/agent/writeback.yaml", "--buffer", "/run/agent/buffer",
		"--history", "/run/agent/history.jsonl", "--min-back-off", "200ms")
	c.tail = c.start(AgentMachine, "history.jsonl", "tail", "-n", "+1", "-f", "/run/agent/history.jsonl")
	c.wait("the agent to be enrolled", func() (bool, string) {
		var list []struct {
			ID     string `json:"client_id"`
			Online bool   `json:"online"`
		}
		if err := c.operator(&list, "clients", "list"); err != nil {
			return false, err.Error()
		}
		if len(list) != 1 || !list[0].Online {
			return false, fmt.Sprintf("%+v", list)
		}
		c.Client = list[0].ID
		return true, ""
	})
}

// operator runs the command line on the node's machine. into, a pointer to a
// slice, gets the rows that were printed.
func (c *Cluster) operator(into any, words ...string) error {
	argv := append([]string{c.binary}, words...)
	argv = append(argv, "--quiet", "--format", "jsonl", "--log-level", "error", "--config", c.path("server.yaml"))
	out, err := c.Inside(NodeMachine, argv...)
	if err != nil {
		return err
	}
	if into == nil {
		return nil
	}
	var rows [][]byte // standard error is among the lines
	for line := range bytes.Lines(out) {
		if bytes.HasPrefix(line, []byte("{")) {
			rows = append(rows, bytes.TrimSpace(line))
		}
	}
	if err := json.Unmarshal([]byte("["+string(bytes.Join(rows, []byte(",")))+"]"), into); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// SetArtifact stores a custom definition.
func (c *Cluster) SetArtifact(text string) {
	c.t.Helper()
	c.written++
	name := "artifact-" + strconv.Itoa(c.written) + ".yaml"
	c.write(name, []byte(text))
	if err := c.operator(nil, "artifacts", "set", c.path(name)); err != nil {
		c.t.Fatal(err)
	}
}

// Collect starts one collection of several artifacts and returns its id.
// Parameters are Artifact.Name.Parameter=value.
func (c *Cluster) Collect(artifacts []string, parameters ...string) string {
	c.t.Helper()
	words := append([]string{"collect", c.Client}, artifacts...)
	words = append(words, "--timeout", "2h")
	for _, one := range parameters {
		words = append(words, "--param", one)
	}
	var started []struct {
		Flow string `json:"flow_id"`
	}
	if err := c.operator(&started, words...); err != nil {
		c.t.Fatal(err)
	}
	if len(started) != 1 || started[0].Flow == "" {
		c.t.Fatalf("collect printed %+v", started)
	}
	return started[0].Flow
}

// Await returns a flow when it has a final state.
func (c *Cluster) Await(flow string, limit time.Duration) Flow {
	c.t.Helper()
	var f Flow
	c.waitFor(limit, "flow "+flow+" to end", func() (bool, string) {
		var rows []Flow
		err := c.operator(&rows, "flows", "show", c.Client, flow)
		if err != nil || len(rows) != 1 {
			return false, fmt.Sprintf("%+v, %v", rows, err)
		}
		f = rows[0]
		switch f.State {
		case "completed", "incomplete", "errored", "cancelled":
			return true, ""
		}
		return false, fmt.Sprintf("%+v", f)
	})
	return f
}

// Uploads lists what a flow uploaded.
func (c *Cluster) Uploads(flow string) []Upload {
	c.t.Helper()
	var list []Upload
	c.wait("the list of uploads", func() (bool, string) {
		err := c.operator(&list, "uploads", "list", c.Client, flow)
		return err == nil, fmt.Sprint(err)
	})
	return list
}

// Acknowledged returns how many messages of a flow were acknowledged so far.
func (c *Cluster) Acknowledged(flow string) int {
	c.t.Helper()
	return len(c.acknowledged(flow))
}

func (c *Cluster) acknowledged(flow string) []agent.Acknowledged {
	c.t.Helper()
	acked, err := readHistory(c.history, flow)
	if err != nil {
		c.t.Fatal(err)
	}
	return acked
}

// Progress returns true once more of a flow was acknowledged than at the call
// before, rows among it, and false if the flow ended first.
func (c *Cluster) Progress(flow string) bool {
	c.t.Helper()
	ended := false
	c.wait("progress of flow "+flow, func() (bool, string) {
		acked := c.acknowledged(flow)
		rows := false
		for _, one := range acked {
			rows = rows || one.Kind == "rows"
			ended = ended || one.Kind == "end"
		}
		if ended || rows && len(acked) > c.seen {
			c.seen = len(acked)
			return true, ""
		}
		return false, fmt.Sprintf("%d acknowledgements, rows among them: %v", len(acked), rows)
	})
	return !ended
}

// Forget makes the next Progress count from here.
func (c *Cluster) Forget(flow string) {
	c.t.Helper()
	c.seen = c.Acknowledged(flow)
}

// NodeSays waits until the node has printed text since it was started last, or
// since the mark of NodeLog.
func (c *Cluster) NodeSays(mark int, text string) {
	c.t.Helper()
	c.wait("the node to say "+strconv.Quote(text), func() (bool, string) {
		log := c.log("server.log")
		from := max(mark, c.began)
		return bytes.Contains(log[min(from, len(log)):], []byte(text)), ""
	})
}

// NodeLog is the present length of the node's log.
func (c *Cluster) NodeLog() int {
	c.t.Helper()
	return len(c.log("server.log"))
}

// CutNode takes the power from the node's machine: process, page cache and NFS
// client are gone.
func (c *Cluster) CutNode() {
	c.t.Helper()
	c.lab("kill", NodeMachine)
	<-c.server.done
	c.server.log.Close()
	c.server, c.outage = nil, false
}

// PowerOnNode boots the node's machine and starts the node.
func (c *Cluster) PowerOnNode() {
	c.t.Helper()
	c.lab("boot", NodeMachine)
	c.StartServer()
}

// CutNFS takes the power from the NFS server: what it had not put on its disk is
// gone, its clients hang.
func (c *Cluster) CutNFS() {
	c.t.Helper()
	c.outage, c.nfsOff = true, true
	c.lab("kill", NFSServer)
}

// PowerOnNFS boots the NFS server, which begins with a grace period.
func (c *Cluster) PowerOnNFS() {
	c.t.Helper()
	c.lab("boot", NFSServer)
	c.nfsOff = false
}

// Check runs the checker on the agent's machine, which has never written to the
// store: it sees what the NFS server holds.
func (c *Cluster) Check(check Check) error {
	c.t.Helper()
	// Guests cache what they read of the host, so each check reads a file of its own.
	c.written++
	text, err := os.ReadFile(c.history)
	if err != nil {
		return fmt.Errorf("history: %w", err)
	}
	name := "history-" + strconv.Itoa(c.written) + ".jsonl"
	c.write(name, text)
	check.Store, check.Client, check.History = c.Store(), c.Client, c.path(name)
	asked, err := json.Marshal(check)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	out, err := c.Inside(AgentMachine, self, CheckWord, string(asked))
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 1 && bytes.HasPrefix(out, []byte(findings)) {
		return fmt.Errorf("%s", bytes.TrimSpace(bytes.TrimPrefix(out, []byte(findings))))
	}
	if err != nil {
		c.t.Fatalf("the checker did not run: %v", err)
	}
	return nil
}

// CheckWord is the first argument of the test program when it is to check a store
// inside a guest; the second is a Check as JSON.
const CheckWord = "check"

// findings stands before what a checker inside a guest found, so that nothing
// else is taken for it.
const findings = "FINDINGS\n"

// CheckInside is the test program's main function in a guest; it returns its exit
// code: 0 good, 1 findings, 2 no check was made.
func CheckInside(asked string) int {
	var check Check
	if err := json.Unmarshal([]byte(asked), &check); err != nil {
		fmt.Println(err)
		return 2
	}
	if err := check.Run(context.Background()); err != nil {
		fmt.Print(findings, err, "\n")
		return 1
	}
	return 0
}

func (c *Cluster) wait(what string, met func() (bool, string)) {
	c.t.Helper()
	c.waitFor(patience, what, met)
}

// waitFor waits for a condition while it looks after the node as systemd would.
func (c *Cluster) waitFor(limit time.Duration, what string, met func() (bool, string)) {
	c.t.Helper()
	await(c.t, limit, what, func() (bool, string) {
		c.supervise()
		return met()
	})
}

func (c *Cluster) supervise() {
	c.t.Helper()
	for _, one := range []*process{c.agent, c.tail} {
		if one == nil {
			continue
		}
		select {
		case <-one.done:
			c.t.Fatalf("the agent or the copy of its history ended: %v", one.err)
		default:
		}
	}
	if c.server == nil {
		return
	}
	select {
	case <-c.server.done:
	default:
		return
	}
	if !c.outage {
		c.t.Fatalf("the node ended by itself: %v", c.server.err)
	}
	c.Restarts++
	if c.Restarts > 50 {
		c.t.Fatalf("the node ends again and again: %v", c.server.err)
	}
	c.server.log.Close()
	c.StartServer()
}

func (c *Cluster) log(name string) []byte {
	c.t.Helper()
	text, err := os.ReadFile(c.path(name))
	if err != nil {
		c.t.Fatal(err)
	}
	return text
}

// stop ends what the story left running: the machines serve the next story.
func (c *Cluster) stop() {
	if c.t.Failed() {
		for _, name := range []string{"server.log", "agent.log"} {
			if text, err := os.ReadFile(c.path(name)); err == nil {
				c.t.Logf("%s ends:\n%s", name, text[max(0, len(text)-12000):])
			}
		}
	}
	// A hung mount would keep a process; a machine without power keeps none.
	words := [][2]string{{"kill", NodeMachine}, {"kill", AgentMachine}, {"boot", NodeMachine}, {"boot", AgentMachine}}
	if c.nfsOff {
		words = slices.Insert(words, 0, [2]string{"boot", NFSServer})
	}
	for _, one := range words {
		if out, err := exec.Command(os.Getenv("UMLNFS"), one[:]...).CombinedOutput(); err != nil {
			c.t.Errorf("lab %s %s: %v\n%s", one[0], one[1], err, out)
		}
	}
}
