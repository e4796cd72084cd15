package filestore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"syscall"
)

// place links the part to its name and marks it as finished.
func (n *finisher) place(ctx context.Context, sum string) (*StoredUpload, error) {
	u, f := n.u, n.f
	kind, done, err := n.link(ctx)
	if done != nil || err != nil {
		return done, err
	}
	stored := &StoredUpload{f.finalPath(kind), sum, f.Size, f.StoredSize, len(f.Index) > 0, n.conflict}
	if err := n.describe(ctx, stored); err != nil {
		return nil, err
	}
	if err := n.c.store.SyncDir(ctx, path.Dir(stored.Path)); err != nil {
		return nil, err
	}
	if err := n.mark(ctx, stored, kind); err != nil {
		return nil, err
	}
	u.finished, u.location = stored, kind
	u.close(ctx)
	n.clean(ctx)
	n.c.metrics.uploads.Inc()
	copied := *stored
	return &copied, nil
}

// link finds the upload's name: its own, or another if that one is taken by
// another upload.
func (n *finisher) link(ctx context.Context) (int, *StoredUpload, error) {
	part := n.u.data.Path()
	var last error
	for kind := nameOwn; kind < nameKinds; kind++ {
		final := n.f.finalPath(kind)
		if err := n.c.store.MkdirAll(ctx, path.Dir(final)); err != nil {
			if last = err; notDirectory(err) {
				continue
			}
			return 0, nil, err
		}
		err := n.c.store.Link(ctx, part, final)
		if err == nil {
			return kind, nil, nil
		}
		last = err
		if isMissing(err) {
			return 0, nil, fmt.Errorf("%w: %w", errTakenAway, err)
		}
		if !errors.Is(err, ErrExists) && !notDirectory(err) {
			return 0, nil, err
		}
		// Perhaps another incarnation gave this very upload that name, since we
		// looked last.
		n.listed = false
		if done, err := n.elsewhere(ctx); done != nil || err != nil {
			return 0, done, err
		}
	}
	return 0, nil, last
}

func notDirectory(err error) bool { return errors.Is(err, syscall.ENOTDIR) }

// describe writes the index of a sparse upload, and the components of one that
// could not keep its name, beside it.
func (n *finisher) describe(ctx context.Context, stored *StoredUpload) error {
	renamed := strings.HasSuffix(path.Dir(stored.Path), "/%other")
	if !stored.Sparse && !renamed {
		return nil
	}
	doc := uploadIndex{Size: stored.Size, StoredSize: stored.StoredSize, Ranges: n.f.Index}
	if renamed {
		doc.Accessor, doc.Components = n.f.Accessor, n.f.Components
	}
	data, err := doc.encode()
	if err != nil {
		return err
	}
	return n.c.store.ReplaceFile(ctx, stored.Path+indexSuffix, data)
}

// mark tells other incarnations, and this one after a crash, that the upload
// has its name.
func (n *finisher) mark(ctx context.Context, stored *StoredUpload, kind int) error {
	u := n.u
	var sum [sha256.Size]byte
	if _, err := hex.Decode(sum[:], []byte(stored.SHA256)); err != nil {
		return fmt.Errorf("hash %q: %w", stored.SHA256, err)
	}
	last := uploadRecord{offset: stored.Size, length: stored.StoredSize, crc: uint32(kind)}
	if stored.Conflict {
		last.crc |= conflictMark
	}
	_, err := u.ext.WriteAt(ctx, appendRecord(nil, recordFinished, last, sum), u.extSize)
	if err == nil {
		err = u.ext.Sync(ctx)
	}
	if err != nil {
		u.leave(ctx) // the next try finds the name linked to the old part
		return err
	}
	u.extSize += recordSize
	return nil
}

// clean removes the parts' names; the bytes stay under the upload's own. What
// stays behind goes with CleanUploads.
func (n *finisher) clean(ctx context.Context) {
	n.c.removeUseless(ctx, n.u.key.partPath(n.c.o.Incarnation, n.u.part))
	for _, p := range n.others {
		n.c.removeUseless(ctx, p.path)
	}
}

