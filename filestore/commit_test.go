package filestore_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/ids"
)

var (
	background = context.Background()
	flowX      = flow("X1")
	huntSet    = filestore.HuntResults(ids.RootOrg, hunt("H1"), "Linux.Sys.Pslist")
)

func TestSubmitStoresRowsThenFacts(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	set := filestore.FlowResults(ids.RootOrg, client(1), flowX, "A/B")
	err := k.Submit(background, &filestore.Commit{
		Appends: []filestore.Append{appendRows(set, client(1), flowX, "A/B", 0, 3)},
	})
	check(t, err)
	check(t, k.Submit(background, &filestore.Commit{
		Appends: []filestore.Append{appendRows(set, client(1), flowX, "A/B", 3, 2)}, Facts: oneFact("end"),
	}))
	text, report := export(t, s, set)
	if want := string(numbered(client(1).String(), 0, 5)); text != want {
		t.Errorf("rows are\n%swant\n%s", text, want)
	}
	if !report.Whole() || report.Rows != 5 {
		t.Errorf("report %+v", report)
	}
	if kinds := k.outbox.kinds(); len(kinds) != 1 || kinds[0] != "end" {
		t.Errorf("facts are %v", kinds)
	}
}

func TestManySubmitsShareSyncs(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	before := s.Stats()
	const flows = 400
	var all sync.WaitGroup
	for i := range flows {
		all.Go(func() {
			err := k.Submit(background, &filestore.Commit{
				Class:   filestore.Bulk,
				Appends: []filestore.Append{appendRows(huntSet, client(i), flowX, "Linux.Sys.Pslist", 0, 1)},
				Facts:   oneFact("end"),
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	after := s.Stats()
	if n := after["sync"] - before["sync"]; n > flows/20 {
		t.Errorf("%d syncs for %d flows", n, flows)
	}
	if n := after["create"] - before["create"]; n != 1 {
		t.Errorf("%d files created, want 1", n)
	}
	if _, report := export(t, s, huntSet); report.Rows != flows || !report.Whole() {
		t.Errorf("report %+v", report)
	}
}

func TestFailedSyncGoesToANewPart(t *testing.T) {
	for _, op := range []filestoretest.Op{filestoretest.Sync, filestoretest.Write, filestoretest.SyncDir} {
		s, faulty := newFaulty(t)
		k := launch(t, s, "web-1")
		rows := func(first int) *filestore.Commit {
			return &filestore.Commit{
				Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", first, 2)}, Facts: oneFact("f"),
			}
		}
		if op != filestoretest.SyncDir {
			check(t, k.Submit(background, rows(0)))
		}
		injection := faulty.Inject(filestoretest.Fault{Op: op, Err: errBroken, Drop: op == filestoretest.Sync})
		check(t, k.Submit(background, rows(2)))
		if injection.Struck() != 1 {
			t.Fatalf("%s struck %d times", op, injection.Struck())
		}
		if op == filestoretest.SyncDir {
			check(t, k.Submit(background, rows(0)))
		}
		check(t, k.Submit(background, rows(4)))
		text, report := export(t, s, huntSet)
		if want := string(numbered(client(1).String(), 0, 6)); text != want || report.Rows != 6 || len(report.Conflicts)+len(report.Holes) > 0 {
			t.Errorf("%s: rows are\n%sreport %+v", op, text, report)
		}
		names, err := s.ReadDir(background, huntSet.String())
		check(t, err)
		if op != filestoretest.SyncDir && strings.Join(names, " ") != "web-1.jsonl.gz web-1_1.jsonl.gz" {
			t.Errorf("%s: files are %v", op, names)
		}
	}
}

func TestFailingFileAffectsOnlyWhoTouchedIt(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1")
	bad := filestore.FlowLogs(ids.RootOrg, client(9), flowX)
	injection := faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Match: within("/logs/"), Err: errBroken, Times: filestoretest.Always})
	ctx, cancel := context.WithCancel(background)
	stuck := make(chan error, 1)
	go func() {
		stuck <- k.Submit(ctx, &filestore.Commit{Appends: []filestore.Append{appendRows(bad, client(9), flowX, "log", 0, 1)}, Facts: oneFact("bad")})
	}()
	for i := range 5 {
		check(t, k.Submit(background, &filestore.Commit{
			Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", i, 1)}, Facts: oneFact("good"),
		}))
	}
	cancel()
	if err := <-stuck; !errors.Is(err, context.Canceled) {
		t.Errorf("a submit whose file fails ends with %v", err)
	}
	injection.Lift()
	for _, kind := range k.outbox.kinds() {
		if kind == "bad" {
			t.Error("a fact went out although its data never became durable")
		}
	}
}

func TestFullDiskIsBackPressure(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1")
	check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", 0, 1)}}))
	injection := faulty.Inject(filestoretest.Fault{Op: filestoretest.Write, Err: syscall.ENOSPC, Times: filestoretest.Always})
	more := &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", 1, 1)}, Facts: oneFact("f")}
	wantErr(t, k.Submit(background, more), filestore.ErrFull)
	wantErr(t, k.Submit(background, more), filestore.ErrFull)
	if struck := injection.Struck(); struck != 1 {
		t.Errorf("a full disk was written to %d times", struck)
	}
	if kinds := k.outbox.kinds(); len(kinds) != 0 {
		t.Errorf("facts %v went out", kinds)
	}
	check(t, k.Submit(background, &filestore.Commit{Facts: oneFact("release")}))
}

func TestFailedOutboxIsAnError(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	k.outbox.fail = errBroken
	wantErr(t, k.Submit(background, &filestore.Commit{Facts: oneFact("f")}), errBroken)
	check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "Linux.Sys.Pslist", 0, 1)}}))
}

