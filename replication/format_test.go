package replication

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"hash/crc32"
	"os"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

var update = flag.Bool("update", false, "write the golden files anew")

// golden compares bytes with a hex dump in testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	name = "testdata/" + name
	dump := hex.Dump(got)
	if *update {
		if err := os.WriteFile(name, []byte(dump), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if dump != string(want) {
		t.Errorf("the format on disk has changed:\n got\n%swant\n%s", dump, want)
	}
}

// sampleLedger is a file with three entries, the last of them in a second
// group, and the name of its successor. ends are where its records end.
func sampleLedger(t testing.TB) (file []byte, ends []int) {
	t.Helper()
	chain := chainHash{1, 2, 3}
	file = fileHeader{epoch: 7, first: 41, chain: chain}.append(nil)
	ends = append(ends, len(file))
	durable := int64(len(file))
	for i := range uint64(3) {
		if i == 2 {
			durable = int64(len(file))
		}
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.Entry{
			Index: 41 + i, Epoch: 7, Time: int64(1_700_000_000_000_000 + i),
			Origin:   &buspb.Origin{Incarnation: "a-1", Stream: buspb.Origin_STREAM_PROPOSE, Seq: 9 + i},
			Mutation: &buspb.Mutation{Kind: "book", Body: fmt.Append(nil, "word ", i), RequestId: "r", Principal: "ann"},
		})
		if err != nil {
			t.Fatal(err)
		}
		file = record{mark: markEntry, durable: durable, prev: chain, payload: payload}.append(file)
		chain = link(chain, payload)
		ends = append(ends, len(file))
	}
	file = record{mark: markNext, durable: int64(len(file)), prev: chain, payload: []byte{44, 0, 0, 0, 0, 0, 0, 0}}.append(file)
	return file, append(ends, len(file))
}

func sampleOutbox(t testing.TB) (file []byte, ends []int) {
	t.Helper()
	file = appendOutboxHeader(nil, 5)
	ends = append(ends, len(file))
	durable := int64(0)
	for i := range uint64(3) {
		if i == 2 {
			durable = int64(len(file))
		}
		payload, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.Fact{
			Seq: 5 + i, Time: int64(1_700_000_000_000_000 + i), Mutation: &buspb.Mutation{Kind: "book", Body: fmt.Append(nil, "fact ", i)},
		})
		if err != nil {
			t.Fatal(err)
		}
		file = appendFact(file, durable, payload)
		ends = append(ends, len(file))
	}
	return file, ends
}

func TestFormatsOnDisk(t *testing.T) {
	file, _ := sampleLedger(t)
	golden(t, "ledger.hex", file)
	file, _ = sampleOutbox(t)
	golden(t, "outbox.hex", file)
	m := &manifest{
		Version: 1, Index: 42, Epoch: 7, Time: 1_700_000_000_000_001, Chain: hexSum{1}, Digest: hexSum{2},
		Sections: []section{{Kind: "book", File: "book.jsonl", Bytes: 10, SHA256: hexSum{3}}},
		Blobs:    []mention{{Index: 41, Blob: hexSum{4}}},
	}
	data, err := m.encode()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, "manifest.hex", data)
	if back, err := parseManifest(data, snapshotName(42, 7)); err != nil || back.place() != m.place() {
		t.Errorf("manifest reads back as %+v, %v", back, err)
	}
}

// A text that an agent sends may have the bytes of a record in it. In a torn tail
// they must not pass for proof that something had been durable.
func TestTextThatLooksLikeARecordIsNoProof(t *testing.T) {
	const far = 0x7f7f7f7f
	file, ends := sampleLedger(t)
	forged := record{mark: markEntry, durable: far, payload: []byte("x")}.append(nil)
	torn := append(bytes.Clone(file[:ends[3]]), append([]byte("RPLE and then "), forged...)...)
	if n, _, err := entriesOf(torn); n != 3 || err != nil {
		t.Errorf("%d entries, %v", n, err)
	}
	facts, ends := sampleOutbox(t)
	torn = append(bytes.Clone(facts[:ends[3]]), append([]byte("RPOf and then "), appendFact(nil, far, facts[ends[0]+factHead:ends[1]])...)...)
	n := 0
	if _, err := scanOutbox(torn, func(*buspb.Fact) error { n++; return nil }); n != 3 || err != nil {
		t.Errorf("%d facts, %v", n, err)
	}
}

