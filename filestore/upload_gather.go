package filestore

import (
	"cmp"
	"context"
	"hash/crc32"
	"slices"
)

// gather copies in what is missing here and other parts hold. If one of them
// was finished already, it returns that.
func (n *finisher) gather(ctx context.Context) (*StoredUpload, error) {
	if done, err := n.elsewhere(ctx); done != nil || err != nil {
		return done, err
	}
	if n.disagree() {
		n.conflict = true
		n.c.metrics.mixedUploads.Inc()
		n.c.log.WarnContext(ctx, "upload came twice with different bytes, the newest are kept", "upload", n.f.Key.String())
		n.yield(ctx)
	}
	missing := n.u.covered.Missing(0, n.f.StoredSize)
	if !n.available(missing) {
		for _, p := range n.others {
			missing = minus(missing, p.extents())
		}
		return nil, &IncompleteError{Key: n.f.Key, Missing: missing}
	}
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	vanished, err := n.copyAll(ctx)
	if err != nil {
		return nil, err
	}
	missing = n.u.covered.Missing(0, n.f.StoredSize)
	switch {
	case len(missing) > 0 && vanished:
		return nil, errVanished
	case len(missing) > 0:
		return nil, &IncompleteError{Key: n.f.Key, Missing: missing}
	}
	return nil, nil
}

// disagree reports whether two parts say different things of the same bytes: a
// client that began anew, after a restart perhaps, sent some of it to another
// node. Within a part the newer have replaced the older.
func (n *finisher) disagree() bool {
	parts := n.others
	if len(n.own.sidecar.extents) > 0 {
		parts = append([]uploadPart{n.own}, parts...)
	}
	for i, p := range parts {
		for _, q := range parts[i+1:] {
			if p.disputes(q) {
				return true
			}
		}
	}
	return false
}

// disputes reports whether two parts overlap with extents that are not the same.
func (p uploadPart) disputes(q uploadPart) bool {
	have := p.extents()
	for _, r := range q.sidecar.extents {
		free := have.Missing(r.offset, r.end())
		if free.Len() < r.length && !slices.ContainsFunc(p.sidecar.extents, r.same) {
			return true
		}
	}
	return false
}

// yield makes this incarnation's part one of several, and begins another in which
// the newest bytes of all are put together. Nothing is written over meanwhile.
func (n *finisher) yield(ctx context.Context) {
	if len(n.own.sidecar.extents) > 0 {
		n.others = append(n.others, n.own)
		n.own = uploadPart{}
	}
	if n.u.began {
		n.u.leave(ctx)
	}
}

// available reports whether the others' sidecars promise all that is missing.
func (n *finisher) available(missing Intervals) bool {
	for _, p := range n.others {
		missing = minus(missing, p.extents())
	}
	return len(missing) == 0
}

func minus(a, b Intervals) Intervals {
	var out Intervals
	for _, i := range a {
		out.Union(b.Missing(i.Start, i.End))
	}
	return out
}

// source is an extent of another part.
type source struct {
	part   int
	record uploadRecord
}

// copyAll takes what is missing from the other parts, the newest bytes first. An
// extent whose bytes do not have its checksum, because newer ones lie over it, is
// passed over.
//
// It reports, too, whether a part had no file.
func (n *finisher) copyAll(ctx context.Context) (vanished bool, err error) {
	var all []source
	for i, p := range n.others {
		for _, r := range slices.Backward(p.sidecar.extents) {
			all = append(all, source{i, r})
		}
	}
	slices.SortStableFunc(all, func(a, b source) int { return cmp.Compare(b.record.at, a.record.at) })
	open := map[int]*Handle{} // nil: the part has no file
	defer func() {
		for _, h := range open {
			if h != nil {
				h.discard(ctx)
			}
		}
	}()
	var records []uploadRecord
	var copied Intervals // durable only after keep
	for _, s := range all {
		wanted := clip(minus(n.u.covered.Missing(s.record.offset, s.record.end()), copied), n.f.StoredSize)
		if len(wanted) == 0 {
			continue
		}
		src, err := n.source(ctx, open, s.part)
		if err != nil {
			return false, err
		}
		if src == nil {
			vanished = true
			continue
		}
		some, err := n.copyExtent(ctx, src, s.record, wanted)
		if err != nil {
			return false, err
		}
		records = append(records, some...)
		for _, r := range some {
			copied.Add(r.offset, r.end())
		}
	}
	return vanished, n.keep(ctx, records)
}

// source opens a part for reading, once. One without a file is none: its owner has
// just finished, or never got to it.
func (n *finisher) source(ctx context.Context, open map[int]*Handle, part int) (*Handle, error) {
	if h, known := open[part]; known {
		return h, nil
	}
	h, err := n.c.store.OpenFile(ctx, n.others[part].path)
	if err != nil && !isMissing(err) {
		return nil, err
	}
	open[part] = h
	return h, nil
}

// copyExtent copies the wanted ranges of one extent. What it wrote counts only
// after keep.
func (n *finisher) copyExtent(ctx context.Context, src *Handle, r uploadRecord, wanted Intervals) ([]uploadRecord, error) {
	buf, err := readPiece(ctx, src, r)
	if err != nil {
		return nil, err
	}
	if buf == nil {
		n.c.metrics.badExtents.Inc()
		return nil, nil
	}
	var out []uploadRecord
	for _, w := range wanted {
		piece := buf[w.Start-r.offset : w.End-r.offset]
		if _, err := n.u.data.WriteAt(ctx, piece, w.Start); err != nil {
			n.u.leave(ctx)
			return nil, err
		}
		n.u.digest(w.Start, piece)
		n.u.dataSize = max(n.u.dataSize, w.End)
		out = append(out, uploadRecord{w.Start, w.Len(), crc32.Checksum(piece, castagnoli), r.at})
	}
	return out, nil
}

// keep makes copied bytes durable in this incarnation's part.
func (n *finisher) keep(ctx context.Context, records []uploadRecord) error {
	if len(records) == 0 {
		return nil
	}
	u := n.u
	_, err := u.ext.WriteAt(ctx, encodeRecords(records), u.extSize)
	if err == nil {
		err = u.sync(ctx)
	}
	if err != nil {
		u.leave(ctx)
		return err
	}
	u.stored(records)
	return nil
}

func clip(s Intervals, end int64) Intervals {
	var out Intervals
	for _, i := range s {
		out.Add(i.Start, min(i.End, end))
	}
	return out
}
