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
	stored := &StoredUpload{f.finalPath(kind), sum, f.Size, f.StoredSize, len(f.Index) > 0}
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
		if !errors.Is(err, ErrExists) && !notDirectory(err) {
			return 0, nil, err
		}
		// Perhaps another incarnation gave this very upload that name, since we
		// looked last.
		n.listed, n.others = false, nil
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
// incarnation or by this one before its cache forgot it.
func (n *finisher) elsewhere(ctx context.Context) (*StoredUpload, error) {
	if n.listed {
		return nil, nil
	}
	parts, err := listParts(ctx, n.c.store, n.f.Key)
	if err != nil {
		return nil, err
	}
	n.listed = true
	own := n.u.key.partPath(n.c.o.Incarnation, n.u.part)
	for _, p := range parts {
		if p.path == own && n.u.began {
			continue
		}
		if p.sidecar.finished {
			return n.adopt(p), nil
		}
		n.others = append(n.others, p)
	}
	return n.halfDone(ctx)
}

// adopt takes over what a finished sidecar says.
func (n *finisher) adopt(p uploadPart) *StoredUpload {
	last := p.sidecar.last
	kind := int(min(last.crc, nameKinds-1))
	done := &StoredUpload{
		n.f.finalPath(kind), hex.EncodeToString(p.sidecar.sum[:]), last.offset, last.length, len(n.f.Index) > 0,
	}
	n.u.finished, n.u.location = done, kind
	copied := *done
	return &copied
}

// halfDone finds an upload that was linked by an incarnation which then died
// before it could say so: a name that is the same file as one of its parts.
func (n *finisher) halfDone(ctx context.Context) (*StoredUpload, error) {
	for _, p := range n.others {
		part, err := n.c.store.identify(ctx, p.path)
		if err != nil {
			continue // no data, or removed: nothing was linked from here
		}
		for kind := nameOwn; kind < nameKinds; kind++ {
			final, err := n.c.store.identify(ctx, n.f.finalPath(kind))
			if err == nil && os.SameFile(part, final) {
				return n.complete(ctx, kind)
			}
		}
	}
	return nil, nil
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
	stored := &StoredUpload{final, sum, n.f.Size, n.f.StoredSize, len(n.f.Index) > 0}
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
