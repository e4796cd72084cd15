package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"raptorpack/vql"
)

// rangedAccessor shows an uploaded sparse file as it was: the file holds the parts
// with data one after the other, and NAME.idx beside it says where they belong. A
// file without such an index is shown as it is.
type rangedAccessor struct{}

func (rangedAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(hostSyntax(), text), nil
}

// maxRangedIndex bounds an index, in bytes.
const maxRangedIndex = 64 << 20

// rangedPart is a part of the file as the index lists it.
type rangedPart struct {
	FileOffset     int64 `json:"file_offset"`
	OriginalOffset int64 `json:"original_offset"`
	FileLength     int64 `json:"file_length"` // 0 for a hole
	Length         int64 `json:"length"`
}

// base is the file that a path means and the accessor that opens it.
func (rangedAccessor) base(scope *vql.Scope, path *vql.Path) (vql.Accessor, *vql.Path, error) {
	if path.HasDelegate() {
		return scope.Delegate(path)
	}
	return resolve(scope, "auto", path)
}

func (a rangedAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	accessor, base, err := a.base(scope, path)
	if err != nil {
		return nil, err
	}
	info, err := accessor.Lstat(ctx, scope, base)
	if err != nil || info.IsDir() {
		return info, err
	}
	opened, err := lstatByOpening(ctx, scope, a, path)
	if err != nil {
		return nil, err
	}
	return &plainInfo{name: info.Name(), path: path, size: opened.Size(), mode: info.Mode(), mtime: info.Mtime()}, nil
}

func (a rangedAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	accessor, base, err := a.base(scope, path)
	if err != nil {
		return nil, err
	}
	return accessor.ReadDir(ctx, scope, base)
}

func (a rangedAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	accessor, base, err := a.base(scope, path)
	if err != nil {
		return nil, err
	}
	parts, err := readRanged(ctx, scope, accessor, base)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read the index of %s: %w", shown(path), err)
	}
	file, openErr := accessor.Open(ctx, scope, base)
	if openErr != nil || err != nil {
		return file, openErr
	}
	ranged, err := newRanged(file, parts)
	if err != nil {
		_ = file.Close() // opened for reading only: nothing to lose
		return nil, fmt.Errorf("open %s: %w", shown(path), err)
	}
	return ranged, nil
}

func readRanged(ctx context.Context, scope *vql.Scope, a vql.Accessor, base *vql.Path) ([]rangedPart, error) {
	path := beside(base, ".idx")
	if path == nil {
		return nil, fs.ErrNotExist
	}
	file, err := a.Open(ctx, scope, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := readUpTo(ctx, scope, file, maxRangedIndex+1)
	if err != nil {
		return nil, err
	}
	if len(data) > maxRangedIndex {
		return nil, fmt.Errorf("it exceeds %d bytes", maxRangedIndex)
	}
	var index struct {
		Ranges []rangedPart `json:"ranges"`
	}
	err = json.Unmarshal(data, &index)
	return index.Ranges, err
}

// newRanged puts the parts of a file where they belong.
func newRanged(file vql.ReadSeekCloser, parts []rangedPart) (vql.ReadSeekCloser, error) {
	var ranges []vql.Range
	var places []int64 // in the file, of each range
	at := int64(0)
	add := func(r vql.Range, place int64) {
		if r.Length > 0 {
			ranges, places, at = append(ranges, r), append(places, place), r.Offset+r.Length
		}
	}
	for _, p := range parts {
		if p.OriginalOffset < at || p.Length < 0 || p.FileOffset < 0 || p.FileLength < 0 || p.FileLength > p.Length || p.OriginalOffset+p.Length < p.OriginalOffset {
			return nil, fmt.Errorf("the part at %d of the index is out of order: %w", p.OriginalOffset, fs.ErrInvalid)
		}
		add(vql.Range{Offset: at, Length: p.OriginalOffset - at, Sparse: true}, 0)
		add(vql.Range{Offset: p.OriginalOffset, Length: p.FileLength}, p.FileOffset)
		add(vql.Range{Offset: p.OriginalOffset + p.FileLength, Length: p.Length - p.FileLength, Sparse: true}, 0)
	}
	out := &rangedFile{ranges: ranges, closer: file}
	out.readAt = func(p []byte, offset int64) (int, error) {
		place := places[out.hint] + offset - ranges[out.hint].Offset
		if _, err := file.Seek(place, io.SeekStart); err != nil {
			return 0, err
		}
		return file.Read(p)
	}
	return out, nil
}
