package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"raptorpack/proto/wirepb"
)

// abandon ends a buffer as a kill of the process does: descriptors and lock
// go, nothing is synced or written.
func (b *Buffer) abandon() {
	if s, ok := b.store.(*segments); ok {
		s.out.Close()
		s.lock.Close()
	}
}

func openTestBuffer(t testing.TB, dir string, limit int64) *Buffer {
	t.Helper()
	b, err := OpenBuffer(BufferOptions{Dir: dir, DiskBytes: limit, sync: noSync})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// noSync spares the disk where a test is not about it: a process that is
// killed loses nothing of what it wrote.
func noSync(*os.File) error { return nil }

func textMessage(flow, text string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: flow, VqlResponse: &wirepb.VQLResponse{JsonlResponse: text}}
}

// counted reads a counter.
func counted(t testing.TB, c prometheus.Collector) float64 {
	t.Helper()
	registry := prometheus.NewRegistry()
	registry.MustRegister(c)
	families, err := registry.Gather()
	if err != nil || len(families) != 1 {
		t.Fatal("gather", err)
	}
	return families[0].GetMetric()[0].GetCounter().GetValue()
}

func put(t testing.TB, b *Buffer, flow, text string) {
	t.Helper()
	if err := b.put(t.Context(), mark{Flow: flow, Kind: markRows}, textMessage(flow, text)); err != nil {
		t.Fatal(err)
	}
}

// sent are the messages of a lease, decoded.
func sent(t testing.TB, lease *Lease) []*wirepb.VeloMessage {
	t.Helper()
	if lease == nil {
		return nil
	}
	var out []*wirepb.VeloMessage
	for _, data := range lease.Messages {
		v := &wirepb.VeloMessage{}
		if err := proto.Unmarshal(data, v); err != nil {
			t.Fatal(err)
		}
		out = append(out, v)
	}
	return out
}

func texts(t testing.TB, lease *Lease) []string {
	t.Helper()
	var out []string
	for _, v := range sent(t, lease) {
		out = append(out, v.GetVqlResponse().GetJsonlResponse())
	}
	return out
}

func lease(t testing.TB, b *Buffer, maxBytes int64) *Lease {
	t.Helper()
	l, err := b.Lease(t.Context(), maxBytes)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// drain takes everything, batch by batch.
func drain(t testing.TB, b *Buffer) []string {
	t.Helper()
	var all []string
	for {
		l := lease(t, b, 1000)
		if l == nil {
			return all
		}
		all = append(all, texts(t, l)...)
		if err := b.Commit(t.Context(), l); err != nil {
			t.Fatal(err)
		}
	}
}

func numbered(from, to int) []string {
	var out []string
	for i := from; i < to; i++ {
		out = append(out, fmt.Sprintf("message %d", i))
	}
	return out
}

func equal(t testing.TB, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Fatalf("got %d messages %.200q, want %d messages %.200q", len(got), got, len(want), want)
	}
}

func TestLeaseGivesTheSameMessagesUntilTheyAreCommitted(t *testing.T) {
	for name, dir := range map[string]string{"memory": "", "disk": t.TempDir() + "/b"} {
		t.Run(name, func(t *testing.T) {
			b := openTestBuffer(t, dir, 0)
			defer b.Close()
			for _, text := range numbered(0, 10) {
				put(t, b, "F.A", text)
			}
			first := lease(t, b, 100)
			equal(t, texts(t, lease(t, b, 100)), texts(t, first))
			if err := b.Commit(t.Context(), first); err != nil {
				t.Fatal(err)
			}
			equal(t, append(texts(t, first), drain(t, b)...), numbered(0, 10))
		})
	}
}

func TestKilledAgentFindsWhatWasPutAndNotWhatWasCommitted(t *testing.T) {
	dir := t.TempDir() + "/b"
	b := openTestBuffer(t, dir, 1<<20)
	for _, text := range numbered(0, 500) {
		put(t, b, "F.A", text)
	}
	l := lease(t, b, 2000)
	sent := texts(t, l)
	if err := b.Commit(t.Context(), l); err != nil {
		t.Fatal(err)
	}
	b.abandon()
	b = openTestBuffer(t, dir, 1<<20)
	defer b.Close()
	equal(t, append(sent, drain(t, b)...), numbered(0, 500))
}

