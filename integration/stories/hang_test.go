package stories_test

import (
	"errors"
	"fmt"
	"net/http"
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

// Beyond the incarnation's lease nothing of this run may be acknowledged any more,
// yet nobody is sent away before something better can be offered.
func TestTroubleBeyondTheLeaseEndsTheNodeOnlyWhenItIsOver(t *testing.T) {
	for name, begin := range map[string]func(*pack){
		"hang":      func(p *pack) { p.fs.Inject(filestoretest.Fault{Times: filestoretest.Always, Hang: true}) },
		"read-only": (*pack).makeReadOnly,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := launch(t, options{tune: func(u *node.Tuning) {
				u.LeaseTTL, u.IncarnationTTL, u.CommitWait = 400*time.Millisecond, 3*time.Second, time.Second
			}})
			a, idle := p.agent(0), p.agent(1)
			a.waitQuiet()
			idle.waitQuiet()
			broken := a.atRow(1000, func() { begin(p) })
			c := a.collect(someRows)
			<-broken
			p.waitLog("did not answer for longer than this node's lease", "nodes/story/1")
			p.waitUnready("lease has lapsed")
			told := a.rowsAcked()
			// The agents try again and again meanwhile: several answers to the busy
			// one, and none of them an acknowledgement.
			refused := p.metric("raptorpack_frontend_answers_total", `"503"`)
			p.waitMetric(refused+3, "raptorpack_frontend_answers_total", `"503"`)
			if got := a.rowsAcked(); got != told {
				t.Errorf("%d rows were acknowledged without a lease", got-told)
			}
			var flow flowState
			if err := p.get(c.path(), &flow); err != nil || flow.State != "running" {
				t.Errorf("the flow is %+v, %v", flow, err)
			}
			if idle.log.has("lost contact") || p.log.has("node stops") {
				t.Errorf("the node went before the filestore was back: %s", idle.log.tail(1000))
			}

			p.fs.Clear()
			p.waitLog("node stops", "lease lost")
			if err := p.end(); !errors.Is(err, filestore.ErrLeaseLost) {
				t.Errorf("the node ended with %v", err)
			}
			p.start() // as the service manager does
			c.complete()
			idle.collect(100).complete()
		})
	}
}