// entriesOf counts the entries of a scan, and its end.
func entriesOf(data []byte) (int, fileScan, error) {
	n := 0
	s, err := scanFile(data, 0, func(*buspb.Entry, []byte, place) error { n++; return nil })
	return n, s, err
}

func TestEveryBeginningOfALedgerFileHasItsWholeRecords(t *testing.T) {
	file, ends := sampleLedger(t)
	for cut := range len(file) + 1 {
		whole := 0
		for _, end := range ends[1:4] {
			if cut >= end {
				whole++
			}
		}
		n, s, err := entriesOf(file[:cut])
		if cut < headerBytes {
			if !errors.Is(err, errTorn) {
				t.Fatalf("cut at %d: %v, want a torn header", cut, err)
			}
			continue
		}
		if err != nil || n != whole || (s.next != 0) != (cut == len(file)) {
			t.Fatalf("cut at %d: %d entries, next %d, %v; want %d", cut, n, s.next, err, whole)
		}
	}
}

// Whichever byte goes bad, no wrong entry comes out; and where later bytes
// prove that it had been durable, it is damage.
func TestEveryBadByteOfALedgerFileIsFound(t *testing.T) {
	file, ends := sampleLedger(t)
	for at := range file {
		bad := bytes.Clone(file)
		bad[at] ^= 0x10
		n, _, err := entriesOf(bad)
		switch {
		case at < headerBytes:
			if n != 0 || err == nil {
				t.Fatalf("bad byte %d: %d entries, %v", at, n, err)
			}
		case at < ends[3]:
			if !errors.Is(err, ErrDamaged) {
				t.Fatalf("bad byte %d: %v, want damage", at, err)
			}
		default:
			if n != 3 || err != nil {
				t.Fatalf("bad byte %d in the tail: %d entries, %v", at, n, err)
			}
		}
	}
}

func TestANewerVersionIsNotTakenForDamage(t *testing.T) {
	ledger, _ := sampleLedger(t)
	ledger[8] = 9
	copy(ledger, resum(ledger[:headerBytes-4]))
	if _, _, err := entriesOf(ledger); !errors.Is(err, ErrVersion) {
		t.Errorf("ledger: %v, want %v", err, ErrVersion)
	}
	outbox, _ := sampleOutbox(t)
	outbox[8] = 9
	copy(outbox, resum(outbox[:outboxHeader-4]))
	if _, err := scanOutbox(outbox, func(*buspb.Fact) error { return nil }); !errors.Is(err, ErrVersion) {
		t.Errorf("outbox: %v, want %v", err, ErrVersion)
	}
}

func TestEveryBadByteOfAnOutboxFileIsFound(t *testing.T) {
	file, ends := sampleOutbox(t)
	for at := outboxHeader; at < len(file); at++ {
		bad := bytes.Clone(file)
		bad[at] ^= 0x10
		n := 0
		_, err := scanOutbox(bad, func(*buspb.Fact) error { n++; return nil })
		if at < ends[2] != errors.Is(err, ErrDamaged) {
			t.Fatalf("bad byte %d: %d facts, %v", at, n, err)
		}
	}
}

func FuzzLedgerReader(f *testing.F) {
	file, ends := sampleLedger(f)
	f.Add(file)
	for _, end := range ends {
		f.Add(file[:end])
		f.Add(append(bytes.Clone(file[:end]), file...))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		last := uint64(0)
		s, err := scanFile(data, 0, func(e *buspb.Entry, _ []byte, at place) error {
			if last != 0 && e.Index != last+1 {
				t.Fatalf("entry %d after %d", e.Index, last)
			}
			last = e.Index
			return nil
		})
		if s.length > int64(len(data)) || s.length+s.rest != int64(len(data)) {
			t.Fatalf("valid %d and rest %d of %d bytes", s.length, s.rest, len(data))
		}
		if err != nil || s.length == 0 {
			return
		}
		again, err := scanFile(data[:s.length], 0, func(*buspb.Entry, []byte, place) error { return nil })
		if err != nil || again.last != s.last || again.rest != 0 {
			t.Fatalf("the valid prefix alone reads otherwise: %+v, %v", again, err)
		}
	})
}