func TestSecondAgentOnTheSameBufferIsRefused(t *testing.T) {
	dir := t.TempDir() + "/b"
	b := openTestBuffer(t, dir, 0)
	defer b.Close()
	if _, err := OpenBuffer(BufferOptions{Dir: dir}); !errors.Is(err, ErrInUse) {
		t.Fatalf("got %v, want ErrInUse", err)
	}
}

// fill writes a small history into dir and returns its messages.
func fill(t *testing.T, dir string) []string {
	b := openTestBuffer(t, dir, 1<<20)
	ctx := t.Context()
	if err := b.note(ctx, flowEvent{Op: opAccept, Flow: "F.A", Request: []byte("request")}); err != nil {
		t.Fatal(err)
	}
	var p prefix
	for _, text := range numbered(0, 5) {
		p = p.extend([]byte(text))
		m := mark{Flow: "F.A", Kind: markRows, Name: "N", Prefix: p}
		if err := b.put(ctx, m, textMessage("F.A", text)); err != nil {
			t.Fatal(err)
		}
	}
	b.abandon()
	return numbered(0, 5)
}

func lastSegment(t *testing.T, dir string) string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.seg"))
	if err != nil || len(names) == 0 {
		t.Fatal("no segment", err)
	}
	return names[len(names)-1]
}

