package master_test

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/master"
	"raptorpack/replication"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// diary is what happened, in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(line string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, line)
}

func (d *diary) want(t *testing.T, lines ...string) {
	t.Helper()
	d.mu.Lock()
	defer d.mu.Unlock()
	same := len(lines) == len(d.lines)
	for i := range lines {
		same = same && lines[i] == d.lines[i]
	}
	if !same {
		t.Errorf("got  %q\nwant %q", d.lines, lines)
	}
}

// fakeLedger opens its epoch after a while.
type fakeLedger struct {
	diary *diary
	takes time.Duration
	fails error // what Lead returns once it is open

	mu    sync.Mutex
	epoch uint64
}

func (l *fakeLedger) Lead(ctx context.Context, term replication.Term) error {
	l.diary.note("ledger begins")
	defer l.diary.note("ledger ends")
	select {
	case <-ctx.Done():
		return nil
	case <-time.After(l.takes):
	}
	l.mu.Lock()
	l.epoch = term.Epoch()
	l.mu.Unlock()
	if l.fails != nil {
		time.Sleep(time.Second)
		return l.fails
	}
	<-ctx.Done()
	return nil
}

func (l *fakeLedger) Position() (epoch, index uint64, chain [32]byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.epoch, 0, chain
}

// duty notes when it begins and ends.
func duty(d *diary) master.Duty {
	return master.Duty{Name: "count sheep", Run: func(ctx context.Context, _ *filestore.Term) error {
		d.note("duty begins")
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // ends what it has under way
		d.note("duty ends")
		return ctx.Err()
	}}
}

// office is a node that may lead.
type office struct {
	diary  diary
	ledger *fakeLedger
	store  *filestore.Store
	faulty *filestoretest.Faulty
	reg    *prometheus.Registry
	master *master.Master
}

func open(t *testing.T, disk filestore.FS, change func(*master.Options, *office)) *office {
	t.Helper()
	o := &office{faulty: filestoretest.NewFaulty(disk), reg: prometheus.NewRegistry()}
	s, err := filestore.Open("", filestore.Options{FS: o.faulty, Logger: quiet})
	check(t, err)
	t.Cleanup(func() { check(t, s.Close(context.Background())) })
	o.store, o.ledger = s, &fakeLedger{diary: &o.diary, takes: time.Second}
	options := master.Options{
		Candidate: s.Candidate(filestore.CandidateOptions{}), Ledger: o.ledger, Duties: []master.Duty{duty(&o.diary)},
		Registerer: o.reg, Logger: quiet,
	}
	if change != nil {
		change(&options, o)
	}
	o.master = master.New(options)
	return o
}

func newDisk(t testing.TB) *filestore.Dir {
	t.Helper()
	disk, err := filestore.OpenOS(t.TempDir())
	check(t, err)
	t.Cleanup(func() { check(t, disk.Close()) })
	return disk
}

// run runs the office's master until stop is called, which returns its error.
func (o *office) run(t *testing.T) (stop func() error) {
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1) // one answer
	go func() { done <- o.master.Run(ctx) }()
	return func() error {
		cancel()
		return <-done
	}
}

func (o *office) metric(t *testing.T, name, outcome string) float64 {
	t.Helper()
	families, err := o.reg.Gather()
	check(t, err)
	for _, family := range families {
		for _, m := range family.GetMetric() {
			labelled := len(m.GetLabel()) > 0 && m.GetLabel()[0].GetValue() == outcome
			if family.GetName() == name && (outcome == "" || labelled) {
				return m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	t.Fatalf("no metric %s %s", name, outcome)
	return 0
}

func TestDutiesWaitForTheLedgerAndEndBeforeTheRelease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, newDisk(t), nil)
		var stopping atomic.Bool
		released := o.faulty.Inject(filestoretest.Fault{
			Op: filestoretest.Write, Path: "lease/epoch-1", Times: filestoretest.Always,
			Do: func() {
				if stopping.Load() {
					o.diary.note("released")
				}
			},
		})
		stop := o.run(t)
		time.Sleep(500 * time.Millisecond)
		if o.master.Epoch() != 0 {
			t.Error("leads before the ledger does")
		}
		time.Sleep(time.Minute)
		if o.master.Epoch() != 1 || o.metric(t, "raptorpack_master_leading", "") != 1 || o.metric(t, "raptorpack_master_epoch", "") != 1 {
			t.Errorf("leads epoch %d", o.master.Epoch())
		}
		o.diary.want(t, "ledger begins", "duty begins")
		stopping.Store(true)
		check(t, stop())
		released.Lift()
		o.diary.want(t, "ledger begins", "duty begins", "ledger ends", "duty ends", "released")
		beat, err := o.store.EpochHeartbeat(t.Context(), 1)
		check(t, err)
		if !beat.Released || o.master.Epoch() != 0 || o.metric(t, "raptorpack_master_terms_total", "released") != 1 {
			t.Errorf("heartbeat %+v", beat)
		}
	})
}

