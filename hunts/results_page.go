package hunts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
)

const (
	usualLimit   = 1000
	maxLimit     = 10_000
	maxQueried   = 10_000 // clients of a query
	maxTold      = 1000   // holes, conflicts and damages that a page lists
	usualPatient = 2 * time.Second
)

// Query asks for a page of a hunt's table.
type Query struct {
	Source  Source       // what the table shows
	Name    string       // of a result of the hunt, if it shows one
	Clients []ids.Client // only theirs; none: all
	Filter  string       // see ParseFilter

	// Sort is a column to order the rows by: first those that do not have it or where
	// it is null, then false, true, numbers, text (by its code points; the first
	// kilobyte counts), lists and objects. Rows that are equal in it stay in the order
	// of the table without it, also when Descending. Empty: as the rows were stored,
	// node by node.
	Sort       string
	Descending bool

	From   int64         // rows to skip, from the cursor on if there is one
	Limit  int           // rows at most, up to 10,000; 0: 1,000
	Cursor string        // Table.Next of the same query
	Wait   time.Duration // how long to wait for a sort; 0: 2 s, below: not at all
}

// Table is a page of a hunt's rows.
type Table struct {
	Rows   []filestore.Row
	From   int64  // how many rows of the query come before; with a filter and no sort, as far as the cursor tells
	Total  int64  // rows of the result and these clients that are there, before Filter
	Match  int64  // rows that Filter takes; -1: not known, as not all were looked at
	Next   string // empty: this was the last page
	Looked Looked // by this call, if there is a Filter

	// Sorting is set while the table is being sorted: there are no rows yet. Ask again
	// with Next.
	Sorting *Progress

	Faults // of the result and these clients, and what this page met
}

// Looked says how much a filter went through.
type Looked struct {
	Rows  int64
	Bytes int64
	Left  int64 // rows behind those
}

// tableView is a query over a set at one moment.
type tableView struct {
	*selection
	key    Key
	q      Query
	filter *Filter
	place  int64 // where the page begins
	before int64 // rows of the query before that
}

// Page returns a page of a hunt's rows. The cursor pins how far each segment goes, so
// that pages fit together while rows come in. A hunt or result that is not there is
// ErrNotFound, a query that makes no sense ErrInvalid, a cursor that does not fit
// filestore.ErrBadCursor; sorts are ErrBusy, ErrTooLarge or ErrSortCancelled.
func (r *Results) Page(ctx context.Context, key Key, q Query) (*Table, error) {
	v, err := r.viewOf(ctx, key, q)
	if err != nil {
		return nil, err
	}
	t := &Table{From: v.before, Total: v.rows, Match: -1}
	t.Faults = v.faults()
	if v.q.Sort != "" {
		err = r.sorted(ctx, v, t)
	} else {
		err = v.scan(ctx, r, t)
	}
	if err != nil {
		return nil, fmt.Errorf("results of hunt %s: %w", key.Hunt, err)
	}
	r.metrics.rows.Add(float64(len(t.Rows)))
	return t, nil
}

func (r *Results) viewOf(ctx context.Context, key Key, q Query) (*tableView, error) {
	if err := q.check(); err != nil {
		return nil, err
	}
	filter, err := ParseFilter(q.Filter)
	if err != nil {
		return nil, err
	}
	set, name, err := r.set(key, q.Source, q.Name)
	if err != nil {
		return nil, err
	}
	v := &tableView{key: key, q: q, filter: filter}
	store, err := v.parseCursor()
	if err != nil {
		return nil, err
	}
	v.selection, v.place, err = r.pin(ctx, key, set, name, q.Clients, store)
	return v, err
}

func (q *Query) check() error {
	if q.Limit == 0 {
		q.Limit = usualLimit
	}
	if q.Wait == 0 {
		q.Wait = usualPatient
	}
	switch {
	case q.Limit < 0 || q.Limit > maxLimit:
		return fmt.Errorf("%d rows: expected 1 to %d: %w", q.Limit, maxLimit, ErrInvalid)
	case q.From < 0 || q.From > filestore.MaxRow:
		return fmt.Errorf("from row %d: %w", q.From, ErrInvalid)
	case len(q.Clients) > maxQueried:
		return fmt.Errorf("%d clients, more than %d: %w", len(q.Clients), maxQueried, ErrInvalid)
	case len(q.Sort) > maxFilter:
		return fmt.Errorf("column name of %d bytes: %w", len(q.Sort), ErrInvalid)
	}
	return nil
}

