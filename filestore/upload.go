package filestore

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"path"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/ids"
)

// UploadKey names one upload of a flow.
type UploadKey struct {
	Org    ids.Org
	Client ids.Client
	Flow   ids.Flow
	Number int64 // unique in the flow, from 0
}

// String prints the key for logs.
func (k UploadKey) String() string {
	return fmt.Sprintf("%s %s upload %d", k.Client, k.Flow, k.Number)
}

// UploadWrite is a piece of an upload: Data belongs at Offset of the stored
// bytes. The same piece may come again; other bytes at a place win over those
// before. At most MaxUploadWrite bytes.
type UploadWrite struct {
	Key    UploadKey
	Offset int64
	Data   []byte
}

const (
	// MaxUploadWrite bounds one UploadWrite, in bytes.
	MaxUploadWrite = 16 << 20

	// MaxUploadBytes bounds the stored and the expanded size of an upload.
	MaxUploadBytes = 16 << 40

	partsName    = ".parts"
	extentSuffix = ".ext"

	// uploadsPerDir is how many uploads share a directory below .parts.
	uploadsPerDir = 256
)

func (w *UploadWrite) check() error {
	if err := w.Key.check(); err != nil {
		return err
	}
	size := int64(len(w.Data))
	if w.Offset < 0 || size == 0 || size > MaxUploadWrite || w.Offset > MaxUploadBytes-size {
		return fmt.Errorf("%s: %d bytes at %d: %w", w.Key, size, w.Offset, ErrBadAppend)
	}
	return nil
}

func (k UploadKey) check() error {
	if k.Client.IsZero() || k.Flow.IsZero() || k.Number < 0 {
		return fmt.Errorf("upload key %q: %w", k.String(), ErrBadAppend)
	}
	return nil
}

// partsDir is where the parts of the upload lie: .parts, and below it a folder
// for every further 256 uploads, so that none grows without bound.
func (k UploadKey) partsDir() string {
	dir := path.Join(FlowUploadsDir(k.Org, k.Client, k.Flow), partsName)
	if bucket := k.Number / uploadsPerDir; bucket > 0 {
		dir = path.Join(dir, "b"+strconv.FormatInt(bucket, 10))
	}
	return dir
}

func (k UploadKey) partPath(incarnation string, part int) string {
	return path.Join(k.partsDir(), strconv.FormatInt(k.Number, 10)+"-"+partName(incarnation, part))
}

// upload is this incarnation's part of an upload: bytes at their offsets, and a
// sidecar that says which are there.
type upload struct {
	key       UploadKey
	finishing atomic.Bool // FinishUpload has it, and may keep it for long

	part     int
	began    bool // the part's files were made
	data     *Handle
	ext      *Handle
	dataSize int64
	extSize  int64

	covered Intervals      // durable in this part
	recent  []uploadRecord // the last ones, to know a resent piece by
	hash    hash.Hash      // SHA-256 of [0, hashed), or nil
	hashed  int64

	finished *StoredUpload // linked to its name; nothing is written any more
	location int           // which name it got
}

// maxRecent is how many pieces are remembered: what a client that had no answer
// sends again fits one request.
const maxRecent = 32

// isOpen implements fileState.
func (u *upload) isOpen() bool { return u.data != nil || u.ext != nil }

func (u *upload) close(ctx context.Context) {
	for _, h := range []*Handle{u.data, u.ext} {
		if h != nil {
			h.discard(ctx) // what was acknowledged is synced
		}
	}
	u.data, u.ext = nil, nil
}

// leave ends a part for good: valid to its last good sync, never written again.
// FinishUpload takes its bytes from there.
func (u *upload) leave(ctx context.Context) {
	u.close(ctx)
	u.part++
	u.began, u.dataSize, u.extSize = false, 0, 0
	u.covered, u.recent, u.hash, u.hashed = nil, nil, nil, 0
}

// has reports whether exactly these bytes were the last ones stored at their
// place.
func (u *upload) has(r uploadRecord) bool {
	return slices.ContainsFunc(u.recent, r.same)
}

// remember notes a stored piece and forgets those that it touches.
func (u *upload) remember(r uploadRecord) {
	keep := u.recent[:0]
	for _, old := range u.recent {
		if old.end() <= r.offset || r.end() <= old.offset {
			keep = append(keep, old)
		}
	}
	if len(keep) >= maxRecent {
		keep = append(keep[:0], keep[1:]...)
	}
	u.recent = append(keep, r)
}

// digest takes a written piece into the running hash if it comes in order.
// Pieces beyond are read back at the end; other bytes at an earlier place mean
// that the hash begins anew.
func (u *upload) digest(offset int64, data []byte) {
	switch {
	case offset == 0:
		u.hash, u.hashed = sha256.New(), 0
	case offset < u.hashed:
		u.hash, u.hashed = nil, 0
		return
	case u.hash == nil || offset > u.hashed:
		return
	}
	u.hash.Write(data)
	u.hashed += int64(len(data))
}