// copyDir copies dir with the last segment's content replaced.
func withTail(t *testing.T, dir string, tail []byte) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "b")
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(to, filepath.Base(lastSegment(t, dir))), tail, 0o600); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestBufferCutAtEveryByteKeepsAPrefixAndItsJournal(t *testing.T) {
	dir := t.TempDir() + "/b"
	all := fill(t, dir)
	whole, err := os.ReadFile(lastSegment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	longest := 0
	for cut := range len(whole) + 1 {
		metrics := NewMetrics(nil)
		to := withTail(t, dir, whole[:cut])
		b, err := OpenBuffer(BufferOptions{Dir: to, DiskBytes: 1 << 20, Metrics: metrics, sync: noSync})
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		rows := int64(0)
		if f := b.journal.Flows["F.A"]; f != nil {
			rows = f.query(0).Names["N"].Rows
		}
		put(t, b, "F.A", "after")
		got := drain(t, b)
		if got[len(got)-1] != "after" {
			t.Fatalf("cut at %d: what was put afterwards is not last: %q", cut, got)
		}
		got = got[:len(got)-1]
		equal(t, got, all[:len(got)])
		if rows != int64(len(got)) {
			t.Fatalf("cut at %d: journal knows %d rows, buffer has %d", cut, rows, len(got))
		}
		if n := counted(t, metrics.damaged); n != 0 {
			t.Fatalf("cut at %d counted as damage", cut)
		}
		longest = max(longest, len(got))
		b.abandon()
		if b, err = OpenBuffer(BufferOptions{Dir: to, Metrics: metrics, sync: noSync}); err != nil {
			t.Fatal(err)
		}
		if n := counted(t, metrics.damaged); n != 0 {
			t.Fatalf("cut at %d: damage at the second start", cut)
		}
		b.Close()
	}
	if longest != len(all) {
		t.Fatalf("the whole file gave %d messages", longest)
	}
}

func TestBufferWithAFlippedBitGivesAPrefixOnly(t *testing.T) {
	dir := t.TempDir() + "/b"
	all := fill(t, dir)
	whole, err := os.ReadFile(lastSegment(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	for at := 0; at < len(whole); at += 3 {
		broken := bytes.Clone(whole)
		broken[at] ^= 0x10
		b := openTestBuffer(t, withTail(t, dir, broken), 1<<20)
		got := drain(t, b)
		if len(got) >= len(all) {
			t.Fatalf("flip at %d went unnoticed", at)
		}
		equal(t, got, all[:len(got)])
		b.Close()
	}
}

func TestDamageInAnOldSegmentIsToldAndTheRestDelivered(t *testing.T) {
	dir := t.TempDir() + "/b"
	b := openTestBuffer(t, dir, 1<<20) // segments of 128 KiB
	long := strings.Repeat("x", 20<<10)
	for _, text := range numbered(0, 30) {
		put(t, b, "F.A", text+" "+long)
	}
	b.abandon()
	names, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
	if len(names) < 4 {
		t.Fatalf("only %d segments", len(names))
	}
	data, _ := os.ReadFile(names[1])
	data[len(data)-100] ^= 1
	os.WriteFile(names[1], data, 0o600)
	metrics := NewMetrics(nil)
	b, err := OpenBuffer(BufferOptions{Dir: dir, DiskBytes: 1 << 20, Metrics: metrics})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	got := drain(t, b)
	if len(got) != 29 || !strings.HasPrefix(got[28], "message 29 ") {
		t.Fatalf("got %d messages", len(got))
	}
	if counted(t, metrics.damaged) != 1 {
		t.Fatal("damage was not counted")
	}
}

func TestFullBufferMakesProducersWait(t *testing.T) {
	for _, disk := range []bool{false, true} {
		t.Run(fmt.Sprintf("disk=%v", disk), func(t *testing.T) {
			dir := ""
			if disk {
				dir = t.TempDir() + "/b"
			}
			synctest.Test(t, func(t *testing.T) {
				b, err := OpenBuffer(BufferOptions{Dir: dir, DiskBytes: 64 << 10, MemoryBytes: 64 << 10})
				if err != nil {
					t.Fatal(err)
				}
				text := strings.Repeat("x", 10<<10)
				produced := 0
				done := make(chan struct{}) // closed when the producer ends
				go func() {
					defer close(done)
					for range 20 {
						if b.put(t.Context(), mark{Flow: "F.A", Kind: markRows}, textMessage("F.A", text)) == nil {
							produced++
						}
					}
				}()
				synctest.Wait()
				if produced == 0 || produced > 6 {
					t.Fatalf("producer went on to %d messages", produced)
				}
				got := 0
				for got < 20 {
					got += len(drain(t, b))
					synctest.Wait()
					if size := b.store.bytes(); size > 80<<10 {
						t.Fatalf("buffer grew to %d bytes", size)
					}
				}
				<-done
				b.Close()
			})
		})
	}
}

func TestWaitingProducerEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := OpenBuffer(BufferOptions{MemoryBytes: 100})
		put(t, b, "F.A", strings.Repeat("x", 80))
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error, 1)
		go func() {
			failed <- b.put(ctx, mark{Flow: "F.A", Kind: markRows}, textMessage("F.A", strings.Repeat("y", 80)))
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
	})
}

// fullDisk is a store whose disk is full for a while.
type fullDisk struct {
	memory
	failures int
}

func (f *fullDisk) append(kind byte, body []byte, c func() ([]byte, error)) error {
	if f.failures--; f.failures >= 0 {
		return fmt.Errorf("write: %w", syscall.ENOSPC)
	}
	return f.memory.append(kind, body, c)
}

func TestFullDiskIsBackPressureNotLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, _ := OpenBuffer(BufferOptions{})
		b.store = &fullDisk{failures: 5}
		put(t, b, "F.A", "text")
		equal(t, drain(t, b), []string{"text"})
	})
}

func TestFailedSyncEndsTheBuffer(t *testing.T) {
	b, _ := OpenBuffer(BufferOptions{})
	b.store = failingSync{&memory{}}
	put(t, b, "F.A", "text")
	if _, err := b.Lease(t.Context(), 100); !errors.Is(err, ErrBroken) {
		t.Fatalf("lease after a failed sync: %v", err)
	}
	err := b.put(t.Context(), mark{Kind: markRows}, textMessage("F.A", "more"))
	if !errors.Is(err, ErrBroken) {
		t.Fatalf("put after a failed sync: %v", err)
	}
}

