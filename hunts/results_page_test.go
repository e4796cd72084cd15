package hunts_test

import (
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/hunts"
	"raptorpack/ids"
)

func TestPagesOfAllClientsFitTogetherWhileRowsComeIn(t *testing.T) {
	g := newRig(t, 3)
	g.numbers("a-1", 0, 0, 5)
	g.numbers("b-1", 1, 0, 5)
	g.numbers("a-1", 2, 0, 5)
	q := hunts.Query{Limit: 4}
	var lines []string
	for n := 0; ; n++ {
		p := g.page(q)
		if p.Total != 15 || p.Match != 15 || p.From != int64(len(lines)) || p.Missing != 0 {
			t.Errorf("page %d: from %d, total %d, %d match, %d missing", n, p.From, p.Total, p.Match, p.Missing)
		}
		for _, row := range p.Rows {
			lines = append(lines, string(row.Line))
		}
		g.numbers("a-1", 0, 5+n, 1) // comes between, and does not disturb
		if q.Cursor = p.Next; q.Cursor == "" {
			break
		}
	}
	if got := columnOf(lines, "N"); got != "0 1 2 3 4 0 1 2 3 4 0 1 2 3 4" {
		t.Errorf("rows %s", got)
	}
	if p := g.page(hunts.Query{From: 17, Limit: 10}); p.Total != 19 || len(p.Rows) != 2 || p.From != 17 {
		t.Errorf("from 17: %d rows from %d of %d", len(p.Rows), p.From, p.Total)
	}
	if p := g.page(hunts.Query{From: 99}); len(p.Rows) != 0 || p.From != 19 || p.Next != "" {
		t.Errorf("beyond the end: %+v", p)
	}
}

func TestClientsAreFoundByExtents(t *testing.T) {
	g := newRig(t, 50)
	for i := range 50 {
		g.numbers([]string{"a-1", "b-1"}[i%2], i, 0, 10)
	}
	g.page(hunts.Query{Limit: 1})
	before := g.store.Stats()["read"]
	lines, pages := g.all(hunts.Query{Clients: []ids.Client{id(7), id(30)}, Limit: 15})
	if len(lines) != 20 || pages[0].Total != 20 || pages[1].From != 15 {
		t.Errorf("%d rows, total %d", len(lines), pages[0].Total)
	}
	for _, line := range lines {
		if !strings.Contains(line, id(7).String()) && !strings.Contains(line, id(30).String()) {
			t.Errorf("row %s", line)
		}
	}
	if n := g.store.Stats()["read"] - before; n > 3 {
		t.Errorf("%d members were read for two clients", n)
	}
}

func TestFilterGoesOnWhereItsWorkEnded(t *testing.T) {
	g := newRig(t, 4, func(o *hunts.ResultsOptions) { o.ScanBytes = 1000 })
	for i := range 4 {
		g.numbers("a-1", i, 0, 100)
	}
	var looked int64
	lines, pages := g.all(hunts.Query{Filter: "n=42"})
	for _, p := range pages {
		looked += p.Looked.Rows
		if p.Looked.Bytes == 0 || p.Total != 400 {
			t.Errorf("looked at %+v of %d", p.Looked, p.Total)
		}
	}
	if columnOf(lines, "N") != "42 42 42 42" || len(pages) < 3 || looked != 400 || pages[len(pages)-1].Match != 4 || pages[0].Match != -1 {
		t.Errorf("%d rows in %d pages, %d rows looked at", len(lines), len(pages), looked)
	}
	lines, pages = g.all(hunts.Query{Filter: "n=42", Limit: 1, From: 1})
	if len(lines) != 3 || pages[len(pages)-1].Match != 4 {
		t.Errorf("after the first: %d rows", len(lines))
	}
}

func TestDeletedIsNotShown(t *testing.T) {
	g := newRig(t, 3)
	for i := range 3 {
		g.numbers("a-1", i, 0, 4)
	}
	if before := g.page(hunts.Query{}); len(before.Rows) != 12 {
		t.Errorf("%d rows before", len(before.Rows))
	}
	g.must(t)(g.clients.PlanDelete(ids.RootOrg, id(1)))
	if at := g.page(hunts.Query{}); len(at.Rows) != 8 {
		t.Errorf("%d rows at once", len(at.Rows))
	}
	g.results = g.open() // sums may be a second old
	p := g.page(hunts.Query{})
	if len(p.Rows) != 8 || p.Total != 8 || p.Hidden != 4 {
		t.Errorf("%d rows, total %d, hidden %d", len(p.Rows), p.Total, p.Hidden)
	}
	sorted := g.page(hunts.Query{Sort: "N"})
	if len(sorted.Rows) != 8 {
		t.Errorf("%d rows sorted", len(sorted.Rows))
	}
	g.must(t)(g.PlanStop(g.key, false, "ada", noon))
	g.must(t)(g.PlanDelete(g.key, "ada", noon))
	if _, err := g.results.Page(context.Background(), g.key, hunts.Query{Name: pslist}); !errors.Is(err, hunts.ErrNotFound) {
		t.Errorf("rows of a hunt that is deleted: %v", err)
	}
}

