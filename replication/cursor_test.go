package replication

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// outboxName is the incarnation of the outboxes here.
const outboxName = "n1-1"

// writeOutbox writes facts 1 to count in files of perFile each, sized by size, and
// returns the files' paths.
func writeOutbox(t *testing.T, root string, count, perFile uint64, size func(seq uint64) int) []string {
	t.Helper()
	var files []string
	var file []byte
	for seq := uint64(1); seq <= count; seq++ {
		if file == nil {
			file = appendOutboxHeader(nil, seq)
			files = append(files, filepath.Join(root, outboxFile{first: seq}.path(outboxName)))
		}
		payload, err := proto.Marshal(&buspb.Fact{Seq: seq, Mutation: &buspb.Mutation{Kind: fmt.Sprint("book ", seq), Body: make([]byte, size(seq))}})
		if err != nil {
			t.Fatal(err)
		}
		file = appendFact(file, 0, payload)
		if seq%perFile > 0 && seq < count {
			continue
		}
		last := files[len(files)-1]
		if err := os.MkdirAll(filepath.Dir(last), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(last, file, 0o644); err != nil {
			t.Fatal(err)
		}
		file = nil
	}
	return files
}

// TestCursorReadsFactsOfAnySize reads an outbox of several files, each of more than is
// read at once, with facts from a few bytes to the largest, from each place in it.
func TestCursorReadsFactsOfAnySize(t *testing.T) {
	const count = 400
	root := t.TempDir()
	store, err := filestore.Open(root, filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(t.Context())
	sizes := []int{10, 900, 40_000, maxFact - 50, 300_000, maxFact - 70, maxFact - 100, 5}
	writeOutbox(t, root, count, 150, func(seq uint64) int {
		if seq%20 > 0 {
			return 10
		}
		return sizes[seq/20%uint64(len(sizes))]
	})
	for from := uint64(1); from <= count; from += 7 {
		c := &cursor{store: store, name: outboxName, next: from}
		if got := readAll(t, c); got != count+1-from {
			t.Errorf("from %d: %d facts, want %d", from, got, count+1-from)
		}
	}
}

// TestUntoldGoesOnWhereItFoundTheFirst looks again and again while facts are applied,
// also when the file that it stopped in is removed.
func TestUntoldGoesOnWhereItFoundTheFirst(t *testing.T) {
	const count = 90
	root := t.TempDir()
	store, err := filestore.Open(root, filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(t.Context())
	files := writeOutbox(t, root, count, 30, func(uint64) int { return 30_000 })
	n, err := New(Options{Store: store, Incarnation: "a-1"})
	if err != nil {
		t.Fatal(err)
	}
	applied := uint64(0)
	for _, upTo := range []uint64{0, 1, 12, 12, 29, 47, 59, 60, 89, 90, 90} {
		for applied < upTo {
			applied++
			e := &buspb.Entry{
				Index: applied, Epoch: 1, Time: int64(applied), Mutation: &buspb.Mutation{Kind: kindEpoch},
				Origin: &buspb.Origin{Incarnation: outboxName, Stream: buspb.Origin_STREAM_OUTBOX, Seq: applied},
			}
			if _, err := n.apply(e, nil, place{epoch: 1, index: e.Index, time: e.Time}); err != nil {
				t.Fatal(err)
			}
		}
		if upTo == 47 { // all of the first file, in which the bookmark lies
			if err := os.Remove(files[0]); err != nil {
				t.Fatal(err)
			}
		}
		found, err := n.Untold(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if at := n.bookmarks.places[outboxName].next; at != upTo+1 {
			t.Errorf("%d applied: bookmark at %d, want the next", upTo, at)
		}
		if uint64(len(found)) != count-upTo || len(found) > 0 && found[0].Kind != fmt.Sprint("book ", upTo+1) {
			t.Errorf("%d applied: %d facts are untold, want %d from %d on", upTo, len(found), count-upTo, upTo+1)
		}
	}
	if at := n.bookmarks.places[outboxName]; at.next != count+1 || at.file.first != 61 {
		t.Errorf("bookmark at %+v, want behind the last fact of the last file", at)
	}
}

// readAll reads to the end of an outbox and counts the facts, which must be in order.
func readAll(t *testing.T, c *cursor) uint64 {
	t.Helper()
	n, next := uint64(0), c.next
	for {
		facts, err := c.read(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		if len(facts) == 0 {
			return n
		}
		for _, f := range facts {
			if f.Seq != next || f.Mutation.Kind != fmt.Sprint("book ", f.Seq) {
				t.Fatalf("fact %d (%s), want %d", f.Seq, f.Mutation.Kind, next)
			}
			n, next = n+1, next+1
		}
	}
}
