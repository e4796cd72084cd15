package filestore_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/ids"
)

var update = flag.Bool("update", false, "write the golden files anew")

// goldenAppends use every feature of the format's version 1.
func goldenAppends() []filestore.Append {
	server := filestore.Extent{Client: ids.Server, Flow: flow("S1"), Name: "Server.Audit", Rows: 1}
	event := filestore.Extent{Client: client(2), Flow: ids.Monitoring, Name: "Linux.Events.SSH", Rows: 2, Digest: filestore.Digest{1, 2, 3}}
	return []filestore.Append{
		appendRows("", client(1), flowX, "Linux.Sys.Pslist", 0, 3),
		appendRows("", client(1), flowX, "Linux.Sys.Pslist", 3, 1000),
		{Extent: server, Lines: []byte("{\"a\":1}\n")},
		{Extent: event, Lines: []byte("{\"b\":2}\n{\"b\":3}\n")},
		{Extent: filestore.Extent{Rows: 1}, Lines: []byte("{}\n")},
	}
}

func pack(t testing.TB, appends ...filestore.Append) []byte {
	t.Helper()
	b, err := filestore.Pack(appends...)
	check(t, err)
	return b
}

func TestSegmentBytesAreGolden(t *testing.T) {
	got := append(pack(t, goldenAppends()...), pack(t, goldenAppends()[0])...)
	name := filepath.Join("testdata", "segment-v1.jsonl.gz")
	if *update {
		check(t, os.WriteFile(name, got, 0o644))
	}
	want, err := os.ReadFile(name)
	check(t, err)
	if !bytes.Equal(got, want) {
		t.Errorf("the format's bytes changed: %d, were %d", len(got), len(want))
	}
	scan, members, err := filestore.ScanBytes(want)
	check(t, err)
	if scan.Valid != int64(len(want)) || scan.Bad || scan.Torn || len(members) != 2 {
		t.Fatalf("scan %+v with %d members", scan, len(members))
	}
	for i, a := range goldenAppends() {
		e := members[0].Extents[i]
		same := e.Stream() == a.Extent.Stream() && e.FirstRow == a.Extent.FirstRow && e.Rows == a.Extent.Rows
		if !same || e.Length != int64(len(a.Lines)) {
			t.Errorf("extent %d is %+v, want %+v", i, e, a.Extent)
		}
	}
}

// zcat is a multistream gzip reader.
func zcat(b []byte) (string, error) {
	z, err := gzip.NewReader(bytes.NewReader(b))
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(z)
	return string(out), err
}

func TestSegmentIsReadByZcat(t *testing.T) {
	var want strings.Builder
	var file []byte
	for range 3 {
		file = append(file, pack(t, goldenAppends()...)...)
		for _, a := range goldenAppends() {
			want.Write(a.Lines)
		}
	}
	got, err := zcat(file)
	check(t, err)
	if got != want.String() {
		t.Errorf("zcat gives %d bytes, want %d", len(got), want.Len())
	}
}

func TestTornTailEndsSegmentAtEveryByte(t *testing.T) {
	first := pack(t, goldenAppends()...)
	whole := append(bytes.Clone(first), pack(t, goldenAppends()[0])...)
	for cut := range len(whole) {
		scan, _, err := filestore.ScanBytes(whole[:cut])
		check(t, err)
		want := int64(0)
		if cut >= len(first) {
			want = int64(len(first))
		}
		if scan.Valid != want || scan.Torn != (int64(cut) > want) || scan.Bad {
			t.Fatalf("cut at %d of %d: %+v, want valid %d", cut, len(whole), scan, want)
		}
	}
}

func TestEveryFlippedBitEndsSegment(t *testing.T) {
	first, second := pack(t, goldenAppends()[2:]...), pack(t, goldenAppends()[0])
	whole := append(bytes.Clone(first), second...)
	for bit := range len(whole) * 8 {
		damaged := bytes.Clone(whole)
		damaged[bit/8] ^= 1 << (bit % 8)
		scan, _, err := filestore.ScanBytes(damaged)
		check(t, err)
		want := int64(0)
		if bit/8 >= len(first) {
			want = int64(len(first))
		}
		if scan.Valid != want || !scan.Bad && !scan.Torn {
			t.Fatalf("bit %d flipped: %+v, want valid %d", bit, scan, want)
		}
	}
}

func TestZeroedTailEndsSegment(t *testing.T) {
	first := pack(t, goldenAppends()...)
	scan, _, err := filestore.ScanBytes(append(bytes.Clone(first), make([]byte, 70_000)...))
	check(t, err)
	if scan.Valid != int64(len(first)) || !scan.Bad {
		t.Errorf("%+v", scan)
	}
}