func TestWhatIsMissingOrDoubtfulIsTold(t *testing.T) {
	g := newRig(t, 3)
	g.numbers("a-1", 0, 0, 3)
	g.numbers("b-1", 0, 0, 3) // the client sent it twice
	g.numbers("b-1", 1, 4, 2) // a hole before
	g.put("a-1", 2, 0, g.row(2, `,"N":"one"`))
	g.put("b-1", 2, 0, g.row(2, `,"N":"other"`))
	lines, pages := g.all(hunts.Query{Limit: 4})
	if got := columnOf(lines, "N"); got != `0 1 2 "one" 4 5` {
		t.Errorf("rows %s", got)
	}
	for _, p := range pages {
		if p.Missing != 4 || len(p.Holes) != 1 || len(p.Conflicts) != 1 || p.Conflicts[0].Stream.Client != id(2) {
			t.Errorf("missing %d, holes %v, conflicts %v", p.Missing, p.Holes, p.Conflicts)
		}
	}
	f, err := os.OpenFile(g.segment("b-1"), os.O_WRONLY|os.O_APPEND, 0)
	g.check(err)
	_, err = f.WriteString("\x1f\x8b\x08\x04\x00\x00")
	g.check(errors.Join(err, f.Close()))
	p := g.page(hunts.Query{})
	if len(p.Rows) != 6 || len(p.Damage) != 1 || p.Damage[0].Kind != filestore.DamageTorn {
		t.Errorf("%d rows, damage %+v", len(p.Rows), p.Damage)
	}
}

func TestSealedSegmentCountsToItsSeal(t *testing.T) {
	g := newRig(t, 2)
	g.numbers("a-1", 0, 0, 3)
	info, err := os.Stat(g.segment("a-1"))
	g.check(err)
	g.numbers("a-1", 1, 0, 3) // after its seal
	g.numbers("b-1", 1, 0, 2)
	sealed := strings.TrimPrefix(g.segment("a-1"), g.root+"/")
	g.reader = filestore.NewReader(filestore.ReaderOptions{Store: g.store, Sealed: func(path string) (int64, bool) {
		return info.Size(), path == sealed
	}})
	g.results = g.open()
	p := g.page(hunts.Query{})
	if len(p.Rows) != 5 || len(p.Damage) != 1 || p.Damage[0].Kind != filestore.DamageBeyondSeal {
		t.Errorf("%d rows, damage %+v", len(p.Rows), p.Damage)
	}
}

func TestBadQueriesAreRefused(t *testing.T) {
	g := newRig(t, 1)
	g.numbers("a-1", 0, 0, 5)
	good := g.page(hunts.Query{Limit: 2}).Next
	for _, c := range []struct {
		q    hunts.Query
		want error
	}{
		{hunts.Query{Name: "Other"}, hunts.ErrNotFound},
		{hunts.Query{Name: pslist, Limit: -1}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, Limit: 1 << 20}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, From: -1}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, Filter: "\xff"}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, Sort: strings.Repeat("x", 2000)}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, Clients: make([]ids.Client, 20_000)}, hunts.ErrInvalid},
		{hunts.Query{Name: pslist, Cursor: "x"}, filestore.ErrBadCursor},
		{hunts.Query{Name: pslist, Cursor: good[:20]}, filestore.ErrBadCursor},
		{hunts.Query{Name: pslist, Cursor: good, Filter: "other"}, filestore.ErrBadCursor},
	} {
		if _, err := g.results.Page(context.Background(), g.key, c.q); !errors.Is(err, c.want) {
			t.Errorf("%+v: %v, want %v", c.q, err, c.want)
		}
	}
	other := g.key
	other.Hunt = must(ids.ParseHunt("H.OTHER"))
	if _, err := g.results.Page(context.Background(), other, hunts.Query{Name: pslist}); !errors.Is(err, hunts.ErrNotFound) {
		t.Errorf("another hunt: %v", err)
	}
}
