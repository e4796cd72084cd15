package filestore

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"sort"
	"strings"
)

// ErrBadIndex means that the index of a sparse upload contradicts itself or
// claims too much. Trying again does not help.
var ErrBadIndex = errors.New("sparse index is malformed")

const (
	indexSuffix = ".idx"

	// MaxRanges bounds the index of a sparse upload.
	MaxRanges = 1 << 20

	maxIndexFile = 128 << 20
)

// Range is a run of a sparse file. FileLength is 0 for a run that is not
// stored and reads as zeros, else equal to Length. The names are those of the
// index files that analysts know.
type Range struct {
	FileOffset     int64 // in the stored bytes
	OriginalOffset int64 // in the file as its client has it
	FileLength     int64
	Length         int64
}

// uploadIndex is the document beside an upload: <name>.idx.
type uploadIndex struct {
	Size       int64    `json:"size"`
	StoredSize int64    `json:"stored_size"`
	Accessor   string   `json:"accessor,omitempty"`
	Components []string `json:"components,omitempty"`
	Ranges     []Range  `json:"ranges"`
}

func (x uploadIndex) encode() ([]byte, error) {
	data, err := json.Marshal(x)
	if err != nil {
		return nil, fmt.Errorf("encode index: %w", err)
	}
	return append(data, '\n'), nil
}

// checkIndex holds an index against the sizes: sorted, nothing overlaps, stored
// runs follow each other in the stored bytes and are all of them.
func checkIndex(ranges []Range, size, stored int64) error {
	if len(ranges) > MaxRanges {
		return fmt.Errorf("%d ranges: %w", len(ranges), ErrBadIndex)
	}
	var original, file int64
	for i, r := range ranges {
		ok := r.OriginalOffset >= original && r.Length >= 0 && r.Length <= MaxUploadBytes &&
			r.OriginalOffset <= MaxUploadBytes-r.Length && (r.FileLength == 0 || r.FileLength == r.Length)
		if r.FileLength > 0 {
			ok = ok && r.FileOffset == file
		}
		if !ok {
			return fmt.Errorf("range %d: %+v: %w", i, r, ErrBadIndex)
		}
		original = r.OriginalOffset + r.Length
		file += r.FileLength
		if file > stored || original > size {
			return fmt.Errorf("range %d ends at %d of %d, stored %d of %d: %w", i, original, size, file, stored, ErrBadIndex)
		}
	}
	if file != stored {
		return fmt.Errorf("ranges have %d bytes, stored are %d: %w", file, stored, ErrBadIndex)
	}
	return nil
}

// UploadFile is a stored upload, open for reading. Close ends it. Safe for
// concurrent use.
type UploadFile struct {
	h      *Handle
	stored int64
	size   int64
	ranges []Range // only those stored; empty and sparse false: the file is whole
	sparse bool
}

// OpenUpload opens an upload by its StoredUpload.Path. A path that is none of
// an upload is ErrBadName, a missing file fs.ErrNotExist, an index that does not
// fit the bytes ErrBadIndex.
func (s *Store) OpenUpload(ctx context.Context, name string) (*UploadFile, error) {
	if !isUploadPath(name) {
		return nil, fmt.Errorf("open upload %.200q: %w", name, ErrBadName)
	}
	h, err := s.OpenFile(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("open upload: %w", err)
	}
	u, err := s.describeUpload(ctx, h, name)
	if err != nil {
		h.discard(ctx)
		return nil, fmt.Errorf("open upload %s: %w", name, err)
	}
	return u, nil
}

// isUploadPath keeps callers that got a path from outside within the uploads.
func isUploadPath(name string) bool {
	if !fs.ValidPath(name) || strings.HasSuffix(name, indexSuffix) {
		return false
	}
	parts := strings.Split(name, "/")
	if len(parts) > 2 && parts[0] == "orgs" {
		parts = parts[2:]
	}
	if len(parts) < 8 || parts[0] != "clients" || parts[4] != "uploads" {
		return false
	}
	for _, part := range parts {
		if strings.HasPrefix(part, ".") {
			return false
		}
	}
	return path.Clean(name) == name
}

