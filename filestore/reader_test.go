package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// plant makes a segment file as an incarnation would have left it.
func plant(t rapid.TB, s *filestore.Store, set filestore.Set, name string, b []byte) {
	t.Helper()
	h, err := s.CreateFile(background, path.Join(set.String(), name))
	if err != nil {
		t.Fatal(err)
	}
	if len(b) > 0 {
		if _, err := h.WriteAt(background, b, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := h.Close(background); err != nil {
		t.Fatal(err)
	}
}

func lines(text string) []byte { return []byte(strings.ReplaceAll(text, ";", "\n")) }

func batch(c ids.Client, first int, text string) filestore.Append {
	return filestore.Append{
		Extent: filestore.Extent{Client: c, Flow: flowX, Name: "n", FirstRow: int64(first), Rows: int64(strings.Count(text, ";"))},
		Lines:  lines(text),
	}
}

func TestEqualBatchesOfTwoNodesAreOneAndOthersAreConflicts(t *testing.T) {
	s, _ := newFaulty(t)
	same := batch(client(1), 0, "{1};{2};")
	plant(t, s, huntSet, "web-2.jsonl.gz", nil) // no name of ours: ignored
	plant(t, s, huntSet, "web-2-1.jsonl.gz", pack(t, same, batch(client(1), 2, "{3};{4};")))
	plant(t, s, huntSet, "web-10-1.jsonl.gz", pack(t, same, batch(client(1), 2, "{X};{Y};")))
	plant(t, s, huntSet, "web-2-2_1.jsonl.gz", pack(t, same, batch(client(1), 2, "{3};{4};"), batch(client(1), 2, "{X};{Y};")))
	text, report := export(t, s, huntSet)
	// web-10-1 is before web-2-1 by name; runs of one node go by number.
	if want := string(lines("{1};{2};{X};{Y};")); text != want {
		t.Errorf("rows are %q, want %q", text, want)
	}
	if len(report.Conflicts) != 1 {
		t.Fatalf("conflicts %+v", report.Conflicts)
	}
	c := report.Conflicts[0]
	other, err := newReader(s).ConflictRows(background, huntSet, c)
	check(t, err)
	if string(other) != "{3}\n{4}\n" || c.FirstRow != 2 || c.Rows != 2 || c.Other.Path != path.Join(huntSet.String(), "web-2-1.jsonl.gz") {
		t.Errorf("conflict %+v reads %q", c, other)
	}
}

func TestOverlapsAreMergedByRowAndHolesShow(t *testing.T) {
	s, _ := newFaulty(t)
	plant(t, s, huntSet, "a-1.jsonl.gz", pack(t, batch(client(1), 2, "{2};{3};{4};"), batch(client(2), 5, "{c2};")))
	plant(t, s, huntSet, "b-1.jsonl.gz", pack(t, batch(client(1), 0, "{0};{1};{2};"), batch(client(1), 4, "{4};{5};"), batch(client(1), 9, "{9};")))
	text, report := export(t, s, huntSet)
	if want := string(lines("{0};{1};{2};{3};{4};{5};{9};{c2};")); text != want {
		t.Errorf("rows are %q, want %q", text, want)
	}
	holes := fmt.Sprint(report.Holes)
	if len(report.Holes) != 2 || report.Holes[0].Rows != (filestore.Interval{Start: 6, End: 9}) || report.Holes[1].Rows != (filestore.Interval{Start: 0, End: 5}) {
		t.Errorf("holes %s", holes)
	}
	coverage, err := newReader(s).Coverage(background, huntSet, filestore.RowsFilter{Client: client(1)})
	check(t, err)
	if len(coverage.Streams) != 1 {
		t.Fatalf("%d streams", len(coverage.Streams))
	}
	for _, c := range coverage.Streams {
		if c.Rows.String() != "0-5 9-9" {
			t.Errorf("coverage %s", c.Rows)
		}
	}
	verified, err := newReader(s).Verify(background, huntSet)
	check(t, err)
	if len(verified.Conflicts) != 0 {
		t.Errorf("overlaps that agree are called conflicts: %+v", verified.Conflicts)
	}
}

func TestVerifyFindsOverlapsThatDisagree(t *testing.T) {
	s, _ := newFaulty(t)
	plant(t, s, huntSet, "a-1.jsonl.gz", pack(t, batch(client(1), 0, "{0};{1};{2};")))
	plant(t, s, huntSet, "b-1.jsonl.gz", pack(t, batch(client(1), 2, "{X};{3};")))
	report, err := newReader(s).Verify(background, huntSet)
	check(t, err)
	if len(report.Conflicts) != 1 || report.Conflicts[0].FirstRow != 2 || report.Conflicts[0].Rows != 1 {
		t.Errorf("conflicts %+v", report.Conflicts)
	}
}

func TestEventBatchesAreDroppedByDigest(t *testing.T) {
	s, _ := newFaulty(t)
	set := filestore.Set("events/E/2026-01-01")
	event := func(digest byte, text string) filestore.Append {
		a := batch(client(1), 0, text)
		a.Extent.Digest = filestore.Digest{digest}
		return a
	}
	plant(t, s, set, "a-1.jsonl.gz", pack(t, event(1, "{1};{1};"), event(2, "{1};{1};")))
	plant(t, s, set, "b-1.jsonl.gz", pack(t, event(2, "{1};{1};"), event(3, "{3};")))
	text, report := export(t, s, set)
	if want := string(lines("{1};{1};{1};{1};{3};")); text != want || !report.Whole() {
		t.Errorf("rows are %q, want %q; %+v", text, want, report)
	}
}

// Each node puts its own time before the rows, and the client may have sent the
// batch again to another node, after midnight too.
func TestEventBatchesOfSeveralNodesAndDaysAreShownOnce(t *testing.T) {
	s, _ := newFaulty(t)
	first, second := filestore.Set("orgs/O1/events/E/S/2025-12-31"), filestore.Set("orgs/O1/events/E/S/2026-01-01")
	event := func(digest byte, first int, text string) filestore.Append {
		a := batch(client(1), first, text)
		a.Extent.Digest = filestore.Digest{digest}
		return a
	}
	plant(t, s, first, "a-1.jsonl.gz", pack(t, event(1, 0, "{a1};{a2};"), event(3, 0, "{c1};"), event(4, 0, "{d};")))
	plant(t, s, first, "b-1.jsonl.gz", pack(t, event(1, 0, "{b1};{b2};")))
	plant(t, s, second, "b-1.jsonl.gz", pack(t, event(1, 0, "{later1};{later2};"), event(2, 0, "{new};"), event(3, 0, "{c1};{c2};"), event(5, 0, "{e};")))
	for set, want := range map[filestore.Set]string{first: "{a1};{a2};{c1};{d};", second: "{new};{c2};{e};"} {
		text, report := export(t, s, set)
		if text != string(lines(want)) || len(report.Conflicts) != 0 {
			t.Errorf("%s: rows are %q, want %q; conflicts %+v", set, text, lines(want), report.Conflicts)
		}
		verified, err := newReader(s).Verify(background, set)
		check(t, err)
		if len(verified.Conflicts) != 0 {
			t.Errorf("%s: conflicts %+v", set, verified.Conflicts)
		}
	}
	reader := newReader(s)
	page, err := reader.ReadRows(background, second, filestore.RowsQuery{Limit: 1})
	check(t, err)
	plant(t, s, first, "c-1.jsonl.gz", pack(t, event(5, 0, "{e};"))) // a late write to the day before
	rest, err := reader.ReadRows(background, second, filestore.RowsQuery{Cursor: page.Next})
	check(t, err)
	if len(rest.Rows) != 2 || string(rest.Rows[1].Line) != "{e}" {
		t.Errorf("the rest after the cursor is %+v", rest.Rows)
	}
	anew, err := reader.ReadRows(background, second, filestore.RowsQuery{})
	check(t, err)
	if anew.Total != 2 {
		t.Errorf("%d rows without the cursor", anew.Total)
	}
}

func TestSealCutsWhatCameAfterIt(t *testing.T) {
	s, _ := newFaulty(t)
	early, late := pack(t, batch(client(1), 0, "{0};")), pack(t, batch(client(1), 1, "{late};"))
	plant(t, s, huntSet, "a-1.jsonl.gz", append(bytes.Clone(early), late...))
	plant(t, s, huntSet, "a-1_1.jsonl.gz", late)
	plant(t, s, huntSet, "b-1.jsonl.gz", pack(t, batch(client(1), 1, "{1};")))
	seals := map[string]int64{path.Join(huntSet.String(), "a-1.jsonl.gz"): int64(len(early)), path.Join(huntSet.String(), "a-1_1.jsonl.gz"): 0}
	reader := filestore.NewReader(filestore.ReaderOptions{Store: s, Logger: quiet, Sealed: func(p string) (int64, bool) {
		length, sealed := seals[p]
		return length, sealed
	}})
	for range 2 { // the second time from the cache
		var out bytes.Buffer
		report, err := reader.Export(background, huntSet, filestore.RowsFilter{}, &out)
		check(t, err)
		if out.String() != "{0}\n{1}\n" || len(report.Conflicts) != 0 {
			t.Errorf("rows are %q, %+v", out.String(), report)
		}
		var beyond int64
		for _, d := range report.Damage {
			if d.Kind == filestore.DamageBeyondSeal {
				beyond += d.Bytes
			}
		}
		if beyond != int64(2*len(late)) {
			t.Errorf("damage %+v", report.Damage)
		}
	}
	seals[path.Join(huntSet.String(), "a-1.jsonl.gz")] = 10_000
	report, err := reader.Export(background, huntSet, filestore.RowsFilter{}, &bytes.Buffer{})
	check(t, err)
	if !slices.ContainsFunc(report.Damage, func(d filestore.Damage) bool { return d.Kind == filestore.DamageLost }) {
		t.Errorf("a file shorter than its seal is no damage: %+v", report.Damage)
	}
}

func TestReaderSeesWhatIsAppendedAndToleratesTornTail(t *testing.T) {
	s, _ := newFaulty(t)
	reader := newReader(s)
	name := path.Join(huntSet.String(), "a-1.jsonl.gz")
	h, err := s.CreateFile(background, name)
	check(t, err)
	defer h.Close(background)
	var size int64
	for i := range 5 {
		member := pack(t, appendRows(huntSet, client(1), flowX, "n", i, 1))
		_, err := h.WriteAt(background, member[:len(member)/2], size)
		check(t, err)
		page, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{})
		check(t, err)
		if page.Total != int64(i) || len(page.Damage) != 1 || page.Damage[0].Kind != filestore.DamageTorn {
			t.Errorf("torn: %d rows, damage %+v", page.Total, page.Damage)
		}
		_, err = h.WriteAt(background, member, size)
		check(t, err)
		size += int64(len(member))
		page, err = reader.ReadRows(background, huntSet, filestore.RowsQuery{})
		check(t, err)
		if page.Total != int64(i+1) || len(page.Damage) != 0 {
			t.Errorf("whole: %d rows, damage %+v", page.Total, page.Damage)
		}
	}
	states, _, err := reader.Segments(background, huntSet)
	check(t, err)
	if len(states) != 1 || states[0].Valid != size || states[0].Members != 5 || states[0].Rows != 5 {
		t.Errorf("segments %+v", states)
	}
}

func TestDamagedMemberIsAHoleAndTold(t *testing.T) {
	s, _ := newFaulty(t)
	reader := newReader(s)
	b := append(pack(t, appendRows(huntSet, client(1), flowX, "n", 0, 5)), pack(t, appendRows(huntSet, client(1), flowX, "n", 5, 5))...)
	name := path.Join(huntSet.String(), "a-1.jsonl.gz")
	plant(t, s, huntSet, "a-1.jsonl.gz", b)
	_, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{})
	check(t, err)
	h, err := s.OpenWrite(background, name)
	check(t, err)
	_, err = h.WriteAt(background, []byte{b[100] ^ 1}, 100) // after the reader had checked it
	check(t, err)
	check(t, h.Close(background))
	page, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{})
	check(t, err)
	if len(page.Rows) != 5 || page.Rows[0].Number != 5 || len(page.Holes) != 1 || len(page.Damage) != 1 || page.Damage[0].Kind != filestore.DamageMember {
		t.Errorf("%d rows, holes %v, damage %+v", len(page.Rows), page.Holes, page.Damage)
	}
	page, err = newReader(s).ReadRows(background, huntSet, filestore.RowsQuery{})
	check(t, err)
	if len(page.Rows) != 0 || len(page.Damage) != 1 || page.Damage[0].Kind != filestore.DamageChecksum {
		t.Errorf("%d rows, damage %+v", len(page.Rows), page.Damage)
	}
}