func TestHangingMountBlocksNobodyAndQueueIsBounded(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.QueueBytes = 13_000 })
	hang := faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Hang: true, Times: filestoretest.Always})
	ctx, cancel := context.WithCancel(background)
	commit := func(first int) *filestore.Commit {
		return &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", first, 100)}}
	}
	answers := make(chan error, 20)
	for i := range 20 {
		go func() { answers <- k.Submit(ctx, commit(100*i)) }()
	}
	// 13,000 bytes are three of these; the others are told so while calls hang.
	for range 17 {
		wantErr(t, <-answers, filestore.ErrBusy)
	}
	waitFor(t, "a hanging sync", func() bool { return hang.Hanging() > 0 })
	cancel()
	for range 3 {
		wantErr(t, <-answers, context.Canceled)
	}
	hang.Lift()
	waitFor(t, "an empty queue", func() bool { return !errors.Is(k.Submit(background, commit(0)), filestore.ErrBusy) })
	k.stop()
	wantErr(t, k.Submit(background, commit(0)), filestore.ErrStopped)
	if _, report := export(t, s, huntSet); len(report.Conflicts)+len(report.Damage) > 0 {
		t.Errorf("report %+v", report)
	}
}

func TestMalformedAppendsAreRefused(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	good := appendRows(huntSet, client(1), flowX, "n", 0, 2)
	for name, change := range map[string]func(*filestore.Append){
		"no line end":  func(a *filestore.Append) { a.Lines = a.Lines[:len(a.Lines)-1] },
		"wrong count":  func(a *filestore.Append) { a.Extent.Rows = 3 },
		"no rows":      func(a *filestore.Append) { a.Extent.Rows, a.Lines = 0, nil },
		"negative row": func(a *filestore.Append) { a.Extent.FirstRow = -1 },
		"huge row":     func(a *filestore.Append) { a.Extent.FirstRow = filestore.MaxRow },
		"long name":    func(a *filestore.Append) { a.Extent.Name = strings.Repeat("x", filestore.MaxNameBytes+1) },
		"no set":       func(a *filestore.Append) { a.Set = "" },
		"foreign set":  func(a *filestore.Append) { a.Set = "../etc" },
	} {
		a := good
		change(&a)
		if err := k.Submit(background, &filestore.Commit{Appends: []filestore.Append{a}}); !errors.Is(err, filestore.ErrBadAppend) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIdleFilesAreClosedAndContinued(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.OpenFiles = 2 })
	for round := range 3 {
		for i := range 6 {
			set := filestore.FlowLogs(ids.RootOrg, client(i), flowX)
			check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(set, client(i), flowX, "log", round, 1)}}))
		}
	}
	stats := s.Stats()
	if stats["create"] != 6 || stats["openwrite"] == 0 {
		t.Errorf("created %d, opened again %d", stats["create"], stats["openwrite"])
	}
	for i := range 6 {
		if _, report := export(t, s, filestore.FlowLogs(ids.RootOrg, client(i), flowX)); report.Rows != 3 || !report.Whole() {
			t.Errorf("client %d: %+v", i, report)
		}
	}
}

