//go:build nfslab

package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/config"
)

// ClusterAgent is an agent on the agents' machine, whose power stays on.
type ClusterAgent struct {
	ID string

	c    *Cluster
	left atomic.Bool // it was told to end
	name string      // of its folders, in the guest and on the host
	flow string      // that seen speaks of
	seen int         // acknowledgements at the last call of Progress
}

// AddAgent starts an agent that knows only some nodes, none: all. It returns when
// the pack knows it and it is connected.
func (c *Cluster) AddAgent(nodes ...*ClusterNode) *ClusterAgent {
	c.t.Helper()
	a := &ClusterAgent{c: c, name: "agent-" + strconv.Itoa(len(c.agents))}
	c.agents = append(c.agents, a)
	if err := os.Mkdir(c.pack.path(a.name), 0o700); err != nil {
		c.t.Fatal(err)
	}
	in := a.inside("")
	if _, err := c.Inside(AgentMachine, "sh", "-c", `mkdir -p "$1" && touch "$1/history.jsonl"`, "sh", in); err != nil {
		c.t.Fatal(err)
	}
	a.run("agent.log", "sh", "-c", `echo $$ >"$1"; shift; exec "$@"`, "sh", a.inside("pid"), c.pack.binary, "client", "--config", c.clientFile(nodes), "--writeback", a.inside("writeback.yaml"),
		"--buffer", a.inside("buffer"), "--history", a.inside("history.jsonl"), "--min-back-off", "200ms")
	a.run("history.jsonl", "tail", "-n", "+1", "-f", a.inside("history.jsonl"))
	c.Wait(a.name+" to know its id", func() (bool, string) { return a.learnID() })
	c.Wait(a.name+" to be connected", func() (bool, string) {
		var seen struct{ Online bool }
		err := c.pack.Get("/clients/"+a.ID, &seen)
		return err == nil && seen.Online, fmt.Sprint(err)
	})
	return a
}

// clientFile makes an agent's configuration with the addresses of some nodes.
func (c *Cluster) clientFile(nodes []*ClusterNode) string {
	c.t.Helper()
	file, err := config.Load(c.pack.path("server.yaml"), config.Options{})
	if err != nil {
		c.t.Fatal(err)
	}
	if len(nodes) > 0 {
		file.Client.ServerURLs = nil
	}
	for _, n := range nodes {
		file.Client.ServerURLs = append(file.Client.ServerURLs, clientURL(c.t, n.Machine))
	}
	text, err := file.ClientFile()
	if err != nil {
		c.t.Fatal(err)
	}
	return c.tellGuests("client.yaml", text)
}

func (a *ClusterAgent) inside(file string) string { return path.Join("/run", a.name, file) }

// history is the host's copy of what the agent was told, as it grows.
func (a *ClusterAgent) history() string { return a.c.pack.path(filepath.Join(a.name, "history.jsonl")) }

// Leave ends the agent: its client stays known.
func (a *ClusterAgent) Leave() {
	a.c.t.Helper()
	a.left.Store(true)
	if _, err := a.c.Inside(AgentMachine, "sh", "-c", `kill $(cat "$1")`, "sh", a.inside("pid")); err != nil {
		a.c.t.Fatal(err)
	}
}

// run runs a command on the agents' machine; before Leave it must not end.
func (a *ClusterAgent) run(log string, argv ...string) {
	a.c.t.Helper()
	p := launch(a.c.t, inside(context.Background(), AgentMachine, argv...), a.c.pack.path(filepath.Join(a.name, log)))
	a.c.work.Go(func() {
		<-p.done
		p.log.Close()
		if !a.c.over.Load() && !a.left.Load() {
			a.c.t.Errorf("%s: %s ended by itself: %v", a.name, filepath.Base(argv[0]), p.err)
		}
	})
}

func (a *ClusterAgent) learnID() (bool, string) {
	text, err := a.c.Inside(AgentMachine, "cat", a.inside("writeback.yaml"))
	if err != nil {
		return false, err.Error()
	}
	for line := range bytes.Lines(text) {
		if id, ok := strings.CutPrefix(string(line), "client_id:"); ok {
			a.ID = strings.Trim(strings.TrimSpace(id), `"`)
			return true, ""
		}
	}
	return false, string(text)
}

// SetArtifact stores a custom definition.
func (c *Cluster) SetArtifact(text string) {
	c.t.Helper()
	c.pack.SetArtifact(text)
}

// Collect collects artifacts, each with its parameters, in one flow.
func (a *ClusterAgent) Collect(artifacts map[string]map[string]string) string {
	a.c.t.Helper()
	return a.c.pack.CollectAll(&Agent{ID: a.ID}, artifacts)
}

// Await returns a flow when it has a final state.
func (a *ClusterAgent) Await(flow string, limit time.Duration) Flow {
	a.c.t.Helper()
	var f Flow
	await(a.c.t, limit, "flow "+flow+" to end", func() (bool, string) {
		err := a.c.pack.Get("/clients/"+a.ID+"/flows/"+flow, &f)
		switch f.State {
		case "completed", "incomplete", "errored", "cancelled":
			return err == nil, fmt.Sprint(err)
		}
		return false, fmt.Sprintf("%+v, %v", f, err)
	})
	return f
}

// Uploads lists what a flow uploaded.
func (a *ClusterAgent) Uploads(flow string) []Upload {
	a.c.t.Helper()
	return a.c.pack.Uploads(&Agent{ID: a.ID}, flow)
}

// Acknowledged returns how many messages of a flow were acknowledged so far.
func (a *ClusterAgent) Acknowledged(flow string) int {
	a.c.t.Helper()
	return len(a.acknowledged(flow))
}

func (a *ClusterAgent) acknowledged(flow string) []agent.Acknowledged {
	a.c.t.Helper()
	acked, err := readHistory(a.history(), flow)
	if err != nil {
		a.c.t.Fatal(err)
	}
	return acked
}

// Progress returns true once more of a flow was acknowledged than at the call
// before, rows among it, and false if the flow ended first.
func (a *ClusterAgent) Progress(flow string) bool {
	a.c.t.Helper()
	if a.flow != flow {
		a.flow, a.seen = flow, 0
	}
	ended := false
	a.c.Wait("progress of flow "+flow, func() (bool, string) {
		acked := a.acknowledged(flow)
		rows := false
		for _, one := range acked {
			rows = rows || one.Kind == "rows"
			ended = ended || one.Kind == "end"
		}
		if ended || rows && len(acked) > a.seen {
			a.seen = len(acked)
			return true, ""
		}
		return false, fmt.Sprintf("%d acknowledgements, rows among them: %v", len(acked), rows)
	})
	return !ended
}

// Forget makes the next Progress count from here.
func (a *ClusterAgent) Forget() {
	a.c.t.Helper()
	a.seen = a.Acknowledged(a.flow)
}
