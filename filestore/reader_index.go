package filestore

import (
	"context"
	"io/fs"
	"path"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"golang.org/x/sync/errgroup"
)

// readMetrics says what readers found.
type readMetrics struct {
	scanned prometheus.Counter
	damage  *prometheus.CounterVec
	rows    prometheus.Counter
}

func newReadMetrics(reg prometheus.Registerer) *readMetrics {
	auto := promauto.With(reg)
	return &readMetrics{
		scanned: auto.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_filestore_read_scanned_bytes_total", Help: "Segment bytes checked by readers.",
		}),
		damage: auto.NewCounterVec(prometheus.CounterOpts{
			Name: "raptorpack_filestore_read_damage_total", Help: "Damage found in segments, each once while it is remembered, by kind.",
		}, []string{"kind"}),
		rows: auto.NewCounter(prometheus.CounterOpts{
			Name: "raptorpack_filestore_read_rows_total", Help: "Rows read.",
		}),
	}
}

// segmentIndex is what is known of a segment: the members of its valid prefix.
type segmentIndex struct {
	path string
	id   segmentID
	turn chan struct{} // one element while somebody looks at the file; full: wait

	// Written by who has the turn.
	members  []Member // only ever appended to
	valid    int64
	reported map[DamageKind]Damage // told of

	// Guarded by the reader's mutex.
	extents int
	used    int64
}

// fileView is a segment as one call sees it; it does not change.
type fileView struct {
	path    string
	id      segmentID
	members []Member
	valid   int64
	size    int64
}

// load looks at all segments of a set, in the order that decides which of equal
// batches counts.
func (r *Reader) load(ctx context.Context, set Set) ([]fileView, []Damage, error) {
	return r.loadOf(ctx, set, func(string) bool { return true })
}