func TestMembersAreBounded(t *testing.T) {
	row := func(n int) []byte { return []byte(`{"v":"` + strings.Repeat("x", n) + "\"}\n") }
	long := filestore.Extent{Client: client(1), Flow: flowX, Name: "long", FirstRow: 7, Rows: 5000}
	lone := filestore.Extent{Client: client(2), Flow: flowX, Name: "lone", Rows: 3}
	var many []filestore.Append
	for i := range 9000 {
		many = append(many, appendRows("", client(i), flowX, "n", 0, 1))
	}
	many = append(many,
		filestore.Append{Extent: long, Lines: bytes.Repeat(row(1000), 5000)},
		filestore.Append{Extent: lone, Lines: append(append(row(1), row(3<<20)...), row(1)...)})
	for i := range 100 { // names that fill the index before the rows fill the member
		many = append(many, appendRows("", client(i), flowX, strings.Repeat("n", 4000)+fmt.Sprint(i), 0, 1))
	}
	file := pack(t, many...)
	scan, members, err := filestore.ScanBytes(file)
	check(t, err)
	if scan.Valid != int64(len(file)) {
		t.Fatalf("%+v", scan)
	}
	rows := map[filestore.Stream]int64{}
	for _, m := range members {
		if m.Plain > filestore.MaxMemberBytes && (len(m.Extents) != 1 || m.Extents[0].Rows != 1) {
			t.Errorf("member of %d bytes with %d extents", m.Plain, len(m.Extents))
		}
		for _, e := range m.Extents {
			if e.Stream() == long.Stream() && e.FirstRow != 7+rows[e.Stream()] {
				t.Errorf("piece begins at %d", e.FirstRow)
			}
			rows[e.Stream()] += e.Rows
		}
	}
	if rows[long.Stream()] != 5000 || rows[lone.Stream()] != 3 || rows[many[17].Extent.Stream()] != 1 {
		t.Errorf("rows: %d, %d", rows[long.Stream()], rows[lone.Stream()])
	}
}

func TestSameBatchesGiveSameIdentitiesWhereverTheyLie(t *testing.T) {
	big := filestore.Append{
		Extent: filestore.Extent{Client: client(1), Flow: flowX, Name: "n", Rows: 3000},
		Lines:  bytes.Repeat([]byte(`{"v":"`+strings.Repeat("y", 1500)+"\"}\n"), 3000),
	}
	identities := func(b []byte) (out []string) {
		_, members, err := filestore.ScanBytes(b)
		check(t, err)
		for _, m := range members {
			for _, e := range m.Extents {
				if e.Client == big.Extent.Client {
					out = append(out, fmt.Sprint(e.FirstRow, e.Rows, e.CRC))
				}
			}
		}
		return out
	}
	alone := identities(pack(t, big))
	inCompany := identities(pack(t, appendRows("", client(2), flowX, "n", 0, 9000), big))
	if fmt.Sprint(alone) != fmt.Sprint(inCompany) || len(alone) < 2 {
		t.Errorf("%v\n%v", alone, inCompany)
	}
}

func FuzzSegmentReader(f *testing.F) {
	golden := pack(f, goldenAppends()...)
	f.Add(golden, uint16(0), byte(0))
	f.Add(golden[:100], uint16(20), byte(1))
	f.Add(append(bytes.Clone(golden), "foreign"...), uint16(30), byte(0xff))
	f.Add([]byte{0x1f, 0x8b, 8, 4}, uint16(40), byte(7))
	f.Fuzz(func(t *testing.T, b []byte, at uint16, xor byte) {
		scan, members, _ := filestore.ScanBytes(b)
		end := int64(0)
		for _, m := range members {
			if m.Offset != end || m.Length <= 0 || len(m.Extents) == 0 {
				t.Fatalf("member %+v after %d", m, end)
			}
			end += m.Length
		}
		if scan.Valid != end || end > int64(len(b)) {
			t.Fatalf("%+v of %d bytes, members end at %d", scan, len(b), end)
		}
		fuzzHeader(t, bytes.Clone(b), int(at), xor)
	})
}

// fuzzHeader changes a byte behind the checksums and makes them hold again: the
// index decoder must cope with anything.
func fuzzHeader(t *testing.T, b []byte, at int, xor byte) {
	if len(b) < 40 {
		return
	}
	head := 12 + int(binary.LittleEndian.Uint16(b[10:]))
	if head < 30 || head+8 > len(b) {
		return
	}
	b[30+at%(head-30+1)] ^= xor
	filestore.Reseal(b, head)
	_, members, err := filestore.ScanBytes(b)
	for _, m := range members {
		for _, e := range m.Extents {
			if e.Rows < 1 || e.Length < e.Rows || e.FirstRow < 0 || e.FirstRow+e.Rows > filestore.MaxRow {
				t.Fatalf("extent %+v", e)
			}
		}
	}
	if err != nil && !errors.Is(err, filestore.ErrDamaged) {
		t.Fatal(err)
	}
}