// errEnough ends a walk early.
var errEnough = errors.New("enough rows")

// scan fills a page with rows as they are stored.
func (v *tableView) scan(ctx context.Context, r *Results, t *Table) error {
	skip, next := v.q.From, v.place
	if v.filter.All() {
		next = v.Skip(v.place, v.q.From, v.take)
		t.From, skip = min(v.before+v.q.From, v.rows), 0
	}
	var size int64
	told, err := v.Walk(ctx, next, v.take, func(b filestore.Batch) error {
		next = b.Place + b.Rows
		if !r.showsNow(v.key, v.selection, b.Stream) {
			return nil
		}
		whole := v.filter.Each(b.Lines, func(number int64, line []byte) bool {
			if skip > 0 {
				skip--
				t.From++
				return true
			}
			t.Rows = append(t.Rows, v.row(b, number, line))
			size += int64(len(line))
			next = b.Place + number + 1
			return len(t.Rows) < v.q.Limit && size < r.o.PageBytes
		})
		if whole {
			next = b.Place + b.Rows
		}
		t.Looked.Rows += next - b.Place
		t.Looked.Bytes += int64(len(b.Lines))
		if !whole || !v.filter.All() && t.Looked.Bytes >= r.o.ScanBytes {
			return errEnough
		}
		return nil
	})
	t.met(told)
	if errors.Is(err, errEnough) {
		err = nil
		if v.left(next, t) > 0 {
			t.Next = v.cursor(next, t.From+int64(len(t.Rows)))
		}
	}
	if err == nil && t.Next == "" {
		t.Match = t.From + int64(len(t.Rows)) // all pages before looked at all before
	}
	r.metrics.scanned.Add(float64(told.Bytes))
	if t.Looked.Left = v.left(next, t); v.filter.All() {
		t.Match, t.Looked = v.rows, Looked{}
	}
	return err
}

// left counts the chosen rows behind a page that ends at a place.
func (v *tableView) left(place int64, t *Table) int64 {
	if v.filter.All() {
		return max(0, v.rows-t.From-int64(len(t.Rows)))
	}
	return v.Count(place, v.take)
}

func (v *tableView) row(b filestore.Batch, number int64, line []byte) filestore.Row {
	s, _ := v.Stream(b.Stream)
	return filestore.Row{
		Client: s.Client, Flow: s.Flow, Name: s.Name, Number: b.FirstRow + number,
		Line: bytes.Clone(line), // else it would keep its whole member
	}
}

// identity is a query without its page, as a checksum.
func (v *tableView) identity() uint32 {
	parts := []string{v.key.Org.String(), v.key.Hunt.String(), string(v.q.Source), v.q.Name, v.q.Filter, v.q.Sort, strconv.FormatBool(v.q.Descending)}
	for _, c := range v.q.Clients {
		parts = append(parts, c.String())
	}
	return crc32.ChecksumIEEE([]byte(strings.Join(parts, "\x00")))
}

// cursor names a place of this query, and how many of its rows come before.
func (v *tableView) cursor(place, before int64) string {
	return fmt.Sprintf("%08x.%x.%s", v.identity(), before, v.Cursor(place))
}

// parseCursor reads a cursor of this query and returns what of it is the store's.
func (v *tableView) parseCursor() (string, error) {
	if v.q.Cursor == "" {
		return "", nil
	}
	parts := strings.SplitN(v.q.Cursor, ".", 3)
	if len(parts) != 3 || parts[0] != fmt.Sprintf("%08x", v.identity()) {
		return "", fmt.Errorf("of another query: %w", filestore.ErrBadCursor)
	}
	before, err := strconv.ParseInt(parts[1], 16, 64)
	if err != nil || before < 0 || before > filestore.MaxRow || parts[2] == "" {
		return "", fmt.Errorf("place %.40q: %w", parts[1], filestore.ErrBadCursor)
	}
	v.before = before
	return parts[2], nil
}
