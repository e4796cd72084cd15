package filestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/ids"
)

// ErrBadCursor means that a cursor is none, or that its segments are gone. Ask
// without one.
var ErrBadCursor = errors.New("cursor does not fit")

// ReaderOptions sets up a Reader. Only Store is required.
type ReaderOptions struct {
	Store *Store

	// Sealed tells to which length a file of a sealed incarnation counts; false: no
	// seal names it, and its valid prefix counts. Nil: nothing is sealed. It is
	// called without a lock and must not block.
	Sealed func(path string) (length int64, sealed bool)

	CacheExtents int                   // extents kept in memory, about 150 bytes each; 0: 500,000
	Registerer   prometheus.Registerer // nil: metrics are counted but not exported
	Logger       *slog.Logger          // nil: slog.Default
}

// Reader reads sets: the segments of all incarnations merged, each row once. It
// opens files afresh on each call, so it sees what other nodes synced before.
// What it learnt of a segment's index is kept, and only what was appended since
// is looked at. Safe for concurrent use.
type Reader struct {
	store   *Store
	sealed  func(string) (int64, bool)
	log     *slog.Logger
	metrics *readMetrics
	budget  int

	mu      sync.Mutex
	indexes map[string]*segmentIndex // by path
	extents int                      // in all of them
	tick    int64                    // orders their use
	views   []*view                  // merged, last used first; at most maxViews
}

// NewReader wires a reader. It has nothing to stop.
func NewReader(o ReaderOptions) *Reader {
	r := &Reader{
		store: o.Store, sealed: o.Sealed, log: o.Logger, metrics: newReadMetrics(o.Registerer),
		budget: o.CacheExtents, indexes: make(map[string]*segmentIndex),
	}
	if r.sealed == nil {
		r.sealed = func(string) (int64, bool) { return 0, false }
	}
	if r.log == nil {
		r.log = slog.Default()
	}
	orDefault(&r.budget, 500_000)
	return r
}

// RowsFilter chooses streams; a zero field means any.
type RowsFilter struct {
	Client ids.Client
	Flow   ids.Flow
	Name   string
}

func (f RowsFilter) takes(e *Extent) bool {
	return (f.Client.IsZero() || f.Client == e.Client) &&
		(f.Flow.IsZero() || f.Flow == e.Flow) &&
		(f.Name == "" || f.Name == e.Name)
}

// RowsQuery asks for a page of rows.
type RowsQuery struct {
	RowsFilter
	From     int64  // rows to skip; with a cursor counted from the cursor
	Limit    int    // rows at most; 0: 1000
	MaxBytes int64  // the page ends after the row that exceeds it; 0: 8 MiB
	Cursor   string // RowsPage.Next of a page with the same filter
}

// Row is one row with its place.
type Row struct {
	Client ids.Client
	Flow   ids.Flow
	Name   string
	Number int64  // in its stream, from 0; event batches are streams each
	Line   []byte // the JSON line, without its end
}

// Hole is a range of row numbers of a stream that no segment has, or that
// cannot be read, although later rows are there.
type Hole struct {
	Stream Stream
	Rows   Interval
}

// Conflict is a batch that came a second time under the same identity with
// other bytes. The rows served are those of Kept; ConflictRows reads Other.
type Conflict struct {
	Stream   Stream
	FirstRow int64
	Rows     int64
	Kept     Place
	Other    Place
}

// Place says where a batch lies.
type Place struct {
	Path   string
	Member int64 // offset of its member in the file
	Extent int   // its place in the member's index
	CRC    uint32
}

// Damage is a part of a segment that cannot be used. A file being written just
// now may show as torn; after a moment it does not.
type Damage struct {
	Path   string
	Offset int64 // where it begins
	Bytes  int64 // how much of the file is affected
	Kind   DamageKind
	Err    error // the cause, if there is more to say
}

// DamageKind is a closed set.
type DamageKind string

// Kinds of damage.
const (
	DamageTorn       DamageKind = "torn"        // the file ends within a member
	DamageChecksum   DamageKind = "checksum"    // bytes changed, or are none of ours
	DamageBeyondSeal DamageKind = "beyond_seal" // written by a dead incarnation after its seal; ignored
	DamageLost       DamageKind = "lost"        // shorter than its seal says
	DamageMember     DamageKind = "member"      // a member that was good does not inflate to its rows
)

