package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"
)

// segment is this incarnation's file in a set: the part being written.
type segment struct {
	set    Set
	part   int
	began  bool    // the part's file was made
	handle *Handle // nil: closed
	size   int64   // valid to here; the next member's place
}

// isOpen implements fileState.
func (s *segment) isOpen() bool { return s.handle != nil }

func (s *segment) close(ctx context.Context) {
	if s.handle != nil {
		s.handle.discard(ctx) // what was acknowledged is synced
		s.handle = nil
	}
}

// leave ends a part for good: valid to its last good sync, never written again.
func (s *segment) leave(ctx context.Context) {
	s.close(ctx)
	s.began, s.size = false, 0
	s.part++
}

// segmentTask is a round's share of one segment.
type segmentTask struct {
	c     *Committer
	set   Set
	entry *fileEntry[Set, *segment]
	pack  *packer
	fresh bool // the file was made in this round
	wrote bool // bytes behind the valid end may have changed
}

func (t *segmentTask) acquire(ctx context.Context) (err error) {
	if t.entry, err = t.c.segments.acquire(ctx, t.set); err != nil {
		return fmt.Errorf("%w: %w", errNotHeld, err)
	}
	return nil
}

func (t *segmentTask) release() { t.c.segments.release(t.entry) }

// write puts the round's batches behind the segment's valid end: one write.
func (t *segmentTask) write(ctx context.Context, r *round, f *fileTask) error {
	t.pack = newPacker()
	for k, ticket := range f.tickets {
		a := &ticket.commit.Appends[f.places[k]]
		if err := t.pack.add(a.Extent, a.Lines); err != nil {
			return err
		}
		t.c.metrics.rows.Add(float64(a.Extent.Rows))
		t.c.metrics.plainBytes.Add(float64(len(a.Lines)))
	}
	if err := t.pack.endMember(); err != nil {
		return err
	}
	s := t.entry.value
	if s.size > 0 && s.size+int64(len(t.pack.out)) > t.c.o.SegmentBytes {
		s.leave(ctx)
	}
	if err := t.open(ctx, r, f); err != nil {
		return err
	}
	_, err := s.handle.WriteAt(ctx, t.pack.out, s.size)
	t.wrote = err == nil || s.handle.Err() != nil
	return err
}

// open makes sure that the segment's file is open for writing at its end.
func (t *segmentTask) open(ctx context.Context, r *round, f *fileTask) error {
	s := t.entry.value
	if s.handle != nil {
		return nil
	}
	if s.began && t.reopen(ctx, s) {
		return nil
	}
	name := path.Join(string(s.set), segmentName(t.c.o.Incarnation, s.part))
	h, err := r.create(ctx, f, name)
	if errors.Is(err, ErrExists) { // made before this cache forgot it
		if s.part, err = nextPart(ctx, t.c.store, path.Dir(name), t.c.o.Incarnation, segmentSuffix); err != nil {
			return err
		}
		name = path.Join(string(s.set), segmentName(t.c.o.Incarnation, s.part))
		h, err = r.create(ctx, f, name)
	}
	if err != nil {
		return err
	}
	s.handle, s.began, s.size, t.fresh = h, true, 0, true
	return nil
}

// reopen continues a part that was closed for want of use. If it is not as it
// was left, it is finished and a new part begun.
func (t *segmentTask) reopen(ctx context.Context, s *segment) bool {
	name := path.Join(string(s.set), segmentName(t.c.o.Incarnation, s.part))
	h, err := t.c.store.OpenWrite(ctx, name)
	if err == nil {
		info, statErr := h.Stat(ctx)
		if statErr == nil && info.Size() == s.size {
			s.handle = h
			return true
		}
		h.discard(ctx)
	}
	t.c.log.WarnContext(ctx, "segment cannot be continued", "path", name, "bytes", s.size, "err", err)
	s.leave(ctx)
	return false
}

func (t *segmentTask) sync(ctx context.Context) error { return t.entry.value.handle.Sync(ctx) }

// conclude moves the valid end on, or finishes the part.
func (t *segmentTask) conclude(ctx context.Context, err error) {
	s := t.entry.value
	stored := int64(len(t.pack.out))
	if err == nil {
		s.size += stored
		t.c.metrics.storedBytes.Add(float64(stored))
		t.c.metrics.members.Add(float64(t.pack.members))
		t.pack.free()
		return
	}
	if !errors.Is(err, ErrAbandoned) { // else a late write may still read it
		t.pack.free()
	}
	if s.handle == nil || !t.fresh && !t.wrote {
		return // as it was
	}
	t.c.metrics.finished.WithLabelValues("segment").Inc()
	t.c.log.WarnContext(ctx, "segment finished after an error", "path", s.handle.Path(), "bytes", s.size, "err", err)
	name, useless := s.handle.Path(), s.size == 0
	s.leave(ctx)
	if useless {
		t.c.removeUseless(ctx, name)
	}
}

// removeUseless removes a file of which nobody was told anything; one that
// stays behind is only untidy.
func (c *Committer) removeUseless(ctx context.Context, name string) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	if err := c.store.Remove(limited, name); err != nil && !isMissing(err) {
		c.log.WarnContext(ctx, "empty file stays behind", "path", name, "err", err)
	}
}

// nextPart finds the first part number of this incarnation that no file in dir
// has, nor any above it.
func nextPart(ctx context.Context, store *Store, dir, incarnation, suffix string) (int, error) {
	names, err := store.ReadDir(ctx, dir)
	if err != nil {
		return 0, err
	}
	next := 0
	for _, name := range names {
		base, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		if id, ok := parsePartName(base); ok && id.incarnation() == incarnation {
			next = max(next, id.part+1)
		}
	}
	return next, nil
}

func isMissing(err error) bool { return errors.Is(err, fs.ErrNotExist) }
