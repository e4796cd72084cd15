//go:build nfslab

package integration

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"
)

// ClusterNode is one node of a Cluster, on a machine of its own.
type ClusterNode struct {
	Machine   string
	Candidate bool

	c     *Cluster
	door  *Node // its answers to operators on its machine
	quick *Node // the same for those who do not wait

	mu        sync.Mutex
	told      bool // to end, or it has no power: it is not started again
	suffering bool
	restarts  int
	ended     chan struct{} // closed when its process has ended for good; nil: never started
}

// promptly is how long an answer from memory may take, however busy the machine: a
// mount hangs for longer.
const promptly = 20 * time.Second

func newClusterNode(c *Cluster, machine string, candidate bool) *ClusterNode {
	n := &ClusterNode{Machine: machine, Candidate: candidate, c: c, told: true}
	n.door = &Node{Name: machine, file: c.pack.file, pack: &Pack{t: c.t, file: c.pack.file, http: c.caller(n.dial)}}
	n.quick = &Node{Name: machine, file: c.pack.file, pack: &Pack{t: c.t, file: c.pack.file, http: c.caller(n.dial)}}
	n.quick.pack.http.Timeout = promptly
	return n
}

func (n *ClusterNode) dial(ctx context.Context, _, at string) (net.Conn, error) {
	return n.c.connect(ctx, n.Machine, at)
}

// Start starts the node's process and does not wait for it. When it ends by itself
// it is started again, as systemd would; without an outage its end is a failure.
func (n *ClusterNode) Start() {
	ended := make(chan struct{})
	n.mu.Lock()
	n.told, n.ended = false, ended
	n.mu.Unlock()
	n.c.work.Go(func() {
		defer close(ended)
		n.keep()
	})
}

// keep runs the process, again and again if need be.
func (n *ClusterNode) keep() {
	for {
		err := n.run()
		again, why := n.again()
		if why != "" {
			n.c.t.Errorf("%s %s: %v", n.Machine, why, err)
		}
		if !again {
			return
		}
	}
}

// again decides whether a process that has ended is started anew, and says what is
// wrong if it should not have ended.
func (n *ClusterNode) again() (again bool, why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	switch {
	case n.told:
		return false, ""
	case !n.suffering:
		return false, "ended by itself"
	case n.restarts >= 50:
		return false, "ends again and again"
	}
	n.restarts++
	return true, ""
}

// pidFile holds the process id of the node, in its guest.
const pidFile = "/run/node.pid"

// run runs the node's process once.
func (n *ClusterNode) run() error {
	log, err := os.OpenFile(n.c.pack.path(n.Machine+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	role := "--minion"
	if n.Candidate {
		role = "--master"
	}
	cmd := inside(context.Background(), n.Machine, "sh", "-c", `echo $$ >`+pidFile+`; exec "$@"`, "sh",
		n.c.pack.binary, "frontend", role, "--config", n.c.pack.path("server.yaml"), "--log-level", "info")
	cmd.Stdout, cmd.Stderr = log, log
	return cmd.Run()
}

// tell says whether the process is meant to run.
func (n *ClusterNode) tell(toEnd bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.told = toEnd
}

// suffers says that the store is away from the node: its lease may lapse, and then
// its process may end by itself, until WaitReady.
func (n *ClusterNode) suffers() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.suffering = true
}

// Running reports whether the process is meant to run.
func (n *ClusterNode) Running() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.told
}

// Restarts is how often the process ended by itself and was started again.
func (n *ClusterNode) Restarts() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.restarts
}

// WaitReady returns when the node says that it can serve.
func (n *ClusterNode) WaitReady() {
	n.c.t.Helper()
	n.c.Wait(n.Machine+" to be ready", func() (bool, string) {
		select {
		case <-n.ended:
			n.c.t.Fatalf("%s does not run", n.Machine)
		default:
		}
		s, err := n.Status()
		return err == nil && s.Ready == "", fmt.Sprintf("%+v, %v", s, err)
	})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.suffering = false
}

// Status asks the node what it says of itself.
func (n *ClusterNode) Status() (Status, error) {
	if !n.Running() {
		return Status{}, fmt.Errorf("%s does not run", n.Machine)
	}
	return n.door.Status()
}