func TestCursorPinsLengths(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	put := func(c, first, count int) {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(c), flowX, "n", first, count)}}))
	}
	put(1, 0, 10)
	put(2, 0, 10)
	reader := newReader(s)
	var got []string
	q := filestore.RowsQuery{Limit: 7}
	for pages := 0; ; pages++ {
		page, err := reader.ReadRows(background, huntSet, q)
		check(t, err)
		if page.Total != 20 || page.From != int64(len(got)) {
			t.Errorf("page %d: total %d, from %d", pages, page.Total, page.From)
		}
		for _, row := range page.Rows {
			got = append(got, fmt.Sprintf("%s %d", row.Client, row.Number))
			if want := strings.TrimSpace(string(numbered(row.Client.String(), int(row.Number), 1))); string(row.Line) != want {
				t.Errorf("row %s", row.Line)
			}
		}
		put(1, 10+pages, 1) // comes between, and does not disturb
		if q.Cursor = page.Next; q.Cursor == "" {
			break
		}
	}
	if len(got) != 20 || got[9] != client(1).String()+" 9" || got[10] != client(2).String()+" 0" {
		t.Errorf("rows %v", got)
	}
	page, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{From: 15, Limit: 2})
	check(t, err)
	if page.Total != 23 || page.Rows[0].Client != client(2) || page.Rows[0].Number != 2 {
		t.Errorf("row 15 is %+v of %d", page.Rows[0], page.Total)
	}
	for _, bad := range []string{"x", "AQ", "AAAA", page.Next + "A", strings.Repeat("A", 2<<20)} {
		_, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{Cursor: bad})
		wantErr(t, err, filestore.ErrBadCursor)
	}
	check(t, s.RemoveAll(background, filestore.HuntDir(ids.RootOrg, hunt("H1"))))
	_, err = reader.ReadRows(background, huntSet, filestore.RowsQuery{Cursor: page.Next})
	wantErr(t, err, filestore.ErrBadCursor)
	page, err = reader.ReadRows(background, huntSet, filestore.RowsQuery{})
	check(t, err)
	if page.Total != 0 {
		t.Errorf("a missing set has %d rows", page.Total)
	}
}

