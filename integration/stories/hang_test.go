package stories_test

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
)

func TestHangingMountIsWaitedForWithEverybodyConnected(t *testing.T) {
	t.Parallel()
	const lease = 400 * time.Millisecond
	p := launch(t, options{tune: func(u *node.Tuning) {
		u.LeaseTTL, u.IncarnationTTL, u.CommitWait = lease, 20*time.Second, time.Second
	}})
	a, idle := p.agent(0), p.agent(1)
	a.waitQuiet()
	idle.waitQuiet()
	first := p.node.Status().Epoch
	var began time.Time
	hung := a.atRow(1000, func() {
		p.fs.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true})
		began = time.Now()
	})
	c := a.collect(someRows)
	<-hung
	told := a.rowsAcked()

	p.waitLog("led no more, lease lost")
	p.waitUnready("the filestore does not take this node's heartbeat", "nodes/story/1", "no answer")
	p.waitLog("client post did not become durable")
	wait(t, "ten lease times to pass", func() (bool, string) {
		since := time.Since(began)
		if got := p.node.Status().Connected; got < 1 {
			t.Fatalf("%d clients are connected after %v", got, since)
		}
		return since > 10*lease, since.String()
	})
	// Reads come from memory, for people and for probes.
	var flow flowState
	if err := p.get(c.path(), &flow); err != nil || flow.State != "running" {
		t.Errorf("the flow is %+v, %v", flow, err)
	}
	if code, text := p.monitoring("/healthz"); code != http.StatusOK {
		t.Errorf("/healthz: %d %s", code, text)
	}
	if got := a.rowsAcked(); got != told {
		t.Errorf("%d rows were acknowledged while nothing could be durable", got-told)
	}
	if idle.log.has("lost contact") {
		t.Errorf("the idle agent lost its connection: %s", idle.log.tail(1000))
	}

	p.fs.Clear()
	p.waitReady()
	c.complete()
	wait(t, "mastership in a new epoch", func() (bool, string) {
		s := p.node.Status()
		return s.Role == "master" && s.Epoch > first, fmt.Sprintf("%+v", s)
	})
	p.waitMetric(1, "raptorpack_filestore_leases_total", `"mastership"`, `"lost"`)
	p.waitMetric(1, "raptorpack_filestore_calls_abandoned_total")
	idle.collect(100).complete()
}

// troubles are what can keep a mount from taking anything for longer than a lease.
var troubles = map[string]func(*pack){
	"hang":      func(p *pack) { p.fs.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true}) },
	"read-only": (*pack).makeReadOnly,
}

// hanging is a node beyond its lease, in the middle of a collection.
type hanging struct {
	*pack
	busy, idle *endpoint
	c          *collection
	told       int64   // rows acknowledged before
	accepts    float64 // sockets that agents ever opened
}

func hangBeyondTheLease(t *testing.T, commitWait time.Duration, begin func(*pack)) *hanging {
	t.Helper()
	p := launch(t, options{tune: func(u *node.Tuning) {
		u.LeaseTTL, u.IncarnationTTL, u.CommitWait = 400*time.Millisecond, 3*time.Second, commitWait
	}})
	h := &hanging{pack: p, busy: p.agent(0), idle: p.agent(1)}
	h.busy.waitQuiet()
	h.idle.waitQuiet()
	broken := h.busy.atRow(1000, func() { begin(p) })
	h.c = h.busy.collect(someRows)
	<-broken
	h.told, h.accepts = h.busy.rowsAcked(), p.metric("raptorpack_frontend_accepts_total")
	p.waitLog("did not answer for longer than this node's lease", "nodes/story/1")
	p.waitUnready("lease has lapsed")
	// Reading is answered. Whether the client's first words are durable depends on how
	// long the commit with them waited for company.
	var flow flowState
	if err := p.get(h.c.path(), &flow); err != nil || flow.State != "running" && flow.State != "pending" {
		t.Errorf("the flow is %+v, %v", flow, err)
	}
	return h
}

// nothingTold checks that nothing was acknowledged since the trouble began.
func (h *hanging) nothingTold() {
	h.t.Helper()
	if got := h.busy.rowsAcked(); got != h.told {
		h.t.Errorf("%d rows were acknowledged without a lease", got-h.told)
	}
}

