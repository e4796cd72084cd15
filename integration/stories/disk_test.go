package stories_test

import (
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/cmd/node"
	"raptorpack/filestore/filestoretest"
)

const someRows = 6000

func TestFullDiskIsBackPressureAndNoLoss(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	full := a.atRow(1000, func() { p.fs.SetDiskSize(4 << 10) })
	c := a.collect(someRows)
	<-full

	p.waitMetric(1, "raptorpack_filestore_full")
	p.waitLog("disk full, reserve released, bulk writes refused")
	p.waitLog("client post did not become durable", "filestore is full") // rows, or the fact that speaks of them
	p.waitMetric(1, "raptorpack_frontend_shed_total", "durable")
	if _, err := os.Stat(filepath.Join(p.store, "reserve")); !os.IsNotExist(err) {
		t.Errorf("the reserve was not given back: %v", err)
	}
	if err := p.label(a.id, "full"); err != nil {
		t.Errorf("the ledger does not go on from the reserve: %v", err)
	}
	if f, err := c.state(); err != nil || f.State != "running" {
		t.Errorf("the flow is %+v, %v", f, err)
	}

	p.restart() // an upgrade does not wait for better days
	if err := p.label(a.id, "restarted"); err != nil {
		t.Errorf("the ledger does not go on after a start on a full disk: %v", err)
	}

	p.fs.SetDiskSize(-1)
	p.waitLog("disk has space again, bulk writes taken")
	c.complete()
	if got := p.metric("raptorpack_filestore_full"); got != 0 {
		t.Errorf("raptorpack_filestore_full is still %v", got)
	}
	if _, err := os.Stat(filepath.Join(p.store, "reserve")); err != nil {
		t.Errorf("the reserve was not made again: %v", err)
	}
	p.waitReady()
}

// writes are the calls that a read-only filesystem refuses.
var writes = []filestoretest.Op{
	filestoretest.Create, filestoretest.OpenWrite, filestoretest.Mkdir, filestoretest.Link, filestoretest.Rename,
	filestoretest.Remove, filestoretest.Write, filestoretest.Truncate,
}

func (p *pack) makeReadOnly() {
	for _, op := range writes {
		p.fs.Inject(filestoretest.Fault{Op: op, Times: filestoretest.Always, Err: syscall.EROFS})
	}
}

func TestReadOnlyStoreIsWaitedFor(t *testing.T) {
	t.Parallel()
	p := launch(t, options{tune: func(u *node.Tuning) { u.LeaseTTL, u.IncarnationTTL = 400*time.Millisecond, 16*time.Second }})
	a := p.agent(0)
	first := p.node.Status().Epoch
	broken := a.atRow(1000, p.makeReadOnly)
	c := a.collect(someRows)
	<-broken
	told := a.rowsAcked()

	p.waitLog("client post did not become durable", "filestore is read-only")
	p.waitLog("led no more, lease lost")
	p.waitLog("campaign does not get on", "filestore is read-only")
	p.waitUnready("the filestore does not take this node's heartbeat", "nodes/story/1", "filestore is read-only")
	if got := a.rowsAcked(); got != told {
		t.Errorf("%d rows were acknowledged by a store that takes none", got-told)
	}

	p.fs.Clear()
	p.waitReady()
	c.complete()
	if got := p.node.Status().Epoch; got <= first {
		t.Errorf("epoch %d after %d: mastership was not taken anew", got, first)
	}
}

func TestStoreThatIsReadOnlyAtStartIsToldClearly(t *testing.T) {
	t.Parallel()
	p := prepare(t, options{})
	p.makeReadOnly()
	_, err := p.compose()
	if err == nil {
		t.Fatal("the node started")
	}
	if text := err.Error(); !hasAll(text, []string{"reserve", "filestore is read-only"}) {
		t.Errorf("the error does not say what and where: %v", err)
	}
	p.fs.Clear()
	p.start()
}

func TestFailedSyncsCostNothing(t *testing.T) {
	t.Parallel()
	p := launch(t, options{tune: func(u *node.Tuning) { u.IncarnationTTL = 8 * time.Second }})
	a := p.agent(0)
	places := []struct {
		name   string
		match  func(string) bool
		metric string
		labels []string
		log    []string
	}{
		{
			name: "results", match: func(path string) bool { return strings.Contains(path, "/results/") },
			metric: "raptorpack_filestore_files_finished_total", log: []string{"segment finished after an error", "/results/", "input/output error"},
		},
		{
			name: "outbox", match: func(path string) bool { return strings.HasPrefix(path, "outbox/") },
			metric: "raptorpack_replication_outbox_failures_total", log: []string{"outbox file is finished after an error", "outbox/story-1", "input/output error"},
		},
		{
			name: "heartbeat", match: func(path string) bool { return strings.HasPrefix(path, "nodes/") },
			metric: "raptorpack_filestore_ops_total", labels: []string{`"sync"`, `"io"`},
			log: []string{"lease renewal went wrong", "nodes/story/1", "input/output error"},
		},
		{
			name: "ledger", match: func(path string) bool { return strings.HasPrefix(path, "ledger/") },
			metric: "raptorpack_replication_ledger_failures_total", log: []string{"led no more, something failed", "ledger/", "input/output error"},
		},
	}
	for _, place := range places {
		t.Run(place.name, func(t *testing.T) {
			epoch := p.node.Status().Epoch
			before := p.metric(place.metric, place.labels...)
			var fault *filestoretest.Injection
			broken := a.atRow(1000, func() {
				fault = p.fs.Inject(filestoretest.Fault{Op: filestoretest.Sync, Match: place.match, Err: syscall.EIO, Drop: true})
			})
			c := a.collect(someRows)
			<-broken
			wait(t, "the fault to strike", func() (bool, string) {
				if place.name == "ledger" {
					// Nothing else need write there just now. Its answer comes from the next epoch.
					if err := p.label(a.id, "ledger"); err != nil {
						return false, err.Error()
					}
				}
				return fault.Struck() > 0, ""
			})
			c.complete()
			p.waitLog(place.log...)
			p.waitMetric(before+1, place.metric, place.labels...)
			p.waitReady()
			if place.name != "ledger" {
				return
			}
			wait(t, "a new epoch", func() (bool, string) {
				s := p.node.Status()
				return s.Epoch > epoch && s.Role == "master", s.Role
			})
			if err := p.label(a.id, "after"); err != nil {
				t.Errorf("the new epoch takes nothing: %v", err)
			}
		})
	}
	if got := p.metric("raptorpack_frontend_answers_total", `"control"`, `code="200"`); got == 0 {
		t.Errorf("no post was answered: %v", http.StatusOK)
	}
}
