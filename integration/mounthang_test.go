package integration_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/integration"
	"raptorpack/proto/wirepb"
)

// hangStory is a pack of which the mount of one minion hangs.
type hangStory struct {
	t       *testing.T
	lasts   time.Duration
	mounts  *mounts
	pack    *integration.Pack
	hung    *watched
	agents  []*busyAgent // of all nodes
	atHung  []*busyAgent
	idle    int // more agents at the hung node
	slowest map[string]time.Duration
}

// rate is how often an agent has a row.
const rate = 50 * time.Millisecond

// TestMountOfOneNodeHangsAndNobodyIsDropped hangs the mount of a minion while agents
// there and at the other nodes have rows all the time. Its agents stay connected and
// are told nothing that is not so, its doors answer from memory, and afterwards each
// row is there once.
//
// The short form lasts until the node says that it is not ready, which is when its
// heartbeat is 15 s old. That posts are put off, after 20 s, only the long form sees.
func TestMountOfOneNodeHangsAndNobodyIsDropped(t *testing.T) {
	s := &hangStory{t: t, lasts: 16 * time.Second, idle: 4, slowest: map[string]time.Duration{}}
	busyThere, busyElsewhere := 6, 3
	if *long {
		s.lasts, s.idle, busyThere, busyElsewhere = time.Minute, 40, 20, 10
	}
	s.mounts = mountStores(t, "a", "b", "c")
	s.pack = launchOn(t, s.mounts, integration.Options{Masters: 2, Minions: 1, Merge: map[string]any{
		"Client": map[string]any{"ws_ping_wait_sec": 5},
	}})
	s.pack.StartAll()
	rows := int64((s.lasts + 8*time.Second) / rate) // they are at work when the mount is back
	s.pack.SetArtifact(ticking(rows))
	s.hung = watch(t, s.pack, 2)
	for i := range 3 {
		busy := busyElsewhere
		if i == 2 {
			busy = busyThere
		}
		for range busy {
			a := newBusyAgent(t, s.pack, watch(t, s.pack, i), len(s.agents))
			a.collect()
			s.agents = append(s.agents, a)
			if i == 2 {
				s.atHung = append(s.atHung, a)
			}
		}
	}
	for i := range s.idle {
		s.atHung = append(s.atHung, newBusyAgent(t, s.pack, s.hung, len(s.agents)+i))
	}
	for _, a := range s.agents {
		a.waitAcked(1)
	}
	s.hang()
	s.check(rows)
}

// hang lets the mount hang and looks at the node all the while.
func (s *hangStory) hang() {
	t, hung := s.t, s.hung
	s.pack.WaitFor("all sockets of the agents", func() (bool, string) {
		open := hung.metric("raptorpack_frontend_connections", "_socket")
		return open == float64(2*len(s.atHung)), fmt.Sprint(open)
	})
	accepted, putOff := hung.accepted(), hung.putOff()
	pings := hung.metric("raptorpack_frontend_pings_total", `"sent"`)
	began := time.Now()
	s.mounts.control("c", "hang", "all")
	told, elsewhere := s.settled()
	answered := s.change()
	s.lookAround(began.Add(s.lasts))
	toldNow, elsewhereNow := s.acked()
	if toldNow != told {
		t.Errorf("%d rows were acknowledged while nothing could be durable", toldNow-told)
	}
	if elsewhereNow == elsewhere {
		t.Error("the other nodes took nothing")
	}
	if sent := hung.metric("raptorpack_frontend_pings_total", `"sent"`); sent < pings+float64(len(s.atHung)) {
		t.Errorf("%v pings were sent", sent-pings)
	}
	took := time.Since(began)
	s.mounts.control("c", "resume")
	hung.WaitReady()
	ready := time.Since(began) - took
	s.pack.WaitFor("rows to be acknowledged again", func() (bool, string) {
		now, _ := s.acked()
		return now > told, fmt.Sprint(now)
	})
	t.Logf("mount hung %v; ready after %v; slowest answers meanwhile: %v; %d rows acknowledged elsewhere", took.Round(time.Millisecond), ready.Round(time.Millisecond), s.slowest, elsewhereNow-elsewhere)
	if err := <-answered; err != nil {
		t.Errorf("a change that was asked for meanwhile: %v", err)
	}
	anew, told503 := hung.accepted()-accepted, hung.putOff()-putOff
	if anew > told503 {
		t.Errorf("%v sockets were opened anew, and %v posts put off", anew, told503)
	}
	t.Logf("%d agents at the node: none dropped; %v posts were put off, and %v sockets for posts opened anew after that", len(s.atHung), told503, anew)
}

