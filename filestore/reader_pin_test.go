package filestore_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"raptorpack/filestore"
)

// walked collects a walk as "client number line" by place.
func walked(t testing.TB, p *filestore.Pinned, from int64, take func(int) bool) (map[int64]string, *filestore.Walked) {
	t.Helper()
	out := map[int64]string{}
	last := int64(-1)
	told, err := p.Walk(background, from, take, func(b filestore.Batch) error {
		lines := bytes.Split(bytes.TrimSuffix(b.Lines, []byte{'\n'}), []byte{'\n'})
		if int64(len(lines)) != b.Rows || b.Place <= last {
			t.Errorf("batch at %d after %d has %d lines for %d rows", b.Place, last, len(lines), b.Rows)
		}
		s, _ := p.Stream(b.Stream)
		for i, line := range lines {
			last = b.Place + int64(i)
			out[last] = fmt.Sprintf("%s %d %s", s.Client, b.FirstRow+int64(i), line)
		}
		return nil
	})
	check(t, err)
	return out, told
}

// TestWalkMatchesPages plants batches that overlap, repeat and disagree; a walk has
// to show the rows that pages show.
func TestWalkMatchesPages(t *testing.T) {
	dir := newDisk(t)
	run := 0
	rapid.Check(t, func(rt *rapid.T) {
		s, err := filestore.Open("", filestore.Options{FS: dir, Logger: quiet})
		if err != nil {
			rt.Fatal(err)
		}
		defer s.Close(context.Background())
		run++
		set := filestore.Set(fmt.Sprintf("hunts/H.w%d/results/A", run))
		for _, name := range []string{"a-2", "a-10", "b-1"} {
			var file []byte
			for range rapid.IntRange(0, 4).Draw(rt, "members") {
				var batches []filestore.Append
				for range rapid.IntRange(1, 4).Draw(rt, "batches") {
					c, first := rapid.IntRange(1, 3).Draw(rt, "client"), rapid.IntRange(0, 6).Draw(rt, "first")
					batches = append(batches, appendRows(set, client(c), flowX, "n", first, rapid.IntRange(1, 4).Draw(rt, "count")))
				}
				b, err := filestore.Pack(batches...)
				if err != nil {
					rt.Fatal(err)
				}
				file = append(file, b...)
			}
			plant(t, s, set, name+".jsonl.gz", file)
		}
		reader := newReader(s)
		want := map[string]bool{}
		page, err := reader.ReadRows(background, set, filestore.RowsQuery{})
		if err != nil {
			rt.Fatal(err)
		}
		for _, row := range page.Rows {
			want[fmt.Sprintf("%s %d %s", row.Client, row.Number, row.Line)] = true
		}
		p, _, err := reader.Pin(background, set, filestore.RowsFilter{}, "")
		if err != nil {
			rt.Fatal(err)
		}
		all, _ := walked(t, p, 0, nil)
		if len(all) != len(want) || p.Total() != int64(len(want)) {
			rt.Fatalf("%d rows, total %d, want %d", len(all), p.Total(), len(want))
		}
		for place, row := range all {
			if !want[row] || place < 0 || place >= p.Total() {
				rt.Fatalf("row %q at %d", row, place)
			}
		}
		holdPartsToTheWhole(t, rt, p, all)
	})
}

// holdPartsToTheWhole compares walks of parts, single rows and skips with a walk of
// all.
func holdPartsToTheWhole(t *testing.T, rt *rapid.T, p *filestore.Pinned, all map[int64]string) {
	from := rapid.Int64Range(0, p.Total()).Draw(rt, "from")
	odd := func(stream int) bool { return stream%2 == 1 }
	part, _ := walked(t, p, from, odd)
	var places []int64
	for place, row := range all {
		_, has := part[place]
		var client string
		var number int
		fmt.Sscanf(row, "%s %d", &client, &number)
		wanted := false
		for i := range p.Streams() {
			if s, _ := p.Stream(i); s.Client.String() == client {
				wanted = odd(i) && place >= from
			}
		}
		if has != wanted || has && part[place] != row {
			rt.Fatalf("row %d is %q in the part, %q in all", place, part[place], row)
		}
		places = append(places, place)
	}
	rows, _, err := p.At(background, places)
	if err != nil {
		rt.Fatal(err)
	}
	for i, place := range places {
		if got := fmt.Sprintf("%s %d %s", rows[i].Client, rows[i].Number, rows[i].Line); got != all[place] {
			rt.Fatalf("row at %d is %q, want %q", place, got, all[place])
		}
	}
	left := make([]int64, 0, len(part))
	for place := range part {
		left = append(left, place)
	}
	slices.Sort(left)
	for i, place := range append(left, p.Total()) {
		if got := p.Skip(from, int64(i), odd); got != place && i < len(left) {
			rt.Fatalf("%d rows after %d is %d, want %d", i, from, got, place)
		}
	}
}

