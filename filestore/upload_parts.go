package filestore

import (
	"context"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	"raptorpack/ids"
)

// maxSidecar bounds what is read of a sidecar: a million pieces.
const maxSidecar = recordSize << 20

// uploadPart is what one incarnation holds of an upload.
type uploadPart struct {
	path    string
	id      segmentID
	sidecar sidecar
}

// extents is what the sidecar says is there. Whether the bytes are good shows
// when they are read.
func (p uploadPart) extents() Intervals {
	var out Intervals
	for _, r := range p.sidecar.extents {
		out.Add(r.offset, r.end())
	}
	return out
}

// listParts reads the sidecars of all parts of an upload, newest incarnation of
// each node first. None is no error.
func listParts(ctx context.Context, store *Store, key UploadKey) ([]uploadPart, error) {
	dir := key.partsDir()
	names, err := store.ReadDir(ctx, dir)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var parts []uploadPart
	for _, name := range names {
		number, id, ok := parsePartFile(name)
		if !ok || number != key.Number {
			continue
		}
		b, err := store.ReadFile(ctx, path.Join(dir, name), maxSidecar)
		if isMissing(err) {
			continue // cleaned up meanwhile
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, uploadPart{path.Join(dir, strings.TrimSuffix(name, extentSuffix)), id, parseSidecar(b)})
	}
	slices.SortFunc(parts, func(a, b uploadPart) int { return b.id.compare(a.id) })
	return parts, nil
}

// parsePartFile reads the name of a sidecar: <number>-<incarnation>[_<k>].ext.
func parsePartFile(name string) (int64, segmentID, bool) {
	base, ok := strings.CutSuffix(name, extentSuffix)
	if !ok {
		return 0, segmentID{}, false
	}
	text, rest, ok := strings.Cut(base, "-")
	if !ok {
		return 0, segmentID{}, false
	}
	number, err := strconv.ParseInt(text, 10, 64)
	if err != nil || number < 0 || strconv.FormatInt(number, 10) != text {
		return 0, segmentID{}, false
	}
	id, ok := parsePartName(rest)
	return number, id, ok
}

// UploadCoverage returns which of an upload's stored bytes are durable on any
// node, and whether it has its name; then nothing may be left of the parts. It
// reads the bytes back, because a sidecar alone proves nothing after a crash.
func (s *Store) UploadCoverage(ctx context.Context, key UploadKey) (covered Intervals, finished bool, err error) {
	if err := key.check(); err != nil {
		return nil, false, err
	}
	parts, err := listParts(ctx, s, key)
	if err != nil {
		return nil, false, fmt.Errorf("coverage of %s: %w", key, err)
	}
	for _, p := range parts {
		finished = finished || p.sidecar.finished
	}
	if finished {
		return nil, true, nil
	}
	for _, p := range parts {
		good, err := p.verified(ctx, s)
		if err != nil {
			return nil, false, fmt.Errorf("coverage of %s: %w", key, err)
		}
		covered.Union(good)
	}
	return covered, false, nil
}

// verified returns the extents whose bytes have their checksums.
func (p uploadPart) verified(ctx context.Context, s *Store) (good Intervals, err error) {
	h, err := s.OpenFile(ctx, p.path)
	if isMissing(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer h.discard(ctx)
	for _, r := range slices.Backward(p.sidecar.extents) {
		if good.Has(r.offset, r.end()) {
			continue
		}
		piece, err := readPiece(ctx, h, r)
		if err != nil {
			return nil, err
		}
		if piece != nil {
			good.Add(r.offset, r.end())
		}
	}
	return good, nil
}

// readPiece returns the bytes of an extent, or nil if they are not there as
// they were written.
func readPiece(ctx context.Context, h *Handle, r uploadRecord) ([]byte, error) {
	buf := make([]byte, r.length)
	n, err := h.ReadAt(ctx, buf, r.offset)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if int64(n) < r.length || crc32.Checksum(buf, castagnoli) != r.crc {
		return nil, nil
	}
	return buf, nil
}

// CleanUploads removes what finished and broken-off uploads of a flow left
// below .parts. For flows that have ended only; a missing folder is no error.
func (c *Committer) CleanUploads(ctx context.Context, org ids.Org, client ids.Client, flow ids.Flow) error {
	if client.IsZero() || flow.IsZero() {
		return fmt.Errorf("clean uploads of %q %q: %w", client, flow, ErrBadAppend)
	}
	dir := path.Join(FlowUploadsDir(org, client, flow), partsName)
	c.Forget(ctx, dir)
	if err := c.store.RemoveAll(ctx, dir); err != nil && !errors.Is(err, ErrAbandoned) {
		return fmt.Errorf("clean uploads of %s %s: %w", client, flow, err)
	} else if err != nil {
		return err
	}
	return nil
}