// Leads reports whether the node says that it is the master.
func (n *ClusterNode) Leads() bool {
	s, err := n.Status()
	return err == nil && s.Role == "master"
}

// Lapsed reports whether the node says that its lease has lapsed.
func (n *ClusterNode) Lapsed() (bool, string) {
	s, err := n.Status()
	return err == nil && strings.Contains(s.Ready, "lease has lapsed"), fmt.Sprintf("%+v, %v", s, err)
}

// Burials is how many of the node's incarnations others have buried, as seen from
// the machine of another node.
func (n *ClusterNode) Burials(from *ClusterNode) int {
	n.c.t.Helper()
	folder := filepath.Join(n.c.Store(), "nodes", n.Machine+"-8000")
	out, err := n.c.Inside(from.Machine, "sh", "-c", `cat "$1"/*.end-* 2>/dev/null`, "sh", folder)
	if err != nil && len(out) > 0 {
		n.c.t.Fatal(err)
	}
	return bytes.Count(out, []byte(`"buried"`))
}

// Label adds or removes a label of a client, once.
func (n *ClusterNode) Label(client, label, key string, remove bool) error {
	verb := "add"
	if remove {
		verb = "remove"
	}
	return n.door.Post("/clients/labels", key, map[string]any{"clients": []string{client}, verb: []string{label}}, nil)
}

// Labels are the labels of a client as this node knows them.
func (n *ClusterNode) Labels(client string) ([]string, error) {
	var c struct{ Labels []string }
	err := n.door.pack.Get("/clients/"+client, &c)
	return c.Labels, err
}

// Kill is kill -9; it returns when the process has ended.
func (n *ClusterNode) Kill() {
	n.c.t.Helper()
	n.end("KILL")
}

// Stop is SIGTERM; it returns when the process has ended.
func (n *ClusterNode) Stop() {
	n.c.t.Helper()
	n.end("TERM")
}

func (n *ClusterNode) end(signal string) {
	n.c.t.Helper()
	n.tell(true)
	n.c.Wait("the process of "+n.Machine+" to end", func() (bool, string) {
		// One that is just being started gets the next signal.
		out, err := n.c.Inside(n.Machine, "sh", "-c", "kill -"+signal+" $(cat "+pidFile+")")
		select {
		case <-n.ended:
			return true, ""
		case <-time.After(200 * time.Millisecond):
			return false, fmt.Sprintf("%s %v", out, err)
		}
	})
}

// Pause is SIGSTOP: the process stands still until Resume.
func (n *ClusterNode) Pause() {
	n.c.t.Helper()
	n.suffers()
	n.signal("STOP")
}

// Resume is SIGCONT.
func (n *ClusterNode) Resume() {
	n.c.t.Helper()
	n.signal("CONT")
}

func (n *ClusterNode) signal(name string) {
	n.c.t.Helper()
	if _, err := n.c.Inside(n.Machine, "sh", "-c", "kill -"+name+" $(cat "+pidFile+")"); err != nil {
		n.c.t.Fatal(err)
	}
}

// CutPower takes the power from the node's machine: process, page cache and NFS
// client are gone.
func (n *ClusterNode) CutPower() {
	n.c.t.Helper()
	n.tell(true)
	n.c.lab("kill", n.Machine)
	<-n.ended
	n.door.pack.http.CloseIdleConnections()
	n.quick.pack.http.CloseIdleConnections()
}

// PowerOn boots the node's machine and starts the node.
func (n *ClusterNode) PowerOn() {
	n.c.t.Helper()
	n.c.lab("boot", n.Machine)
	n.Start()
}

// Hang drops all that goes between the node's machine and the NFS server: its mount
// hangs, every other connection stays.
func (n *ClusterNode) Hang() {
	n.c.t.Helper()
	n.suffers()
	n.c.lab("net", n.Machine, "down="+NFSServer)
}

// Mend ends Hang.
func (n *ClusterNode) Mend() {
	n.c.t.Helper()
	n.c.lab("net", n.Machine, "up="+NFSServer)
}

// Prompt asks the node for its status as somebody who turns away when it takes long.
func (n *ClusterNode) Prompt() (Status, time.Duration, error) {
	begin := time.Now()
	s, err := n.quick.Status()
	return s, time.Since(begin), err
}