// lookAround asks the hung node's doors until then, with the mount hanging all the
// while.
func (s *hangStory) lookAround(until time.Time) {
	t, hung := s.t, s.hung
	pace := time.NewTicker(50 * time.Millisecond)
	defer pace.Stop()
	lookedAway := ""
	for round := 0; time.Now().Before(until); round++ {
		a := s.atHung[round%len(s.atHung)]
		for _, path := range []string{"/status", "/pack", "/clients?q=online", "/clients/" + a.id, "/clients/" + a.id + "/flows"} {
			s.read(path)
		}
		if a.flow != "" {
			s.read("/clients/" + a.id + "/flows/" + a.flow)
		}
		if now := hung.present(); now != len(s.atHung) {
			t.Fatalf("%v before the mount comes back %d of %d agents are connected: %s", time.Until(until), now, len(s.atHung), s.complaints())
		}
		if ready, why := hung.Ready(); !ready {
			lookedAway = why
		}
		<-pace.C
	}
	if !strings.Contains(lookedAway, "filestore") {
		t.Errorf("the node never said that it is not ready: %q", lookedAway)
	}
}

// settled are the rows acknowledged once no more come at the hung node: what was on
// its way to the agents when the mount hung has arrived.
func (s *hangStory) settled() (there, elsewhere int64) {
	since := time.Now()
	s.pack.WaitFor("the last acknowledgements", func() (bool, string) {
		before := there
		if there, elsewhere = s.acked(); there != before {
			since = time.Now()
		}
		return time.Since(since) > time.Second, fmt.Sprint(there)
	})
	return there, elsewhere
}

// change sets a label through the hung node. It is in the ledger at once; its answer
// waits some seconds for the line of the audit trail, which is to be on the mount.
func (s *hangStory) change() (answered chan error) {
	answered = make(chan error, 1)
	id := s.atHung[0].id
	go func() { answered <- s.hung.Label(id, "meanwhile", "meanwhile") }()
	s.pack.WaitFor("the label at another node", func() (bool, string) {
		labels := s.pack.Labels(&integration.Agent{ID: id})
		return slices.Contains(labels, "meanwhile"), fmt.Sprint(labels)
	})
	return answered
}

// complaints are what agents of the hung node logged of their connections.
func (s *hangStory) complaints() string {
	var all strings.Builder
	for i, a := range s.atHung {
		for line := range strings.Lines(a.log.String()) {
			if strings.Contains(line, "contact") || strings.Contains(line, "not taken") || strings.Contains(line, "connection") {
				fmt.Fprintf(&all, "\n%d: %s", i, strings.TrimSpace(line))
			}
		}
	}
	return all.String()
}

// acked are the rows that the agents were told of, at the hung node and elsewhere.
func (s *hangStory) acked() (there, elsewhere int64) {
	for _, a := range s.agents {
		if slices.Contains(s.atHung, a) {
			there += a.acked.Load()
		} else {
			elsewhere += a.acked.Load()
		}
	}
	return there, elsewhere
}

// read asks the hung node's door.
func (s *hangStory) read(path string) {
	s.t.Helper()
	kind := regexp.MustCompile(`[CF]\.[0-9A-Za-z]+`).ReplaceAllString(path, "…")
	s.timed(kind, func() error { return s.hung.read(path) })
}

// timed notes how long an answer took. That it came before the mount was back is
// what counts; the second that people are promised is held to at full size, where
// nothing else should run on the machine.
func (s *hangStory) timed(kind string, ask func() error) {
	s.t.Helper()
	begin := time.Now()
	if err := ask(); err != nil {
		s.t.Errorf("%s while the mount hangs: %v", kind, err)
	}
	took := time.Since(begin).Round(time.Millisecond)
	s.slowest[kind] = max(s.slowest[kind], took)
	if *long && took > time.Second {
		s.t.Errorf("%s took %v", kind, took)
	}
}