// uploadTask is a round's share of one upload.
type uploadTask struct {
	c       *Committer
	key     UploadKey
	entry   *fileEntry[UploadKey, *upload]
	records []uploadRecord
	fresh   bool
	wrote   bool
}

func (t *uploadTask) acquire(ctx context.Context) (err error) {
	if u, ok := t.c.uploads.peek(t.key); ok && u.finishing.Load() {
		return fmt.Errorf("%s: %w: %w", t.key, errNotHeld, errFinishing)
	}
	if t.entry, err = t.c.uploads.acquire(ctx, t.key); err != nil {
		return fmt.Errorf("%w: %w", errNotHeld, err)
	}
	return nil
}

func (t *uploadTask) release() { t.c.uploads.release(t.entry) }

// write puts each piece in its place and the extents behind the sidecar's end.
// Nothing is buffered: a piece goes from the caller's memory to the file.
func (t *uploadTask) write(ctx context.Context, r *round, f *fileTask) error {
	u := t.entry.value
	if u.finished != nil {
		t.c.metrics.lateUploads.Inc() // resent after the end: it is stored, whole
		return nil
	}
	if err := t.open(ctx, r, f); err != nil {
		return err
	}
	for k, ticket := range f.tickets {
		w := &ticket.commit.Uploads[f.places[k]]
		record := uploadRecord{w.Offset, int64(len(w.Data)), crc32.Checksum(w.Data, castagnoli), time.Now().UnixMicro()}
		if u.has(record) {
			continue
		}
		_, err := u.data.WriteAt(ctx, w.Data, w.Offset)
		t.wrote = t.wrote || err == nil || u.data.Err() != nil
		if err != nil {
			return err
		}
		u.remember(record)
		u.digest(w.Offset, w.Data)
		u.dataSize = max(u.dataSize, record.end())
		t.records = append(t.records, record)
	}
	return t.writeRecords(ctx, u)
}

func (t *uploadTask) writeRecords(ctx context.Context, u *upload) error {
	if len(t.records) == 0 {
		return nil
	}
	_, err := u.ext.WriteAt(ctx, encodeRecords(t.records), u.extSize)
	return err
}

// open makes sure that both files are open.
func (t *uploadTask) open(ctx context.Context, r *round, f *fileTask) error {
	u := t.entry.value
	if u.isOpen() {
		return nil
	}
	if u.began {
		err := u.reopen(ctx, t.c)
		if err == nil {
			return nil
		}
		t.c.log.WarnContext(ctx, "upload part cannot be continued", "path", u.key.partPath(t.c.o.Incarnation, u.part), "err", err)
		u.leave(ctx)
	}
	err := u.create(ctx, t.c, func(name string) (*Handle, error) { return r.create(ctx, f, name) })
	t.fresh = err == nil
	return err
}

// reopen continues a part that was closed for want of use.
func (u *upload) reopen(ctx context.Context, c *Committer) error {
	name := u.key.partPath(c.o.Incarnation, u.part)
	ext, err := c.store.OpenWrite(ctx, name+extentSuffix)
	if err != nil {
		return err
	}
	data, err := c.store.OpenWrite(ctx, name)
	if err != nil {
		ext.discard(ctx)
		return err
	}
	u.data, u.ext = data, ext
	for h, size := range map[*Handle]int64{data: u.dataSize, ext: u.extSize} {
		info, err := h.Stat(ctx)
		if err == nil && info.Size() != size {
			err = fmt.Errorf("%s has %d bytes, not %d: %w", h.Path(), info.Size(), size, ErrDamaged)
		}
		if err != nil {
			u.close(ctx)
			return err
		}
	}
	return nil
}

// create makes the part's two files; the sidecar first, because it outlives the
// data and so shows that a part's number is used.
func (u *upload) create(ctx context.Context, c *Committer, create func(string) (*Handle, error)) error {
	name := u.key.partPath(c.o.Incarnation, u.part)
	ext, err := create(name + extentSuffix)
	if errors.Is(err, ErrExists) { // made before the cache forgot it
		if u.part, err = u.nextPart(ctx, c); err != nil {
			return err
		}
		name = u.key.partPath(c.o.Incarnation, u.part)
		ext, err = create(name + extentSuffix)
	}
	if err != nil {
		return err
	}
	data, err := create(name)
	if err != nil {
		ext.discard(ctx)
		c.removeUseless(ctx, name+extentSuffix)
		u.part++
		return err
	}
	u.data, u.ext, u.began = data, ext, true
	return nil
}

func (u *upload) nextPart(ctx context.Context, c *Committer) (int, error) {
	parts, err := listParts(ctx, c.store, u.key)
	if err != nil {
		return 0, err
	}
	next := u.part + 1
	for _, p := range parts {
		if p.id.incarnation() == c.o.Incarnation {
			next = max(next, p.id.part+1)
		}
	}
	return next, nil
}

