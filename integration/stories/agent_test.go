package stories_test

import (
	"context"
	"fmt"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/ids"
	"raptorpack/integration"
	"raptorpack/proto/wirepb"
	"raptorpack/wire/wiretest"
)

// numbers is a collection of many small batches, so that there is a middle.
const numbers = `name: Custom.Stories.Numbers
parameters:
- name: Rows
  type: int
resources:
  max_batch_rows: 100
sources:
- query: |
    SELECT _value AS N, "a row of some length, so that batches have some bytes" AS Filler FROM range(end=Rows)
`

const numbersName = "Custom.Stories.Numbers"

// endpoint is an agent that runs in this process.
type endpoint struct {
	p       *pack
	id      string
	history string
	log     *record
	stop    func()

	mu    sync.Mutex
	acked int64             // rows, of any flow
	flows map[string]int64  // rows, by flow
	watch func(acked int64) // told of each acknowledgement, from the sender's goroutine
}

// agent starts an agent with the n-th test key and waits until it is connected.
func (p *pack) agent(n int) *endpoint {
	p.t.Helper()
	a := p.newAgent(n, nil)
	a.waitOnline()
	return a
}

// newAgent starts an agent that may not get in.
func (p *pack) newAgent(n int, edit func(*client.Options)) *endpoint {
	p.t.Helper()
	key := wiretest.ClientKey(p.t, n)
	a := &endpoint{
		p: p, id: ids.ClientOfKey(&key.PublicKey).String(), log: &record{}, flows: map[string]int64{},
		history: filepath.Join(p.t.TempDir(), "history.jsonl"),
	}
	file := p.file.Client
	scheme := "https"
	if p.file.Frontend.UsePlainHTTP {
		scheme = "http"
	}
	file.ServerURLs = []string{scheme + "://localhost:" + strconv.Itoa(p.file.Frontend.BindPort) + "/"}
	o, err := agent.Options(file, agent.Settings{Logger: a.log.logger(), History: a.history, MinBackOff: 50 * time.Millisecond})
	if err != nil {
		p.t.Fatal(err)
	}
	o.Identity = &client.Identity{Key: key, ID: ids.ClientOfKey(&key.PublicKey), InstallTime: time.Now().UTC().Truncate(time.Second)}
	o.Buffer.Dir, o.MaxUploadSize = "", 8<<10
	o.MinPoll, o.MaxPoll, o.MaxPollStd, o.EnrolPause = 10*time.Millisecond, 200*time.Millisecond, 50*time.Millisecond, 200*time.Millisecond
	o.FlowUpdate = 100 * time.Millisecond
	take := o.Acknowledged
	o.Acknowledged = func(messages [][]byte) {
		take(messages)
		a.acknowledged(messages)
	}
	if edit != nil {
		edit(&o)
	}
	one, err := client.New(o)
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- one.Run(ctx) }()
	a.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Errorf("agent: %v", err)
		}
		o.Transport.Close()
	})
	p.t.Cleanup(func() {
		a.stop()
		if p.t.Failed() {
			p.t.Logf("agent's log:\n%s", a.log.tail(4000))
		}
	})
	return a
}

func (a *endpoint) acknowledged(messages [][]byte) {
	a.mu.Lock()
	for _, raw := range messages {
		var m wirepb.VeloMessage
		if err := proto.Unmarshal(raw, &m); err == nil {
			rows := int64(m.GetVqlResponse().GetTotalRows())
			a.acked += rows
			a.flows[m.SessionId] += rows
		}
	}
	acked, watch := a.acked, a.watch
	a.mu.Unlock()
	if watch != nil {
		watch(acked)
	}
}

func (a *endpoint) rowsAcked() int64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.acked
}

// atRow runs do once, when so many more rows are acknowledged. It runs in the
// sender's goroutine: no acknowledgement is on its way meanwhile. The channel is
// closed when do has run.
func (a *endpoint) atRow(more int64, do func()) <-chan struct{} {
	done := make(chan struct{})
	a.mu.Lock()
	defer a.mu.Unlock()
	from := a.acked
	once := sync.OnceFunc(func() {
		do()
		close(done)
	})
	a.watch = func(acked int64) {
		if acked >= from+more {
			once()
		}
	}
	return done
}

func (a *endpoint) waitOnline() {
	a.p.t.Helper()
	wait(a.p.t, "agent "+a.id+" to be connected", func() (bool, string) {
		var c struct{ Online bool }
		err := a.p.get("/clients/"+a.id, &c)
		return err == nil && c.Online, fmt.Sprint(err, " ", a.log.tail(500))
	})
}