func FuzzOutboxReader(f *testing.F) {
	file, ends := sampleOutbox(f)
	f.Add(file)
	for _, end := range ends {
		f.Add(file[:end])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		last := uint64(0)
		n, err := scanOutbox(data, func(fact *buspb.Fact) error {
			if last != 0 && fact.Seq != last+1 {
				t.Fatalf("fact %d after %d", fact.Seq, last)
			}
			last = fact.Seq
			return nil
		})
		if n > int64(len(data)) {
			t.Fatalf("valid %d of %d bytes", n, len(data))
		}
		if err == nil {
			if again, err := scanOutbox(data[:n], func(*buspb.Fact) error { return nil }); err != nil || again != n {
				t.Fatalf("the valid prefix alone reads otherwise: %d, %v", again, err)
			}
		}
	})
}

func FuzzManifest(f *testing.F) {
	data, err := (&manifest{Version: 1, Index: 42, Epoch: 7, Sections: []section{{Kind: "book", File: "book.jsonl"}}}).encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseManifest(data, snapshotName(42, 7)); err == nil && m.Index != 42 {
			t.Fatal("a manifest of another place was taken")
		}
	})
}

func FuzzMemory(f *testing.F) {
	m := newMemory()
	m.origins[origin{"a-1", buspb.Origin_STREAM_OUTBOX}] = 7
	m.remember(&buspb.Entry{Index: 3, Time: 9, Mutation: &buspb.Mutation{RequestId: "r"}}, &refusal{text: "no"})
	var b bytes.Buffer
	if _, err := m.view().WriteTo(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := restoreMemory(bytes.NewReader(data))
		if err != nil {
			return
		}
		var once, twice bytes.Buffer
		if _, err := m.view().WriteTo(&once); err != nil {
			t.Fatal(err)
		}
		again, err := restoreMemory(bytes.NewReader(once.Bytes()))
		if err != nil {
			t.Fatalf("what was written does not read: %v", err)
		}
		if _, err := again.view().WriteTo(&twice); err != nil || !bytes.Equal(once.Bytes(), twice.Bytes()) {
			t.Fatalf("restored memory has other bytes, %v", err)
		}
	})
}

// resum gives a changed header its check again.
func resum(header []byte) []byte {
	sum := crc32.Checksum(header, castagnoli)
	return binary.LittleEndian.AppendUint32(bytes.Clone(header), sum)
}

// The master takes only what is next in its stream; should an entry be made
// all the same, every node passes over it alike.
func TestApplyPassesOverWhatIsNotNextInItsStream(t *testing.T) {
	store, err := filestore.Open(t.TempDir(), filestore.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close(t.Context())
	n, err := New(Options{Store: store, Incarnation: "a-1"})
	if err != nil {
		t.Fatal(err)
	}
	for i, seq := range []uint64{1, 2, 2, 4, 3, 4} {
		e := &buspb.Entry{
			Index: uint64(i) + 1, Epoch: 1, Time: int64(i) + 1,
			Origin:   &buspb.Origin{Incarnation: "b-1", Stream: buspb.Origin_STREAM_OUTBOX, Seq: seq},
			Mutation: &buspb.Mutation{Kind: kindEpoch},
		}
		out, err := n.apply(e, nil, place{epoch: 1, index: e.Index, time: e.Time})
		if err != nil {
			t.Fatal(err)
		}
		if misplaced := i == 2 || i == 3; misplaced != errors.Is(out.answer(), errMisplaced) {
			t.Errorf("seq %d as entry %d: %v", seq, e.Index, out.answer())
		}
	}
	if last := n.taken(origin{"b-1", buspb.Origin_STREAM_OUTBOX}); last != 4 {
		t.Errorf("stream stands at %d, want 4", last)
	}
	if _, err := n.apply(&buspb.Entry{Index: 9, Mutation: &buspb.Mutation{}}, nil, place{index: 9}); !errors.Is(err, ErrGap) {
		t.Errorf("entry 9 after 6: %v, want %v", err, ErrGap)
	}
}
