package collector

import (
	"context"
	"crypto/md5" //nolint:gosec // operators compare uploads by it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"raptorpack/container"
	"raptorpack/vql"
)

// Upload implements vql.Uploader. A file is stored once; who asks again gets the
// first answer.
func (b *Bundle) Upload(ctx context.Context, _ *vql.Scope, r vql.UploadRequest) (*vql.UploadResult, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	stored := r.StoreAs
	if stored == nil {
		stored = r.Path
	}
	accessor := r.Accessor
	if accessor == "" {
		accessor = "auto"
	}
	key := strings.Join([]string{accessor, r.Path.String(), stored.String()}, "\x00")
	if earlier := b.uploads[key]; earlier != nil {
		return earlier, nil
	}
	components := stored.Components()
	if len(components) == 0 {
		components = []string{stored.String()}
	}
	result := &vql.UploadResult{
		Path: r.Path.String(), Size: r.Size, Accessor: accessor, Components: components, UploadID: int64(len(b.uploads)),
	}
	result.StoredName = b.freeName(container.UploadPath(accessor, components))
	if err := b.keep(ctx, r, result); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		result.Error = err.Error()
	}
	b.uploads[key] = result
	return result, b.list(r, result)
}

// freeName makes a name unique.
func (b *Bundle) freeName(name string) string {
	free := name
	for i := 1; b.taken[free] || b.taken[free+container.IndexEnding]; i++ {
		free = fmt.Sprintf("%s~%d", name, i)
	}
	b.taken[free] = true
	return free
}

// keep stores the bytes, of a sparse file only those that are there, and hashes
// them. What could be read before an error stays.
func (b *Bundle) keep(ctx context.Context, r vql.UploadRequest, result *vql.UploadResult) error {
	var broke error
	err := b.member(result.StoredName, r.Mtime, func(out io.Writer) error {
		broke = b.copyTo(ctx, out, r, result)
		return nil // told of the upload; the bundle is fine
	})
	return errors.Join(broke, err)
}

func (b *Bundle) copyTo(ctx context.Context, out io.Writer, r vql.UploadRequest, result *vql.UploadResult) (err error) {
	sum, sum5 := sha256.New(), md5.New() //nolint:gosec // see import
	w := io.MultiWriter(out, sum, sum5)
	source := contextReader{ctx, r.Reader}
	seeker, canSeek := r.Reader.(io.Seeker)
	if sparse(r.Ranges) && canSeek {
		result.Size, err = b.keepRuns(w, source, seeker, r, result)
	} else {
		result.StoredSize, err = io.Copy(w, source)
		result.Size = result.StoredSize
	}
	result.SHA256, result.MD5 = hex.EncodeToString(sum.Sum(nil)), hex.EncodeToString(sum5.Sum(nil))
	return err
}

func sparse(ranges []vql.Range) bool {
	for _, r := range ranges {
		if r.Sparse {
			return true
		}
	}
	return false
}

// indexRange is a run in an index file, by the names that analysts know.
type indexRange struct {
	FileOffset     int64 `json:"file_offset"`
	OriginalOffset int64 `json:"original_offset"`
	FileLength     int64 `json:"file_length"`
	Length         int64 `json:"length"`
}

func (b *Bundle) keepRuns(w io.Writer, source io.Reader, seeker io.Seeker, r vql.UploadRequest, result *vql.UploadResult) (size int64, err error) {
	var index []indexRange
	for _, run := range r.Ranges {
		one := indexRange{FileOffset: result.StoredSize, OriginalOffset: run.Offset, Length: run.Length}
		if !run.Sparse {
			if _, err := seeker.Seek(run.Offset, io.SeekStart); err != nil {
				return size, err
			}
			n, err := io.CopyN(w, source, run.Length)
			result.StoredSize += n
			one.FileLength = n
			if err != nil && !errors.Is(err, io.EOF) {
				return size, err
			}
		}
		size = max(size, run.Offset+run.Length)
		index = append(index, one)
	}
	text, err := json.Marshal(map[string]any{"ranges": index})
	if err != nil {
		return size, err
	}
	name := result.StoredName + container.IndexEnding
	b.taken[name] = true
	file, err := b.grow(container.Member{Path: name, Kind: container.KindIndex})
	if err != nil {
		return size, err
	}
	_, err = file.Write(append(text, '\n'))
	return size, err
}

// member writes the place of an upload.
func (b *Bundle) member(name string, modified time.Time, write func(io.Writer) error) error {
	if b.zip != nil {
		_, err := b.zip.Member(container.Member{Path: name, Kind: container.KindFile}, modified, write)
		return err
	}
	full := filepath.Join(b.dir, filepath.FromSlash(name))
	file, err := create(full)
	if err != nil {
		return err
	}
	if err := errors.Join(write(file), file.Close()); err != nil || modified.IsZero() {
		return err
	}
	return os.Chtimes(full, modified, modified)
}

// list notes an upload; b.mu is held.
func (b *Bundle) list(r vql.UploadRequest, u *vql.UploadResult) error {
	text, err := json.Marshal(container.Upload{
		Number: u.UploadID, Source: u.Path, Accessor: u.Accessor, Components: u.Components, Size: u.Size, StoredSize: u.StoredSize,
		SHA256: u.SHA256, MD5: u.MD5, Sparse: b.taken[u.StoredName+container.IndexEnding], Error: u.Error, Member: u.StoredName,
		MTime: stamp(r.Mtime), CTime: stamp(r.Ctime), BTime: stamp(r.Btime),
	})
	if err != nil {
		return err
	}
	file, err := b.grow(container.Member{Path: container.UploadsName, Kind: container.KindUploads})
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	return err
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339Nano)
}