// RowsPage is a page of rows in a fixed order: streams as they first came, each
// in the order of its row numbers. The order is fixed for one cursor; without
// one it follows the segments as they are now.
type RowsPage struct {
	Rows      []Row
	From      int64 // place of the first row among all
	Total     int64 // rows in all, holes not counted
	Next      string
	Holes     []Hole // between or before the rows of this page
	Conflicts []Conflict
	Damage    []Damage
}

// StreamCoverage is what a set holds of one stream.
type StreamCoverage struct {
	Rows       Intervals
	Conflicts  []Conflict
	Duplicates int // batches that were stored more than once, alike
}

// Coverage is what a set holds.
type Coverage struct {
	Streams map[Stream]StreamCoverage
	Damage  []Damage
}

// Coverage reports which rows are there, per stream, over the segments of all
// incarnations. A missing set is empty.
func (r *Reader) Coverage(ctx context.Context, set Set, filter RowsFilter) (*Coverage, error) {
	v, err := r.view(ctx, set, filter, nil)
	if err != nil {
		return nil, fmt.Errorf("coverage of %s: %w", set, err)
	}
	return v.coverage(), nil
}

func (v *view) coverage() *Coverage {
	out := &Coverage{Streams: make(map[Stream]StreamCoverage, len(v.streams)), Damage: v.damage}
	for _, s := range v.streams {
		out.Streams[s.stream] = StreamCoverage{s.covered.Clone(), s.conflicts, s.duplicates}
	}
	return out
}

// CoverageBy is Coverage over the segments of some incarnations alone: what the
// dead hold, for instance, which does not change any more.
func (r *Reader) CoverageBy(ctx context.Context, set Set, filter RowsFilter, owner func(incarnation string) bool) (*Coverage, error) {
	files, damage, err := r.loadOf(ctx, set, owner)
	if err != nil {
		return nil, fmt.Errorf("coverage of %s: %w", set, err)
	}
	v := &view{set: set, filter: filter, files: files, damage: damage}
	v.merge()
	return v.coverage(), nil
}

// ReadRows returns a page. Only the members that hold its rows are inflated. A
// missing set is empty.
func (r *Reader) ReadRows(ctx context.Context, set Set, q RowsQuery) (*RowsPage, error) {
	page, err := r.page(ctx, set, q)
	if err != nil {
		return nil, fmt.Errorf("read rows of %s: %w", set, err)
	}
	return page, nil
}

// ConflictRows returns the lines of the batch that was not served.
func (r *Reader) ConflictRows(ctx context.Context, set Set, c Conflict) ([]byte, error) {
	files, _, err := r.load(ctx, set)
	if err != nil {
		return nil, fmt.Errorf("read conflict: %w", err)
	}
	for _, f := range files {
		for _, m := range f.members {
			if f.path == c.Other.Path && m.Offset == c.Other.Member && c.Other.Extent >= 0 && c.Other.Extent < len(m.Extents) {
				return r.readExtent(ctx, f.path, m, m.Extents[c.Other.Extent])
			}
		}
	}
	return nil, fmt.Errorf("conflict at %s %d: %w", c.Other.Path, c.Other.Member, ErrDamaged)
}

func (r *Reader) readExtent(ctx context.Context, path string, m Member, e Extent) ([]byte, error) {
	h, err := r.store.OpenFile(ctx, path)
	if err != nil {
		return nil, err
	}
	defer h.discard(ctx)
	plain, err := readMember(ctx, h, m)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return cutExtent(plain, e)
}

// SegmentState is what one segment holds.
type SegmentState struct {
	Path    string
	Valid   int64 // length of the valid prefix, at most what its seal says
	Size    int64 // of the file
	Members int
	Extents int
	Rows    int64 // before merging
}

// Segments lists the segments of a set with their valid lengths: what a seal is
// made from, and what operators look at.
func (r *Reader) Segments(ctx context.Context, set Set) ([]SegmentState, []Damage, error) {
	files, damage, err := r.load(ctx, set)
	if err != nil {
		return nil, nil, fmt.Errorf("segments of %s: %w", set, err)
	}
	out := make([]SegmentState, len(files))
	for i, f := range files {
		out[i] = SegmentState{Path: f.path, Valid: f.valid, Size: f.size, Members: len(f.members)}
		for _, m := range f.members {
			out[i].Extents += len(m.Extents)
			for k := range m.Extents {
				out[i].Rows += m.Extents[k].Rows
			}
		}
	}
	return out, damage, nil
}