// elsewhere looks whether the upload has a name already, given by another
// incarnation or by this one before its cache forgot it. A part that vanishes while
// we look was removed by one that had just marked its own: then we look again.
func (n *finisher) elsewhere(ctx context.Context) (*StoredUpload, error) {
	for try := 1; !n.listed; try++ {
		parts, err := listParts(ctx, n.c.store, n.f.Key)
		if err != nil {
			return nil, err
		}
		n.own, n.others = uploadPart{}, nil
		own := n.u.key.partPath(n.c.o.Incarnation, n.u.part)
		for _, p := range parts {
			switch {
			case p.path == own && n.u.began:
				n.own = p
			case p.sidecar.finished:
				return n.adopt(ctx, p)
			default:
				n.others = append(n.others, p)
			}
		}
		done, vanished, err := n.halfDone(ctx)
		if done != nil || err != nil {
			return done, err
		}
		n.listed = !vanished || try == maxFinishes
	}
	return nil, nil
}

// adopt takes over what a finished sidecar says. A number stands for one file: an
// end under other names is not that of this upload.
func (n *finisher) adopt(ctx context.Context, p uploadPart) (*StoredUpload, error) {
	last := p.sidecar.last
	kind := int(min(last.crc&^conflictMark, nameKinds-1))
	done := &StoredUpload{
		n.f.finalPath(kind), hex.EncodeToString(p.sidecar.sum[:]), last.offset, last.length, len(n.f.Index) > 0,
		last.crc&conflictMark != 0,
	}
	if _, err := n.c.store.identify(ctx, done.Path); isMissing(err) {
		return nil, fmt.Errorf("%s is finished, but not as %q: %w", n.f.Key, done.Path, ErrBadName)
	} else if err != nil {
		return nil, err
	}
	n.u.close(ctx)
	n.u.finished, n.u.location = done, kind
	copied := *done
	return &copied, nil
}

// halfDone finds an upload that was linked by an incarnation which then died
// before it could say so: a name that is the same file as one of its parts. It
// reports, too, whether a part that should have bytes has no file.
func (n *finisher) halfDone(ctx context.Context) (done *StoredUpload, vanished bool, err error) {
	for _, p := range n.others {
		part, err := n.c.store.identify(ctx, p.path)
		if err != nil {
			vanished = vanished || isMissing(err)
			continue // nothing can be linked from here any more
		}
		for kind := nameOwn; kind < nameKinds; kind++ {
			final, err := n.c.store.identify(ctx, n.f.finalPath(kind))
			if err == nil && os.SameFile(part, final) {
				done, err := n.complete(ctx, kind)
				return done, false, err
			}
		}
	}
	return nil, vanished, nil
}

// complete does for a linked upload what its first finisher did not come to.
func (n *finisher) complete(ctx context.Context, kind int) (*StoredUpload, error) {
	final := n.f.finalPath(kind)
	h, err := n.c.store.OpenFile(ctx, final)
	if err != nil {
		return nil, err
	}
	defer h.discard(ctx)
	linked := &upload{data: h}
	sum, err := linked.sum(ctx, n.f.StoredSize)
	if err != nil {
		return nil, err
	}
	stored := &StoredUpload{final, sum, n.f.Size, n.f.StoredSize, len(n.f.Index) > 0, n.disagree()}
	if err := n.describe(ctx, stored); err != nil {
		return nil, err
	}
	if err := n.c.store.SyncDir(ctx, path.Dir(final)); err != nil {
		return nil, err
	}
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	if err := n.mark(ctx, stored, kind); err != nil {
		return nil, err
	}
	n.u.finished, n.u.location = stored, kind
	n.u.close(ctx)
	n.clean(ctx)
	copied := *stored
	return &copied, nil
}