func TestDiskFullAtSyncIsNoBackPressure(t *testing.T) {
	full := false // the disk takes writes and finds at sync that it has no room for them
	sync := func(*os.File) error {
		if full {
			return syscall.ENOSPC
		}
		return nil
	}
	open := func() *Buffer {
		b, err := OpenBuffer(BufferOptions{Dir: t.TempDir() + "/b", DiskBytes: 1 << 20, sync: sync})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { b.Close() })
		return b
	}
	b := open()
	put(t, b, "F.A", "text")
	l := lease(t, b, 100)
	full = true
	if err := b.Commit(t.Context(), l); !errors.Is(err, ErrBroken) {
		t.Fatalf("commit: %v", err)
	}
	full = false
	b = open()
	full = true
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var err error
	for err == nil { // until the segment is full and the next one begins
		err = b.put(ctx, mark{Flow: "F.A", Kind: markRows}, textMessage("F.A", strings.Repeat("x", 20<<10)))
	}
	if !errors.Is(err, ErrBroken) {
		t.Fatalf("put: %v", err)
	}
}

type failingSync struct{ *memory }

func (failingSync) sync() error { return fmt.Errorf("%w: %w", errSync, syscall.EIO) }

func TestNothingLeavesBeforeItIsDurable(t *testing.T) {
	synced, dir := int64(0), t.TempDir()+"/b"
	b, err := OpenBuffer(BufferOptions{Dir: dir, sync: func(f *os.File) error {
		info, err := f.Stat()
		if !info.IsDir() {
			synced = info.Size()
		}
		return err
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	for _, text := range numbered(0, 20) {
		put(t, b, "F.A", text)
		before := synced
		l := lease(t, b, 1<<20)
		info, err := os.Stat(lastSegment(t, dir))
		if err != nil || synced <= before || synced != info.Size() || len(l.Messages) == 0 {
			t.Fatalf("leased %d messages with %d of %d bytes synced", len(l.Messages), synced, info.Size())
		}
	}
}

func TestCancelledFlowKeepsOnlyItsLogsAndStatistics(t *testing.T) {
	b := openTestBuffer(t, t.TempDir()+"/b", 0)
	defer b.Close()
	ctx := t.Context()
	b.note(ctx, flowEvent{Op: opAccept, Flow: "F.A"})
	put(t, b, "F.A", "row")
	put(t, b, "F.B", "other flow")
	b.put(ctx, mark{Flow: "F.A", Kind: markLog}, textMessage("F.A", "log"))
	b.note(ctx, flowEvent{Op: opCancel, Flow: "F.A"})
	if err := b.put(ctx, mark{Flow: "F.A", Kind: markRows}, textMessage("F.A", "late row")); !errors.Is(err, ErrCancelled) {
		t.Fatalf("late row: %v", err)
	}
	b.put(ctx, mark{Flow: "F.A", Kind: markStats}, textMessage("F.A", "stats"))
	equal(t, drain(t, b), []string{"other flow", "log", "stats"})
}

func TestCancelBeforeTheFirstMessageSurvives(t *testing.T) {
	dir := t.TempDir() + "/b"
	b := openTestBuffer(t, dir, 0)
	b.note(t.Context(), flowEvent{Op: opAccept, Flow: "F.A"})
	b.note(t.Context(), flowEvent{Op: opCancel, Flow: "F.A"})
	for range 2 {
		if f, _ := b.flow("F.A"); f.Cancelled == 0 {
			t.Fatal("the cancellation is forgotten")
		}
		err := b.put(t.Context(), mark{Flow: "F.A", Kind: markRows}, textMessage("F.A", "row"))
		if !errors.Is(err, ErrCancelled) {
			t.Fatalf("late row: %v", err)
		}
		b.abandon()
		b = openTestBuffer(t, dir, 0)
	}
	b.Close()
}

// TestBufferAgainstModel plays random histories with kills in between and
// holds the buffer to: every message once, in order, unless cancelled.
func TestBufferAgainstModel(t *testing.T) {
	root := t.TempDir()
	n := 0
	rapid.Check(t, func(rt *rapid.T) {
		n++
		dir := filepath.Join(root, fmt.Sprint(n))
		open := func() *Buffer {
			b, err := OpenBuffer(BufferOptions{Dir: dir, DiskBytes: 600 << 10, sync: noSync})
			if err != nil {
				rt.Fatal(err)
			}
			return b
		}
		b := open()
		defer func() { b.Close() }()
		ctx := t.Context()
		var model []string
		rows, next := int64(0), 0
		if err := b.note(ctx, flowEvent{Op: opAccept, Flow: "F.A"}); err != nil {
			rt.Fatal(err)
		}
		rt.Repeat(map[string]func(*rapid.T){
			"put": func(rt *rapid.T) {
				size := rapid.IntRange(0, 30<<10).Draw(rt, "size")
				if b.store.bytes() > 500<<10 {
					rt.Skip("full")
				}
				text := fmt.Sprintf("%d %s", next, strings.Repeat("x", size))
				next++
				rows++
				m := mark{Flow: "F.A", Kind: markRows, Name: "N", Prefix: prefix{Rows: rows}}
				if err := b.put(ctx, m, textMessage("F.A", text)); err != nil {
					rt.Fatal(err)
				}
				model = append(model, text)
			},
			"deliver": func(rt *rapid.T) {
				l, err := b.Lease(ctx, int64(rapid.IntRange(1, 100<<10).Draw(rt, "max")))
				if err != nil {
					rt.Fatal(err)
				}
				got := texts(t, l)
				if len(got) > len(model) || (len(model) > 0) != (len(got) > 0) {
					rt.Fatalf("leased %d of %d", len(got), len(model))
				}
				for i := range got {
					if got[i] != model[i] {
						rt.Fatalf("message %d is %.20q, want %.20q", i, got[i], model[i])
					}
				}
				if l != nil && rapid.Bool().Draw(rt, "acknowledged") {
					if err := b.Commit(ctx, l); err != nil {
						rt.Fatal(err)
					}
					model = model[len(got):]
				}
			},
			"kill": func(rt *rapid.T) {
				b.abandon()
				b = open()
			},
			"": func(rt *rapid.T) {
				if got := b.journal.Flows["F.A"].query(0).Names["N"].Rows; got != rows {
					rt.Fatalf("journal knows %d rows of %d", got, rows)
				}
				if b.Pending() != int64(len(model)) {
					rt.Fatalf("%d pending, want %d", b.Pending(), len(model))
				}
			},
		})
	})
}

func FuzzBuffer(f *testing.F) {
	body, _ := encodeMessage(mark{Flow: "F.A", Kind: markRows, Name: "N", Prefix: prefix{1, 2, 3}}, []byte{})
	seed := appendRecord([]byte(segmentMagic), recordCheckpoint, []byte(`{"next":3,"committed":1}`))
	seed = appendRecord(seed, recordFlow, []byte(`{"op":"accept","flow":"F.A"}`))
	seed = appendRecord(seed, recordMessage, body)
	seed = appendRecord(seed, recordCommit, []byte{2})
	f.Add(seed)
	f.Add([]byte(segmentMagic))
	f.Fuzz(func(t *testing.T, data []byte) {
		valid, first, j, err := foldSegment(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Fatal(err) // bytes in memory never fail to read
		}
		if j == nil {
			return
		}
		if valid > int64(len(data)) || first > j.Next || j.Committed > j.Next {
			t.Fatalf("valid %d of %d, first %d, next %d, committed %d", valid, len(data), first, j.Next, j.Committed)
		}
		if _, err := j.encode(); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzRecordBodies(f *testing.F) {
	f.Add(byte(recordFlow), []byte(`{"op":"accept","flow":"F.A","uploads":[null]}`))
	f.Add(byte(recordFlow), []byte(`{"op":"cancel","flow":"F.A"}`))
	f.Add(byte(recordMessage), []byte("\x02{}"))
	f.Add(byte(recordCommit), []byte{1})
	f.Fuzz(func(t *testing.T, kind byte, body []byte) {
		j := newJournal()
		j.event(flowEvent{Op: opAccept, Flow: "F.A"})
		_ = j.fold(kind, body) // must not panic; what it refuses ends the segment
		if _, err := j.encode(); err != nil {
			t.Fatal(err)
		}
	})
}