func TestPageInflatesOnlyWhatItShows(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	for i := range 50 {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(1), flowX, "n", 100*i, 100)}}))
	}
	reader := newReader(s)
	_, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{Limit: 1})
	check(t, err)
	before := s.Stats()["read"]
	page, err := reader.ReadRows(background, huntSet, filestore.RowsQuery{From: 4010, Limit: 5})
	check(t, err)
	if n := s.Stats()["read"] - before; n != 1 || page.Rows[0].Number != 4010 {
		t.Errorf("%d reads for one page that begins at %d", n, page.Rows[0].Number)
	}
}

func FuzzCursor(f *testing.F) {
	f.Add("AQ")
	f.Fuzz(func(t *testing.T, text string) {
		if err := filestore.ParseCursor(text); err != nil && !errors.Is(err, filestore.ErrBadCursor) {
			t.Error(err)
		}
	})
}

// modelRow is where a row should come from.
type modelRow struct{ text string }

// TestMergeMatchesModel plants what several incarnations might leave: batches
// resent, cut otherwise, changed, files torn by crashes. The reader must show
// what a plain walk in the order of (incarnation, offset) shows.
func TestMergeMatchesModel(t *testing.T) {
	dir := newDisk(t)
	run := 0
	rapid.Check(t, func(t *rapid.T) {
		s, err := filestore.Open("", filestore.Options{FS: dir, Logger: quiet})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close(context.Background())
		run++
		set := filestore.Set(fmt.Sprintf("hunts/H.%d/results/A", run))
		type key struct{ client, row int }
		want := map[key]modelRow{}
		identities := map[[3]int]string{}
		conflicts := map[[3]int]map[string]bool{}
		for _, name := range []string{"a-2", "a-10", "a-10_1", "b-1"} {
			var file []byte
			members := rapid.IntRange(0, 4).Draw(t, name+" members")
			torn := rapid.IntRange(0, 3).Draw(t, name+" torn") == 0
			for m := range members {
				var batches []filestore.Append
				for range rapid.IntRange(1, 3).Draw(t, "batches") {
					c := rapid.IntRange(1, 2).Draw(t, "client")
					first := rapid.IntRange(0, 6).Draw(t, "first")
					count := rapid.IntRange(1, 4).Draw(t, "count")
					version := rapid.IntRange(0, 5).Draw(t, "changed") / 5
					var text bytes.Buffer
					for n := first; n < first+count; n++ {
						fmt.Fprintf(&text, "{%d %d v%d}\n", c, n, version)
					}
					a := appendRows(set, client(c), flowX, "n", first, count)
					a.Lines = text.Bytes()
					batches = append(batches, a)
				}
				b, err := filestore.Pack(batches...)
				if err != nil {
					t.Fatal(err)
				}
				if torn && m == members-1 {
					file = append(file, b[:rapid.IntRange(0, len(b)-1).Draw(t, "cut")]...)
					break
				}
				file = append(file, b...)
				for _, a := range batches {
					var c int
					fmt.Sscanf(a.Extent.Client.String(), "C.%x", &c)
					id := [3]int{c, int(a.Extent.FirstRow), int(a.Extent.Rows)}
					if old, ok := identities[id]; ok {
						if old != string(a.Lines) {
							if conflicts[id] == nil {
								conflicts[id] = map[string]bool{}
							}
							conflicts[id][string(a.Lines)] = true
						}
						continue
					}
					identities[id] = string(a.Lines)
					for i, line := range strings.Split(strings.TrimSpace(string(a.Lines)), "\n") {
						at := key{c, int(a.Extent.FirstRow) + i}
						if _, taken := want[at]; !taken {
							want[at] = modelRow{line}
						}
					}
				}
			}
			plant(t, s, set, name+".jsonl.gz", file)
		}
		reader := newReader(s)
		limit := rapid.IntRange(1, 8).Draw(t, "limit")
		got := map[key]string{}
		q := filestore.RowsQuery{Limit: limit}
		var lastClient ids.Client
		lastNumber := int64(-1)
		for {
			page, err := reader.ReadRows(background, set, q)
			if err != nil {
				t.Fatal(err)
			}
			for _, row := range page.Rows {
				if row.Client == lastClient && row.Number <= lastNumber {
					t.Fatalf("row %d of %s after %d", row.Number, row.Client, lastNumber)
				}
				lastClient, lastNumber = row.Client, row.Number
				var c int
				fmt.Sscanf(row.Client.String(), "C.%x", &c)
				at := key{c, int(row.Number)}
				if _, twice := got[at]; twice {
					t.Fatalf("row %v twice", at)
				}
				got[at] = string(row.Line)
			}
			total := 0
			for _, c := range page.Conflicts {
				var n int
				fmt.Sscanf(c.Stream.Client.String(), "C.%x", &n)
				other, err := reader.ConflictRows(background, set, c)
				if err != nil || !conflicts[[3]int{n, int(c.FirstRow), int(c.Rows)}][string(other)] {
					t.Fatalf("conflict %+v reads %q, %v", c, other, err)
				}
				total++
			}
			expected := 0
			for _, texts := range conflicts {
				expected += len(texts)
			}
			if total != expected {
				t.Fatalf("%d conflicts, want %d", total, expected)
			}
			if q.Cursor = page.Next; q.Cursor == "" {
				break
			}
		}
		if len(got) != len(want) {
			t.Fatalf("%d rows, want %d", len(got), len(want))
		}
		for at, row := range want {
			if got[at] != row.text {
				t.Fatalf("row %v is %q, want %q", at, got[at], row.text)
			}
		}
	})
}

func TestCoverageByCountsOnlyItsOwners(t *testing.T) {
	s, _ := newFaulty(t)
	plant(t, s, huntSet, "a-1.jsonl.gz", pack(t, batch(client(1), 0, "{0};{1};")))
	plant(t, s, huntSet, "a-1_1.jsonl.gz", pack(t, batch(client(1), 2, "{2};")))
	plant(t, s, huntSet, "a-10.jsonl.gz", pack(t, batch(client(1), 7, "{7};")))
	coverage, err := newReader(s).CoverageBy(background, huntSet, filestore.RowsFilter{}, func(owner string) bool { return owner == "a-1" })
	check(t, err)
	for _, stream := range coverage.Streams {
		if got := stream.Rows.String(); !stream.Rows.Contiguous(3) || stream.Rows.Len() != 3 {
			t.Errorf("covered %s, want the rows of a-1 alone", got)
		}
	}
	if len(coverage.Streams) != 1 {
		t.Errorf("%d streams", len(coverage.Streams))
	}
}