func TestForgottenSegmentGetsANewPart(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	set := filestore.FlowLogs(ids.RootOrg, client(1), flowX)
	for i := range 3 {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(set, client(1), flowX, "log", i, 1)}}))
		k.Forget(background, filestore.FlowDir(ids.RootOrg, client(1), flowX))
	}
	names, err := s.ReadDir(background, set.String())
	check(t, err)
	if strings.Join(names, " ") != "web-1.jsonl.gz web-1_1.jsonl.gz web-1_2.jsonl.gz" {
		t.Errorf("files are %v", names)
	}
	check(t, s.RemoveAll(background, filestore.FlowDir(ids.RootOrg, client(1), flowX)))
	k.Forget(background, filestore.FlowDir(ids.RootOrg, client(1), flowX))
	check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(set, client(1), flowX, "log", 9, 1)}}))
	if _, report := export(t, s, set); report.Rows != 1 {
		t.Errorf("after removal: %+v", report)
	}
}

func TestLongSegmentGetsANewPart(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.SegmentBytes = 300 })
	for i := range 8 {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", i, 1)}}))
	}
	names, err := s.ReadDir(background, huntSet.String())
	check(t, err)
	if _, report := export(t, s, huntSet); len(names) < 3 || report.Rows != 8 || !report.Whole() {
		t.Errorf("files %v, report %+v", names, report)
	}
}

func TestBulkWaitsForCompanyAndInteractiveDoesNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFaulty(t)
		k := launch(t, s, "web-1")
		for class, limits := range map[filestore.Class][2]time.Duration{
			filestore.Interactive: {0, 2 * time.Millisecond}, filestore.Bulk: {250 * time.Millisecond, 250 * time.Millisecond},
		} {
			begin := time.Now()
			check(t, k.Submit(background, &filestore.Commit{Class: class, Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", int(class), 1)}}))
			if took := time.Since(begin); took < limits[0] || took > limits[1] {
				t.Errorf("%s took %v", class, took)
			}
		}
		closed := s.Stats()["close"]
		time.Sleep(time.Minute)
		if n := s.Stats()["close"] - closed; n != 1 {
			t.Errorf("%d idle files closed, want 1", n)
		}
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 2, 1)}}))
		if _, report := export(t, s, huntSet); report.Rows != 3 || !report.Whole() {
			t.Errorf("report %+v", report)
		}
		k.stop()
	})
}

// Whoever sends a large collection waits for each piece of it in turn.
func TestMuchOfOneClientWaitsLess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFaulty(t)
		k := launch(t, s, "web-1")
		begin := time.Now()
		much := appendRows(huntSet, client(1), flowX, "n", 0, 1)
		much.Lines = []byte(`{"x":"` + strings.Repeat("x", 100_000) + "\"}\n")
		check(t, k.Submit(background, &filestore.Commit{Class: filestore.Bulk, Appends: []filestore.Append{much}}))
		if took := time.Since(begin); took != 125*time.Millisecond {
			t.Errorf("took %v", took)
		}
		k.stop()
	})
}

func TestLargeBulkDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, _ := newFaulty(t)
		k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.RoundBytes = 5000 })
		begin := time.Now()
		check(t, k.Submit(background, &filestore.Commit{Class: filestore.Bulk, Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 1000)}}))
		if took := time.Since(begin); took != 0 {
			t.Errorf("took %v", took)
		}
		k.stop()
	})
}

func TestStoppingFinishesWhatWaits(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.BulkWindow = time.Hour })
	answers := make(chan error, 10)
	for i := range 10 {
		go func() {
			answers <- k.Submit(background, &filestore.Commit{Class: filestore.Bulk, Appends: []filestore.Append{appendRows(huntSet, client(i), flowX, "n", 0, 1)}})
		}()
	}
	stored := int64(0)
	waitFor(t, "ten submits to wait", func() bool { return k.QueuedBytes() > 10*512 })
	k.stop()
	for range 10 {
		if err := <-answers; err == nil {
			stored++
		} else {
			wantErr(t, err, filestore.ErrStopped)
		}
	}
	if _, report := export(t, s, huntSet); stored != 10 || report.Rows != stored {
		t.Errorf("%d acknowledged, %d stored", stored, report.Rows)
	}
}

func TestHungMountCannotHoldUpTheEndForEver(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.DrainTimeout = 50 * time.Millisecond })
	hang := faulty.Inject(filestoretest.Fault{Op: filestoretest.Sync, Hang: true, Times: filestoretest.Always})
	answer := make(chan error, 1)
	go func() {
		answer <- k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 1)}})
	}()
	waitFor(t, "a hanging sync", func() bool { return hang.Hanging() > 0 })
	k.stop()
	wantErr(t, <-answer, filestore.ErrStopped)
	hang.Lift()
}

func TestResentCommitIsStoredOnce(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "web-1")
	for range 3 {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 5)}}))
	}
	if text, report := export(t, s, huntSet); text != string(numbered(client(1).String(), 0, 5)) || !report.Whole() {
		t.Errorf("%q, %+v", text, report)
	}
}

func TestCommitsAreCounted(t *testing.T) {
	s, _ := newFaulty(t)
	reg := prometheus.NewRegistry()
	k := launch(t, s, "web-1", func(o *filestore.CommitterOptions) { o.Registerer = reg })
	check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 0, 5)}}))
	k.stop()
	families, err := reg.Gather()
	check(t, err)
	got := map[string]float64{}
	for _, f := range families {
		for _, m := range f.Metric {
			got[f.GetName()] += m.GetCounter().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	for name, want := range map[string]float64{
		"commit_rows_total": 5, "commit_members_total": 1, "commit_duration_seconds": 1, "commits_total": 1, "commit_batches": 1,
	} {
		if got["raptorpack_filestore_"+name] != want {
			t.Errorf("%s is %v, want %v", name, got["raptorpack_filestore_"+name], want)
		}
	}
}

func TestWithoutDescriptorsACommitIsRefusedAndNotTriedForEver(t *testing.T) {
	s, faulty := newFaulty(t)
	k := launch(t, s, "web-1")
	fault := faulty.Inject(filestoretest.Fault{Op: filestoretest.Create, Err: syscall.EMFILE, Times: filestoretest.Always})
	a := batch(client(1), 0, "{1};")
	a.Set = huntSet
	if err := k.Submit(t.Context(), &filestore.Commit{Appends: []filestore.Append{a}}); !errors.Is(err, filestore.ErrBusy) {
		t.Errorf("without descriptors: %v, want ErrBusy", err)
	}
	fault.Lift()
	check(t, k.Submit(t.Context(), &filestore.Commit{Appends: []filestore.Append{a}}))
}