func TestLostLeaseEndsAllBeforeTheNextCampaign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, newDisk(t), nil)
		stop := o.run(t)
		time.Sleep(10*time.Second + time.Millisecond)
		hang := o.faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Times: filestoretest.Always, Hang: true})
		time.Sleep(5 * time.Second)
		o.diary.want(t, "ledger begins", "duty begins", "ledger ends", "duty ends")
		if o.metric(t, "raptorpack_master_terms_total", "lost") != 1 && o.master.Epoch() != 0 {
			t.Error("leads without a lease")
		}
		hang.Lift()
		time.Sleep(20 * time.Second)
		if o.master.Epoch() != 2 || o.metric(t, "raptorpack_master_terms_total", "lost") != 1 {
			t.Errorf("leads epoch %d, want 2", o.master.Epoch())
		}
		o.diary.want(t, "ledger begins", "duty begins", "ledger ends", "duty ends", "ledger begins", "duty begins")
		check(t, stop())
	})
}

func TestFailedTermIsLeftToOthers(t *testing.T) {
	errSick := errors.New("sick")
	sick := map[string]func(*master.Options, *office){
		"ledger fails": func(_ *master.Options, o *office) { o.ledger.fails = errSick },
		"duty fails": func(m *master.Options, _ *office) {
			m.Duties = append(m.Duties, master.Duty{Name: "fail", Run: func(context.Context, *filestore.Term) error { return errSick }})
		},
	}
	for name, change := range sick {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				disk := newDisk(t)
				first, second := open(t, disk, change), open(t, disk, nil)
				stopFirst := first.run(t)
				time.Sleep(500 * time.Millisecond)
				stopSecond := second.run(t)
				time.Sleep(time.Minute)
				if second.master.Epoch() != 2 || first.master.Epoch() != 0 {
					t.Errorf("epochs %d and %d", first.master.Epoch(), second.master.Epoch())
				}
				if first.metric(t, "raptorpack_master_terms_total", "failed") != 1 {
					t.Error("failure not counted")
				}
				check(t, stopFirst())
				check(t, stopSecond())
			})
		})
	}
}

func TestDutyMayHaveNoMoreToDo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, newDisk(t), func(m *master.Options, _ *office) {
			m.Duties = append(m.Duties, master.Duty{Name: "once", Run: func(context.Context, *filestore.Term) error { return nil }})
		})
		stop := o.run(t)
		time.Sleep(time.Minute)
		if o.master.Epoch() != 1 {
			t.Errorf("leads epoch %d, want 1", o.master.Epoch())
		}
		check(t, stop())
	})
}

func TestHangingDutyDoesNotKeepThePackWithoutMaster(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk, end := newDisk(t), make(chan struct{})
		first := open(t, disk, func(m *master.Options, _ *office) {
			m.Duties = append(m.Duties,
				master.Duty{Name: "hang", Run: func(context.Context, *filestore.Term) error { <-end; return nil }},
				master.Duty{Name: "fail", Run: func(context.Context, *filestore.Term) error { return errors.New("sick") }})
		})
		second := open(t, disk, nil)
		stopFirst := first.run(t)
		time.Sleep(500 * time.Millisecond)
		stopSecond := second.run(t)
		time.Sleep(20 * time.Second)
		if second.master.Epoch() != 2 {
			t.Errorf("second leads epoch %d, want 2", second.master.Epoch())
		}
		time.Sleep(time.Minute)
		newest, err := second.store.NewestEpoch(t.Context())
		check(t, err)
		if newest != 2 {
			t.Error("the first campaigned before its duty had ended")
		}
		close(end)
		check(t, stopFirst())
		check(t, stopSecond())
	})
}

func TestUnfitMountIsNoCandidate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := open(t, newDisk(t), nil)
		o.faulty.Inject(filestoretest.Fault{Op: filestoretest.Link, Times: filestoretest.Always, Err: syscall.ENOTSUP})
		if err := o.master.Run(t.Context()); !errors.Is(err, filestore.ErrUnfit) {
			t.Errorf("got %v, want ErrUnfit", err)
		}
	})
}

func TestStopWhileCampaigning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		disk := newDisk(t)
		first, second := open(t, disk, nil), open(t, disk, nil)
		stopFirst := first.run(t)
		time.Sleep(time.Second)
		stopSecond := second.run(t)
		time.Sleep(time.Minute)
		check(t, stopSecond())
		second.diary.want(t)
		check(t, stopFirst())
	})
}