// waitInterrogated waits until the server has taken over what the agent told of its
// host: from then on nothing changes by itself.
func (a *endpoint) waitInterrogated() {
	a.p.t.Helper()
	wait(a.p.t, "agent "+a.id+" to be interrogated", func() (bool, string) {
		var c struct{ Interrogated string }
		err := a.p.get("/clients/"+a.id, &c)
		return err == nil && c.Interrogated != "", fmt.Sprint(err)
	})
	a.waitQuiet()
}

// waitQuiet waits until the agent has nothing to do or to say: the interrogation
// of a new client is over.
func (a *endpoint) waitQuiet() {
	a.p.t.Helper()
	wait(a.p.t, "agent "+a.id+" to have nothing to do", func() (bool, string) {
		var all struct{ Items []flowState }
		err := a.p.get("/clients/"+a.id+"/flows", &all)
		for _, f := range all.Items {
			if f.State != "completed" {
				return false, fmt.Sprintf("%+v", f)
			}
		}
		return err == nil && len(all.Items) > 0, fmt.Sprint(err)
	})
}

// collection is a collection of numbered rows.
type collection struct {
	a    *endpoint
	flow string
	rows int64
}

// flowState is what the door says of a flow.
type flowState struct {
	State string `json:"state"`
	Error string `json:"error"`
	Rows  int64  `json:"rows"`
}

// collect starts a collection of numbered rows.
func (a *endpoint) collect(rows int64) *collection {
	a.p.t.Helper()
	if err := a.p.ask(http.MethodPut, "/artifacts", map[string]string{"text": numbers}, nil); err != nil {
		a.p.t.Fatal(err)
	}
	c := &collection{a: a, rows: rows}
	var started struct {
		Flow string `json:"flow_id"`
	}
	err := a.p.ask(http.MethodPost, "/clients/"+a.id+"/flows", map[string]any{"artifacts": []map[string]any{
		{"name": numbersName, "parameters": map[string]string{"Rows": strconv.FormatInt(rows, 10)}},
	}}, &started)
	if err != nil {
		a.p.t.Fatal(err)
	}
	c.flow = started.Flow
	return c
}

func (c *collection) path() string { return "/clients/" + c.a.id + "/flows/" + c.flow }

func (c *collection) state() (flowState, error) {
	var f flowState
	err := c.a.p.get(c.path(), &f)
	return f, err
}

// await waits for the end of the flow, which must be a complete one.
func (c *collection) await() {
	c.a.p.t.Helper()
	wait(c.a.p.t, "flow "+c.flow+" to complete", func() (bool, string) {
		f, err := c.state()
		switch f.State {
		case "errored", "cancelled", "incomplete":
			c.a.p.t.Fatalf("flow %s ended %s: %s", c.flow, f.State, f.Error)
		}
		return f.State == "completed", fmt.Sprintf("%+v %v, %d rows acknowledged, agent: %s", f, err, c.a.rowsAcked(), c.a.log.tail(300))
	})
}

// complete awaits the end and checks that nothing was lost or doubled: every row
// is there once, and everything that the agent was told is durable is there.
func (c *collection) complete() {
	c.a.p.t.Helper()
	c.await()
	c.check(c.a.p.t)
}

func (c *collection) check(t *testing.T) {
	t.Helper()
	// The server knows of the end a moment before the agent hears of it.
	wait(t, "the last acknowledgement", func() (bool, string) {
		c.a.mu.Lock()
		defer c.a.mu.Unlock()
		return c.a.flows[c.flow] >= c.rows, fmt.Sprint(c.a.flows[c.flow])
	})
	err := integration.Check{
		Store: c.a.p.store, Client: c.a.id, Flow: c.flow, Result: numbersName, Rows: c.rows, History: c.a.history,
	}.Run(t.Context())
	if err != nil {
		t.Error(err)
	}
}

// segments are the files that hold the rows, as they lie in the store.
func (c *collection) segments() []string {
	c.a.p.t.Helper()
	digits := strings.TrimPrefix(c.a.id, "C.")
	files, err := filepath.Glob(filepath.Join(c.a.p.store, "clients", "*", "*", "C."+digits, "collections", c.flow, "results", "*", "*.jsonl.gz"))
	if err != nil {
		c.a.p.t.Fatal(err)
	}
	return files
}