func (s *Store) describeUpload(ctx context.Context, h *Handle, name string) (*UploadFile, error) {
	info, err := h.Stat(ctx)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		return nil, fs.ErrNotExist
	}
	u := &UploadFile{h: h, stored: info.Size(), size: info.Size()}
	data, err := s.ReadFile(ctx, name+indexSuffix, maxIndexFile)
	if isMissing(err) {
		return u, nil
	}
	if err != nil {
		return nil, err
	}
	var doc uploadIndex
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrBadIndex, err)
	}
	if doc.StoredSize != u.stored || doc.Size < 0 || doc.Size > MaxUploadBytes {
		return nil, fmt.Errorf("index of %d bytes for a file of %d: %w", doc.StoredSize, u.stored, ErrBadIndex)
	}
	if len(doc.Ranges) == 0 {
		return u, nil
	}
	if err := checkIndex(doc.Ranges, doc.Size, doc.StoredSize); err != nil {
		return nil, err
	}
	u.size, u.sparse = doc.Size, true
	for _, r := range doc.Ranges {
		if r.FileLength > 0 {
			u.ranges = append(u.ranges, r)
		}
	}
	return u, nil
}

// StoredSize is the number of stored bytes.
func (u *UploadFile) StoredSize() int64 { return u.stored }

// Size is the number of bytes with sparse runs as zeros. It is the client's
// claim, at most MaxUploadBytes: whoever expands must have a bound of his own.
func (u *UploadFile) Size() int64 { return u.size }

// Sparse reports whether stored and expanded bytes differ.
func (u *UploadFile) Sparse() bool { return u.sparse }

// Close closes the file.
func (u *UploadFile) Close(ctx context.Context) error { return u.h.Close(ctx) }

// Stored reads the stored bytes until ctx ends.
func (u *UploadFile) Stored(ctx context.Context) *io.SectionReader {
	return io.NewSectionReader(readerFunc(func(p []byte, off int64) (int, error) {
		return u.h.ReadAt(ctx, p, off)
	}), 0, u.stored)
}

// Expanded reads the file as its client has it, sparse runs as zeros, until ctx
// ends. Nothing is kept in memory.
func (u *UploadFile) Expanded(ctx context.Context) *io.SectionReader {
	if !u.sparse {
		return u.Stored(ctx)
	}
	return io.NewSectionReader(readerFunc(func(p []byte, off int64) (int, error) {
		return u.readExpanded(ctx, p, off)
	}), 0, u.size)
}

func (u *UploadFile) readExpanded(ctx context.Context, p []byte, off int64) (int, error) {
	if off >= u.size {
		return 0, io.EOF
	}
	short := int64(len(p)) > u.size-off
	p = p[:min(int64(len(p)), u.size-off)]
	clear(p)
	at := sort.Search(len(u.ranges), func(i int) bool { return u.ranges[i].OriginalOffset+u.ranges[i].Length > off })
	for _, r := range u.ranges[at:] {
		from := max(r.OriginalOffset, off)
		to := min(r.OriginalOffset+r.Length, off+int64(len(p)))
		if from >= to {
			break
		}
		n, err := u.h.ReadAt(ctx, p[from-off:to-off], r.FileOffset+from-r.OriginalOffset)
		if int64(n) < to-from {
			if err == nil || errors.Is(err, io.EOF) {
				err = fmt.Errorf("upload ends early: %w", ErrDamaged)
			}
			return int(from-off) + n, err
		}
	}
	if short {
		return len(p), io.EOF
	}
	return len(p), nil
}

// readerFunc makes an io.ReaderAt of a function.
type readerFunc func(p []byte, off int64) (int, error)

// ReadAt implements io.ReaderAt.
func (f readerFunc) ReadAt(p []byte, off int64) (int, error) { return f(p, off) }