func (t *uploadTask) sync(ctx context.Context) error {
	u := t.entry.value
	if len(t.records) == 0 {
		return nil
	}
	return u.sync(ctx)
}

// sync makes bytes and extents durable. Their order does not matter: an extent
// counts only where the bytes have its checksum.
func (u *upload) sync(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return u.data.Sync(ctx) })
	g.Go(func() error { return u.ext.Sync(ctx) })
	return g.Wait()
}

func (t *uploadTask) conclude(ctx context.Context, err error) {
	u := t.entry.value
	if err == nil {
		u.stored(t.records)
		for _, r := range t.records {
			t.c.metrics.uploadBytes.Add(float64(r.length))
		}
		return
	}
	if !u.isOpen() || !t.fresh && !t.wrote {
		return // as it was
	}
	t.c.metrics.finished.WithLabelValues("upload").Inc()
	t.c.log.WarnContext(ctx, "upload part finished after an error", "path", u.data.Path(), "bytes", u.covered.Len(), "err", err)
	name, useless := u.data.Path(), len(u.covered) == 0
	u.leave(ctx)
	if useless {
		t.c.removeUseless(ctx, name)
		t.c.removeUseless(ctx, name+extentSuffix)
	}
}

func (u *upload) stored(records []uploadRecord) {
	for _, r := range records {
		u.covered.Add(r.offset, r.end())
	}
	u.extSize += int64(len(records)) * recordSize
}

// uploadRecord is an extent of an upload, or its end, as the sidecar keeps it.
type uploadRecord struct {
	offset int64
	length int64
	crc    uint32 // CRC-32C of the bytes
	at     int64  // unix microseconds by the clock of who took the bytes; 0: an earlier version
}

func (r uploadRecord) end() int64 { return r.offset + r.length }

// same reports whether two extents are the same bytes at the same place.
func (r uploadRecord) same(s uploadRecord) bool {
	return r.offset == s.offset && r.length == s.length && r.crc == s.crc
}

const (
	recordSize     = 64
	recordVersion  = 1
	recordExtent   = 1
	recordFinished = 2
)

// conflictMark stands beside the kind of name of an upload of which other bytes
// came before.
const conflictMark = 1 << 8

// A record is "RU", version, kind; CRC (4); offset (8); length (8); of an extent
// the time it came (8) and 24 of 0, else SHA-256 (32); 0 (4); CRC-32C of the 60
// bytes before. All little-endian. In the last record of an upload that has its
// name, offset is the logical size, length the stored one, CRC the kind of name and
// conflictMark.
func appendRecord(dst []byte, kind byte, r uploadRecord, sum [sha256.Size]byte) []byte {
	at := len(dst)
	dst = append(dst, 'R', 'U', recordVersion, kind)
	dst = binary.LittleEndian.AppendUint32(dst, r.crc)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.offset))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.length))
	dst = append(dst, sum[:]...)
	dst = append(dst, 0, 0, 0, 0)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[at:], castagnoli))
}

func encodeRecords(records []uploadRecord) []byte {
	out := make([]byte, 0, len(records)*recordSize)
	for _, r := range records {
		var came [sha256.Size]byte
		binary.LittleEndian.PutUint64(came[:], uint64(r.at))
		out = appendRecord(out, recordExtent, r, came)
	}
	return out
}

// sidecar is a sidecar's valid prefix, read.
type sidecar struct {
	extents  []uploadRecord
	finished bool
	last     uploadRecord // of a finished one
	sum      [sha256.Size]byte
}

// parseSidecar reads records up to the first that does not hold.
func parseSidecar(b []byte) sidecar {
	var s sidecar
	for ; len(b) >= recordSize; b = b[recordSize:] {
		if string(b[:3]) != "RU\x01" || binary.LittleEndian.Uint32(b[60:]) != crc32.Checksum(b[:60], castagnoli) {
			break
		}
		r := uploadRecord{
			crc:    binary.LittleEndian.Uint32(b[4:]),
			offset: int64(binary.LittleEndian.Uint64(b[8:])),
			length: int64(binary.LittleEndian.Uint64(b[16:])),
		}
		if r.offset < 0 || r.length < 0 || r.offset > MaxUploadBytes || r.length > MaxUploadBytes {
			break
		}
		switch b[3] {
		case recordExtent:
			if r.length == 0 || r.length > MaxUploadWrite {
				return s
			}
			r.at = int64(binary.LittleEndian.Uint64(b[24:]))
			s.extents = append(s.extents, r)
		case recordFinished:
			s.finished, s.last = true, r
			copy(s.sum[:], b[24:56])
			return s
		default:
			return s
		}
	}
	return s
}
