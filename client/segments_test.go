package client

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCheckpointMayBeLargerThanAnyMessage(t *testing.T) {
	body := make([]byte, maxRecordBytes+1)
	for kind, want := range map[byte]error{recordCheckpoint: nil, recordMessage: errTorn} {
		file := []byte(segmentMagic)
		if kind == recordMessage {
			file = appendRecord(file, recordCheckpoint, nil)
		}
		at := int64(len(file))
		file = appendRecord(file, kind, body)
		got, back, _, err := readRecord(bytes.NewReader(file), at, int64(len(file)))
		if !errors.Is(err, want) || want == nil && (got != kind || len(back) != len(body)) {
			t.Errorf("record of kind %d came back as %d with %d bytes, %v", kind, got, len(back), err)
		}
	}
}

func TestUnreadableLastSegmentIsKeptUnlessNothingStoodInIt(t *testing.T) {
	dir := t.TempDir() + "/b"
	fill(t, dir)
	b := openTestBuffer(t, dir, 1<<20) // a second segment: the first one still has messages
	put(t, b, "F.A", "in the second")
	b.abandon()
	name := lastSegment(t, dir)
	whole, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	begun := bytes.LastIndex(whole[:bytes.Index(whole, []byte(`{"f":"F.A"`))], []byte("}")) + 1 // where the checkpoint ends
	broken := bytes.Clone(whole)
	broken[checkpointAt+recordHead+5] ^= 1
	for _, c := range []struct {
		what    string
		data    []byte
		damaged float64
	}{{"damage", broken, 1}, {"a torn creation", whole[:begun-1], 0}} {
		to := withTail(t, dir, c.data)
		metrics := NewMetrics(nil)
		b, err := OpenBuffer(BufferOptions{Dir: to, DiskBytes: 1 << 20, Metrics: metrics, sync: noSync})
		if err != nil {
			t.Fatal(err)
		}
		equal(t, drain(t, b), numbered(0, 5))
		b.Close()
		aside, _ := filepath.Glob(filepath.Join(to, "*.damaged"))
		if counted(t, metrics.damaged) != c.damaged || len(aside) != int(c.damaged) {
			t.Fatalf("%s: damage counted %v, set aside %q", c.what, counted(t, metrics.damaged), aside)
		}
	}
}

func TestIdleBufferWithALargeJournalDoesNotRewriteItForEachMessage(t *testing.T) {
	dir := t.TempDir() + "/b"
	b := openTestBuffer(t, dir, 0)
	if err := b.note(t.Context(), flowEvent{Op: opAccept, Flow: "F.A", Request: make([]byte, 3<<20)}); err != nil {
		t.Fatal(err)
	}
	b.abandon()
	b = openTestBuffer(t, dir, 0) // now the segment begins with the journal
	defer b.Close()
	before := lastSegment(t, dir)
	for _, text := range numbered(0, 10) {
		put(t, b, "F.A", text)
		drain(t, b)
	}
	if after := lastSegment(t, dir); after != before {
		t.Fatalf("segment %s was replaced by %s", before, after)
	}
	put(t, b, "F.A", string(make([]byte, 8<<20)))
	drain(t, b)
	if after := lastSegment(t, dir); after == before {
		t.Fatal("a large segment was kept though nothing waits")
	}
}

func TestRemovedSegmentsCostTheirMessagesAndNoMore(t *testing.T) {
	texts := numbered(0, 30)
	for i := range texts {
		texts[i] += " " + strings.Repeat("x", 20<<10)
	}
	for name, running := range map[string]bool{"while the agent runs": true, "while it does not": false} {
		for _, which := range []string{"first", "middle", "last"} {
			t.Run(which+" "+name, func(t *testing.T) {
				dir := t.TempDir() + "/b"
				metrics := NewMetrics(nil)
				open := func() *Buffer {
					b, err := OpenBuffer(BufferOptions{Dir: dir, DiskBytes: 1 << 20, Metrics: metrics, sync: noSync})
					if err != nil {
						t.Fatal(err)
					}
					return b
				}
				b := open() // segments of 128 KiB
				for _, text := range texts {
					put(t, b, "F.A", text)
				}
				if !running {
					b.abandon()
				}
				names, _ := filepath.Glob(filepath.Join(dir, "*.seg"))
				if err := os.Remove(names[map[string]int{"first": 0, "middle": 2, "last": len(names) - 1}[which]]); err != nil {
					t.Fatal(err)
				}
				if !running {
					b = open()
				}
				put(t, b, "F.A", "after")
				got := drain(t, b)
				put(t, b, "F.A", "later")
				equal(t, drain(t, b), []string{"later"})
				if b.Pending() != 0 || len(got) < len(texts)-8 || len(got) > len(texts) {
					t.Fatalf("%d of %d messages came, %d pending", len(got), len(texts), b.Pending())
				}
				// Nobody can know of a file that was the last one before a start.
				if n := counted(t, metrics.damaged); n != 1 && (running || which != "last") {
					t.Fatalf("damage counted %v times", n)
				}
				b.Close()
				b = open()
				defer b.Close()
				if again := drain(t, b); len(again) != 0 {
					t.Fatalf("%d messages came again", len(again))
				}
			})
		}
	}
}