// connected checks that the node has not gone, and that none of these agents ever
// lost it.
func (h *hanging) connected(agents ...*endpoint) {
	h.t.Helper()
	if h.log.has("node stops") {
		h.t.Error("the node went")
	}
	for _, a := range agents {
		if a.log.has("lost contact") {
			h.t.Errorf("an agent lost its connection: %s", a.log.tail(1000))
		}
	}
}

// leadsAnew waits until the node leads in another epoch.
func (h *hanging) leadsAnew(epoch uint64) {
	h.t.Helper()
	wait(h.t, "mastership in a new epoch", func() (bool, string) {
		s := h.node.Status()
		return s.Role == "master" && s.Epoch > epoch, fmt.Sprintf("%+v", s)
	})
}

// The process goes on under its name. Nobody has to connect again, not even an agent
// whose post is under way: that is answered once it is durable.
func TestHangBeyondTheLeaseCostsNoConnection(t *testing.T) {
	t.Parallel()
	h := hangBeyondTheLease(t, time.Minute, troubles["hang"])
	epoch := h.node.Status().Epoch
	h.nothingTold()

	h.fs.Clear()
	h.waitLog("this node's lease holds again", "life=1")
	h.waitReady()
	h.leadsAnew(epoch)
	h.c.complete()
	h.idle.collect(100).complete()
	h.connected(h.busy, h.idle)
	if got := h.metric("raptorpack_frontend_accepts_total"); got != h.accepts {
		t.Errorf("%v sockets were opened anew", got-h.accepts)
	}
	h.waitMetric(1, "raptorpack_filestore_leases_total", `"incarnation"`, `"revived"`)
	if _, err := os.Stat(filepath.Join(h.store, "nodes", "story", "2")); err == nil {
		t.Error("a second incarnation was claimed")
	}
	h.restart() // what it leaves needs no waiting and no sealing
	h.idle.collect(100).complete()
}

// Agents that have something to say are told "later" meanwhile; those that have not
// notice nothing.
func TestTroubleBeyondTheLeaseIsOutlived(t *testing.T) {
	for name, begin := range troubles {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := hangBeyondTheLease(t, time.Second, begin)
			epoch := h.node.Status().Epoch
			refused := h.metric("raptorpack_frontend_answers_total", `"503"`)
			h.waitMetric(refused+3, "raptorpack_frontend_answers_total", `"503"`)
			h.nothingTold()

			h.fs.Clear()
			h.waitLog("this node's lease holds again", "life=1")
			h.waitReady()
			h.leadsAnew(epoch)
			h.c.complete()
			h.idle.collect(100).complete()
			h.connected(h.idle)
		})
	}
}

// Once others have buried it, nothing of this run may be acknowledged: the process
// ends and is started anew. Before that it keeps everybody connected.
func TestNodeThatWasBuriedMeanwhileStartsAnew(t *testing.T) {
	t.Parallel()
	h := hangBeyondTheLease(t, time.Second, troubles["hang"])
	h.bury("story-1", 3*time.Second)
	h.nothingTold()
	h.connected(h.idle)

	h.fs.Clear()
	h.waitLog("node stops", "buried", "incarnation is sealed")
	if err := h.end(); !errors.Is(err, filestore.ErrSealed) {
		t.Errorf("the node ended with %v", err)
	}
	h.nothingTold()
	h.start() // as the service manager does
	h.c.complete()
	h.idle.collect(100).complete()
}

// bury does what a master on another machine does about a node that stands still.
func (p *pack) bury(incarnation string, ttl time.Duration) {
	p.t.Helper()
	disk, err := filestore.OpenOS(p.store)
	if err != nil {
		p.t.Fatal(err)
	}
	defer disk.Close()
	store, err := filestore.Open("", filestore.Options{FS: disk, Logger: p.log.logger()})
	if err != nil {
		p.t.Fatal(err)
	}
	defer store.Close(p.t.Context())
	watcher := store.Watcher(ttl, 0)
	wait(p.t, "the burial of "+incarnation, func() (bool, string) {
		all, err := watcher.Look(p.t.Context())
		for _, info := range all {
			if info.Name == incarnation && info.Lapsed {
				err = watcher.Bury(p.t.Context(), info)
				return err == nil, fmt.Sprint(err)
			}
		}
		return false, fmt.Sprintf("%+v, %v", all, err)
	})
}
