package filestore_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/proto/buspb"
)

func TestLapsedLeaseIsNeverAcknowledged(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	commit := func() *filestore.Commit {
		return &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", 0, 1)}, Facts: oneFact("f")}
	}
	impatient := func() error {
		ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
		defer cancel()
		return k.Submit(ctx, commit())
	}
	k.lapsed.Store(true)
	wantErr(t, impatient(), context.DeadlineExceeded)
	if len(k.outbox.kinds()) != 0 {
		t.Error("facts went out after the lease had lapsed")
	}
	k.lapsed.Store(false)
	k.outbox.before = func([]*buspb.Mutation) { k.lapsed.Store(true) }
	wantErr(t, impatient(), context.DeadlineExceeded)
	ended := make(chan error, 1) // one answer
	go func() { ended <- k.Submit(background, commit()) }()
	waitFor(t, "the commit to be queued", func() bool { return k.Waiting() > 0 })
	k.stop()
	if err := <-ended; !errors.Is(err, filestore.ErrLeaseLost) && !errors.Is(err, filestore.ErrStopped) {
		t.Errorf("stopped without a lease: %v", err)
	}
}

// A lease that lapsed at any step and holds again was never anybody else's: what was
// done before goes on from there, and nothing is done twice.
func TestCommitWaitsForARevivedLease(t *testing.T) {
	for _, step := range []string{"before writing", "at the sync", "at the facts"} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				k := launch(t, s, "web-1")
				switch lapse := func() { k.lapsed.Store(true) }; step {
				case "before writing":
					lapse()
				case "at the sync":
					faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Do: lapse})
				case "at the facts":
					k.outbox.before = func([]*buspb.Mutation) { lapse() }
				}
				answer := make(chan error, 1) // one answer
				go func() {
					answer <- k.Submit(background, &filestore.Commit{
						Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 3)}, Facts: oneFact("f"),
					})
				}()
				time.Sleep(time.Minute)
				select {
				case err := <-answer:
					t.Errorf("answered without a lease: %v", err)
				default:
				}
				if told := len(k.outbox.kinds()); (told > 0) != (step == "at the facts") {
					t.Errorf("%d facts went out", told)
				}
				k.lapsed.Store(false)
				check(t, <-answer)
				if _, report := export(t, s, huntSet); report.Rows != 3 || !report.Whole() || len(k.outbox.kinds()) != 1 {
					t.Errorf("report %+v, %d facts", report, len(k.outbox.kinds()))
				}
				if n := s.Stats()["write"]; n != 1 {
					t.Errorf("rows were written %d times", n)
				}
				k.stop()
			})
		})
	}
}

func TestLeaseThatLapsesDuringTheSyncHoldsBackTheFacts(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1")
	faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Do: func() { k.lapsed.Store(true) }})
	ctx, cancel := context.WithTimeout(background, 100*time.Millisecond)
	defer cancel()
	err := k.Submit(ctx, &filestore.Commit{
		Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 1)}, Facts: oneFact("f"),
	})
	wantErr(t, err, context.DeadlineExceeded)
	waitFor(t, "the round to be given up", func() bool { return k.Waiting() == 0 })
	if kinds := k.outbox.kinds(); len(kinds) != 0 {
		t.Errorf("facts %v went out about data that a seal may cut off", kinds)
	}
}

func TestUploadWaitsForARevivedLease(t *testing.T) {
	for step, fault := range map[string]filestoretest.Fault{
		"before": {}, "at the link": {Op: filestoretest.Link}, "at the last sync": {Op: filestoretest.Sync, Path: "*/*/*/*/*/*/.parts/*.ext"},
	} {
		t.Run(step, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, faulty := newFaulty(t)
				k := launch(t, s, "a-1")
				key, data := uploadKey(0), blob(1, 300_000)
				send(t, k, key, data, 0, len(data))
				lapse := func() { k.lapsed.Store(true) }
				if fault.Do = lapse; step == "before" {
					lapse()
				}
				struck := faulty.Inject(fault)
				type answer struct {
					*filestore.StoredUpload
					err error
				}
				answers := make(chan answer, 1) // one answer
				go func() {
					stored, err := k.FinishUpload(background, finish(key, data, "etc", "passwd"))
					answers <- answer{stored, err}
				}()
				time.Sleep(time.Minute)
				if !k.lapsed.Load() || len(answers) != 0 {
					t.Fatalf("struck %d times, %d answers without a lease", struck.Struck(), len(answers))
				}
				k.lapsed.Store(false)
				got := <-answers
				check(t, got.err)
				wantUpload(t, s, got.StoredUpload, data)
				k.stop()
			})
		})
	}
}

func TestUploadWithoutALeaseEndsWithItsCaller(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	key, data := uploadKey(0), blob(1, 1000)
	send(t, k, key, data, 0, len(data))
	k.lapsed.Store(true)
	ctx, cancel := context.WithTimeout(background, 50*time.Millisecond)
	defer cancel()
	_, err := k.FinishUpload(ctx, finish(key, data, "a"))
	wantErr(t, err, filestore.ErrLeaseLost)
}