// loadOf is load of some incarnations; files of others are not opened.
func (r *Reader) loadOf(ctx context.Context, set Set, owner func(incarnation string) bool) ([]fileView, []Damage, error) {
	if err := checkSet(set); err != nil {
		return nil, nil, err
	}
	names, err := r.store.ReadDir(ctx, string(set))
	if isMissing(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var files []fileView
	for _, name := range names {
		id, ok := parseSegmentName(name)
		if !ok || !owner(id.incarnation()) {
			continue // a folder of another set, or somebody's note
		}
		files = append(files, fileView{path: path.Join(string(set), name), id: id})
	}
	slices.SortFunc(files, func(a, b fileView) int { return a.id.compare(b.id) })
	return r.lookAt(ctx, files)
}

// looksAtOnce bounds how many segments of a set are looked at side by side.
const looksAtOnce = 4

// lookAt looks at segments. Those deleted since the listing are left out.
func (r *Reader) lookAt(ctx context.Context, files []fileView) ([]fileView, []Damage, error) {
	damage := make([][]Damage, len(files))
	gone := make([]bool, len(files))
	g, looking := errgroup.WithContext(ctx)
	g.SetLimit(looksAtOnce)
	for i := range files {
		g.Go(func() (err error) {
			files[i], damage[i], err = r.look(looking, files[i].path, files[i].id)
			if isMissing(err) {
				gone[i], err = true, nil
			}
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, nil, err
	}
	there := files[:0]
	for i, f := range files {
		if !gone[i] {
			there = append(there, f)
		}
	}
	return there, slices.Concat(damage...), nil
}

// look opens a segment afresh and checks what was appended since the last look.
func (r *Reader) look(ctx context.Context, name string, id segmentID) (fileView, []Damage, error) {
	x := r.index(name, id)
	select {
	case x.turn <- struct{}{}:
	case <-ctx.Done():
		return fileView{}, nil, context.Cause(ctx)
	}
	defer func() { <-x.turn }()
	h, err := r.store.OpenFile(ctx, name)
	if err != nil {
		return fileView{}, nil, err
	}
	defer h.discard(ctx)
	info, err := h.Stat(ctx)
	if err != nil {
		return fileView{}, nil, err
	}
	if info.IsDir() {
		return fileView{}, nil, fs.ErrNotExist
	}
	size := info.Size()
	if size < x.valid { // not by us: what we know is of another file
		r.reset(x)
	}
	limit, sealed := r.sealed(name)
	if !sealed {
		limit = size
	}
	scan, err := r.scan(ctx, h, x, min(limit, size))
	if err != nil {
		return fileView{}, nil, err
	}
	f := x.upTo(limit)
	f.size = size
	damage := judge(f, scan, limit, sealed)
	r.tell(ctx, x, damage)
	return f, damage, nil
}

func (r *Reader) scan(ctx context.Context, h *Handle, x *segmentIndex, size int64) (Scan, error) {
	if x.valid >= size {
		return Scan{Valid: x.valid, Size: size}, nil
	}
	before, from := len(x.members), x.valid
	scan, err := scanSegment(ctx, h, x.valid, size, func(m Member) error {
		x.members = append(x.members, m)
		x.valid = m.Offset + m.Length
		return nil
	})
	r.metrics.scanned.Add(float64(x.valid - from))
	added := 0
	for _, m := range x.members[before:] {
		added += len(m.Extents)
	}
	r.account(x, added)
	return scan, err
}

// upTo is the view of the members that end within limit.
func (x *segmentIndex) upTo(limit int64) fileView {
	f := fileView{path: x.path, id: x.id, members: x.members[:len(x.members):len(x.members)], valid: x.valid}
	for f.valid > limit {
		last := f.members[len(f.members)-1]
		f.members, f.valid = f.members[:len(f.members)-1], last.Offset
	}
	return f
}

// judge tells what of a file is not used, and why.
func judge(f fileView, scan Scan, limit int64, sealed bool) []Damage {
	var out []Damage
	if sealed && f.size > limit {
		out = append(out, Damage{Path: f.path, Offset: limit, Bytes: f.size - limit, Kind: DamageBeyondSeal})
	}
	rest := min(limit, f.size) - f.valid
	switch {
	case sealed && f.valid < limit && rest == 0:
		out = append(out, Damage{Path: f.path, Offset: f.valid, Bytes: limit - f.valid, Kind: DamageLost})
	case rest > 0 && scan.Torn && !sealed:
		out = append(out, Damage{Path: f.path, Offset: f.valid, Bytes: rest, Kind: DamageTorn})
	case rest > 0:
		out = append(out, Damage{Path: f.path, Offset: f.valid, Bytes: rest, Kind: DamageChecksum})
	}
	return out
}

// tell logs and counts damage once while it stays as it is.
func (r *Reader) tell(ctx context.Context, x *segmentIndex, damage []Damage) {
	for _, d := range damage {
		if d == x.reported[d.Kind] {
			continue
		}
		if x.reported == nil {
			x.reported = make(map[DamageKind]Damage)
		}
		x.reported[d.Kind] = d
		r.metrics.damage.WithLabelValues(string(d.Kind)).Inc()
		if d.Kind != DamageTorn { // live files are torn for a moment all the time
			r.log.WarnContext(ctx, "segment has damage", "path", d.Path, "kind", string(d.Kind), "offset", d.Offset, "bytes", d.Bytes)
		}
	}
}

func (r *Reader) index(name string, id segmentID) *segmentIndex {
	r.mu.Lock()
	defer r.mu.Unlock()
	x := r.indexes[name]
	if x == nil {
		x = &segmentIndex{path: name, id: id, turn: make(chan struct{}, 1)}
		r.indexes[name] = x
		r.extents += indexCost
		x.extents = indexCost
	}
	r.tick++
	x.used = r.tick
	return x
}

// indexCost is what an empty index takes, in extents.
const indexCost = 4

func (r *Reader) reset(x *segmentIndex) {
	r.account(x, indexCost-x.extents)
	x.members, x.valid = nil, 0
}

// account keeps the caches within their budget: the longest unused go. One that
// is in use is forgotten here, and its user goes on with it.
func (r *Reader) account(x *segmentIndex, added int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	x.extents += added
	if r.indexes[x.path] == x {
		r.extents += added
	}
	if r.extents <= r.budget {
		return
	}
	all := make([]*segmentIndex, 0, len(r.indexes))
	for _, old := range r.indexes {
		all = append(all, old)
	}
	slices.SortFunc(all, func(a, b *segmentIndex) int { return int(a.used - b.used) })
	for _, old := range all {
		if r.extents <= r.budget*3/4 {
			break
		}
		delete(r.indexes, old.path)
		r.extents -= old.extents
	}
	r.views = nil
}