// check waits for the ends of all collections and looks at every row.
func (s *hangStory) check(rows int64) {
	for _, a := range s.agents {
		if f := s.pack.Await(&integration.Agent{ID: a.id}, a.flow); f.State != "completed" || f.Rows != rows {
			s.t.Errorf("the flow is %+v, want %d rows", f, rows)
		}
		stored := integration.Check{
			Store: s.pack.Store(), Client: a.id, Flow: a.flow, Result: "Custom.Integration.Ticking", Rows: rows, History: a.history,
		}
		if err := stored.Run(s.t.Context()); err != nil {
			s.t.Errorf("agent at %s: %v", a.node.Name, err)
		}
	}
	for _, a := range append(s.agents, s.atHung...) {
		if log := a.log.String(); strings.Contains(log, "lost contact") {
			s.t.Errorf("an agent of %s lost its connection:\n%s", a.node.Name, log)
		}
	}
	if s.pack.Says(s.hung.Name, "node stops") {
		s.t.Error("the node went")
	}
	for _, n := range s.pack.Nodes() {
		n.Stop()
	}
}

// ticking has a row each rate until it has so many.
func ticking(rows int64) string {
	return fmt.Sprintf("name: Custom.Integration.Ticking\nsources:\n- query: SELECT count() - 1 AS N FROM clock(ms=%d) LIMIT %d\n", rate.Milliseconds(), rows)
}

// busyAgent is an agent of this process that knows one node only.
type busyAgent struct {
	t       *testing.T
	pack    *integration.Pack
	node    *watched
	id      string
	flow    string
	history string
	log     *logText
	acked   atomic.Int64 // rows
}

// logText is a log that may be read while it is written.
type logText struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *logText) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(line)
}

func (l *logText) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// newBusyAgent starts an agent and returns when it is connected.
func newBusyAgent(t *testing.T, pack *integration.Pack, at *watched, i int) *busyAgent {
	t.Helper()
	dir := t.TempDir()
	a := &busyAgent{t: t, pack: pack, node: at, history: filepath.Join(dir, "history.jsonl"), log: &logText{}}
	settings := at.file.Client
	settings.ServerURLs = []string{"https://localhost:" + strconv.Itoa(at.file.Frontend.BindPort) + "/"}
	o, err := agent.Options(settings, agent.Settings{
		Version: "busy", MinBackOff: 50 * time.Millisecond, History: a.history, Logger: slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
		Writeback: filepath.Join(dir, "writeback.yaml"), Buffer: filepath.Join(dir, "buffer"),
	})
	if err != nil {
		t.Fatal(err)
	}
	o.MinPoll, o.MaxWait = 100*time.Millisecond, 100*time.Millisecond
	take := o.Acknowledged
	o.Acknowledged = func(messages [][]byte) {
		take(messages)
		for _, text := range messages {
			var m wirepb.VeloMessage
			if err := proto.Unmarshal(text, &m); err == nil {
				a.acked.Add(int64(m.GetVqlResponse().GetTotalRows()))
			}
		}
	}
	one, err := client.New(o)
	if err != nil {
		t.Fatal(err)
	}
	a.id = one.ID().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- one.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
		o.Transport.Close()
	})
	pack.WaitFor("agent "+strconv.Itoa(i)+" to be connected", func() (bool, string) {
		var c struct{ Online bool }
		err := pack.Get("/clients/"+a.id, &c)
		return err == nil && c.Online, fmt.Sprint(err)
	})
	return a
}

func (a *busyAgent) collect() {
	a.t.Helper()
	a.flow = a.pack.Collect(&integration.Agent{ID: a.id}, "Custom.Integration.Ticking", nil)
}

func (a *busyAgent) waitAcked(least int64) {
	a.t.Helper()
	a.pack.WaitFor("rows of an agent to be acknowledged", func() (bool, string) {
		got := a.acked.Load()
		return got >= least, fmt.Sprint(got, a.log)
	})
}