func TestPinKeepsItsMoment(t *testing.T) {
	s, _ := newFaulty(t)
	k := launch(t, s, "a-1")
	put := func(c, first, count int) {
		check(t, k.Submit(background, &filestore.Commit{Appends: []filestore.Append{appendRows(huntSet, client(c), flowX, "n", first, count)}}))
	}
	put(1, 0, 5)
	put(2, 2, 5)
	reader := newReader(s)
	p, _, err := reader.Pin(background, huntSet, filestore.RowsFilter{}, "")
	check(t, err)
	holes, missing := p.Holes(nil, 10)
	if len(holes) != 1 || missing != 2 || holes[0].Stream.Client != client(2) {
		t.Errorf("holes %v of %d rows", holes, missing)
	}
	put(1, 5, 5)
	again, place, err := reader.Pin(background, huntSet, filestore.RowsFilter{}, p.Cursor(7))
	check(t, err)
	if again.Total() != 10 || place != 7 || !again.Same(p) {
		t.Errorf("by its cursor the set has %d rows, at %d", again.Total(), place)
	}
	now, _, err := reader.Pin(background, huntSet, filestore.RowsFilter{}, "")
	check(t, err)
	if now.Total() != 15 || now.Same(p) {
		t.Errorf("now the set has %d rows", now.Total())
	}
	for _, bad := range []string{"x", "AQ", p.Cursor(1) + "A"} {
		_, _, err := reader.Pin(background, huntSet, filestore.RowsFilter{}, bad)
		wantErr(t, err, filestore.ErrBadCursor)
	}
	missingSet, _, err := reader.Pin(background, "hunts/H.none/results/A", filestore.RowsFilter{}, "")
	check(t, err)
	if rows, _ := walked(t, missingSet, 0, nil); len(rows) != 0 || missingSet.Total() != 0 {
		t.Errorf("a missing set has rows %v", rows)
	}
}

func TestWalkTellsOfDamageAndGoesOn(t *testing.T) {
	s, _ := newFaulty(t)
	reader := newReader(s)
	b := append(pack(t, appendRows(huntSet, client(1), flowX, "n", 0, 5)), pack(t, appendRows(huntSet, client(2), flowX, "n", 0, 4))...)
	plant(t, s, huntSet, "a-1.jsonl.gz", b)
	p, _, err := reader.Pin(background, huntSet, filestore.RowsFilter{}, "")
	check(t, err)
	h, err := s.OpenWrite(background, path.Join(huntSet.String(), "a-1.jsonl.gz"))
	check(t, err)
	_, err = h.WriteAt(background, []byte{b[100] ^ 1}, 100) // after it was checked
	check(t, err)
	check(t, h.Close(background))
	rows, told := walked(t, p, 0, nil)
	if len(rows) != 4 || told.Unread != 5 || len(told.Holes) != 1 || len(told.Damage) != 1 || told.Damage[0].Kind != filestore.DamageMember {
		t.Errorf("%d rows, %+v", len(rows), told)
	}
	some, told, err := p.At(background, []int64{6, 1, 8, 99})
	check(t, err)
	if some[0].Line == nil || some[1].Line != nil || some[2].Number != 3 || some[3].Line != nil || told.Unread == 0 {
		t.Errorf("rows %v, %+v", some, told)
	}
}

func TestWalkEndsWhenTold(t *testing.T) {
	s, _ := newFaulty(t)
	var file []byte
	for i := range 20 {
		file = append(file, pack(t, appendRows(huntSet, client(1), flowX, "n", 10*i, 10))...)
	}
	plant(t, s, huntSet, "a-1.jsonl.gz", file)
	p, _, err := newReader(s).Pin(background, huntSet, filestore.RowsFilter{}, "")
	check(t, err)
	enough := errors.New("enough")
	before := s.Stats()["read"]
	_, err = p.Walk(background, 55, nil, func(b filestore.Batch) error {
		if b.Place != 55 || b.FirstRow != 55 || b.Rows != 5 {
			t.Errorf("the walk begins with %d rows at %d, %d", b.Rows, b.Place, b.FirstRow)
		}
		return enough
	})
	if n := s.Stats()["read"] - before; !errors.Is(err, enough) || n > 3 {
		t.Errorf("%v after %d reads", err, n)
	}
	ctx, cancel := context.WithCancel(background)
	_, err = p.Walk(ctx, 0, nil, func(filestore.Batch) error { cancel(); return nil })
	if !errors.Is(err, context.Canceled) {
		t.Errorf("a walk that was cancelled ends with %v", err)
	}
}
