package main

import (
	"archive/zip"
	"bufio"
	"context"
	"crypto/md5" //nolint:gosec // operators compare uploads by it
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/vql"
)

// bundle is the result of a local collection: a folder, or a zip that gets its
// name when it is whole.
//
//	collection.json                        what was run, when, and how it went
//	results/<Artifact>/<Source>.jsonl|csv  rows
//	logs.jsonl                             the queries' log
//	uploads.jsonl                          the files that were taken, with their hashes
//	uploads/<accessor>/<path>              and their bytes; .idx tells the runs of a sparse one
//
// It is a vql.Uploader. Rows are kept in files at once; a zip is packed from
// them at the end, except for uploads, which go into it as they come.
type bundle struct {
	output string
	dir    string   // where files grow: the folder itself, or a scratch one
	zipped *os.File // nil for a folder
	zip    *zip.Writer

	mu      sync.Mutex
	files   map[string]*os.File // growing files by their name in the bundle
	names   []string            // in the order of their making
	uploads map[string]*vql.UploadResult
	taken   map[string]bool // names of uploads
}

func newBundle(output string) (*bundle, error) {
	b := &bundle{output: output, dir: output, files: map[string]*os.File{}, uploads: map[string]*vql.UploadResult{}, taken: map[string]bool{}}
	if _, err := os.Lstat(output); !errors.Is(err, fs.ErrNotExist) {
		return nil, usage("%s exists already", output)
	}
	var err error
	if !strings.HasSuffix(strings.ToLower(output), ".zip") {
		if err = os.MkdirAll(output, 0o700); err != nil {
			return nil, fmt.Errorf("make output folder: %w", err)
		}
		return b, nil
	}
	if b.dir, err = os.MkdirTemp("", "raptorpack-collect-"); err != nil {
		return nil, fmt.Errorf("make scratch folder: %w", err)
	}
	if b.zipped, err = os.OpenFile(output+".partial", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("make output file: %w", err), os.RemoveAll(b.dir))
	}
	b.zip = zip.NewWriter(b.zipped)
	return b, nil
}

// line adds a line to a growing file.
func (b *bundle) line(name string, text []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	file, err := b.grow(name)
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	return err
}

// rows begins the file of a result, so that one without rows is there too.
func (b *bundle) rows(result string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.grow(resultFile(result))
	return err
}

// resultFile is where a result's rows lie in a bundle.
func resultFile(result string) string {
	artifact, source, named := strings.Cut(result, "/")
	name := path.Join("results", filestore.EscapeName(artifact))
	if named {
		name = path.Join(name, filestore.EscapeName(source))
	}
	return name + ".jsonl"
}

func (b *bundle) grow(name string) (*os.File, error) {
	if file := b.files[name]; file != nil {
		return file, nil
	}
	file, err := create(filepath.Join(b.dir, filepath.FromSlash(name)))
	if err != nil {
		return nil, err
	}
	b.files[name] = file
	b.names = append(b.names, name)
	return file, nil
}

func create(name string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// Upload implements vql.Uploader. A file is stored once; who asks again gets the
// first answer.
func (b *bundle) Upload(ctx context.Context, _ *vql.Scope, r vql.UploadRequest) (*vql.UploadResult, error) {
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
	result := &vql.UploadResult{
		Path: r.Path.String(), Size: r.Size, Accessor: accessor, Components: stored.Components(), UploadID: int64(len(b.uploads)),
	}
	result.StoredName = b.freeName(accessor, stored)
	if err := b.keep(ctx, r, result); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		result.Error = err.Error()
	}
	b.uploads[key] = result
	return result, b.manifest(r, result)
}

// freeName escapes a client's path, so that it cannot leave the bundle, and makes
// it unique.
func (b *bundle) freeName(accessor string, stored *vql.Path) string {
	parts := []string{"uploads", filestore.EscapeName(accessor)}
	for _, component := range stored.Components() {
		parts = append(parts, filestore.EscapeName(component))
	}
	if stored.Len() == 0 {
		parts = append(parts, filestore.EscapeName(stored.String()))
	}
	name := path.Join(parts...)
	free := name
	for i := 1; b.taken[free] || b.taken[free+".idx"]; i++ {
		free = fmt.Sprintf("%s~%d", name, i)
	}
	b.taken[free] = true
	return free
}

// keep stores the bytes, of a sparse file only those that are there, and hashes
// them.
func (b *bundle) keep(ctx context.Context, r vql.UploadRequest, result *vql.UploadResult) (err error) {
	out, done, err := b.member(result.StoredName, r.Mtime)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, done()) }()
	sum, sum5 := sha256.New(), md5.New() //nolint:gosec // see import
	w := io.MultiWriter(out, sum, sum5)
	source := contextReader{ctx, r.Reader}
	seeker, canSeek := r.Reader.(io.Seeker)
	var total int64
	if sparse(r.Ranges) && canSeek {
		total, err = b.keepRuns(w, source, seeker, r, result)
	} else {
		result.StoredSize, err = io.Copy(w, source)
		total = result.StoredSize
	}
	result.Size = total
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

func (b *bundle) keepRuns(w io.Writer, source io.Reader, seeker io.Seeker, r vql.UploadRequest, result *vql.UploadResult) (size int64, err error) {
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
	b.taken[result.StoredName+".idx"] = true
	file, err := create(filepath.Join(b.dir, filepath.FromSlash(result.StoredName+".idx")))
	if err != nil {
		return size, err
	}
	if b.zip != nil {
		b.names = append(b.names, result.StoredName+".idx")
	}
	_, err = file.Write(append(text, '\n'))
	return size, errors.Join(err, file.Close())
}

// member opens the place of an upload; done ends it.
func (b *bundle) member(name string, modified time.Time) (io.Writer, func() error, error) {
	if b.zip != nil {
		w, err := b.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified})
		return w, func() error { return nil }, err
	}
	full := filepath.Join(b.dir, filepath.FromSlash(name))
	file, err := create(full)
	if err != nil {
		return nil, nil, err
	}
	return file, func() error {
		err := file.Close()
		if !modified.IsZero() {
			err = errors.Join(err, os.Chtimes(full, modified, modified))
		}
		return err
	}, nil
}

// manifest notes an upload; b.mu is held.
func (b *bundle) manifest(r vql.UploadRequest, result *vql.UploadResult) error {
	entry := struct {
		*vql.UploadResult
		Mtime *time.Time `json:"Mtime,omitempty"`
		Ctime *time.Time `json:"Ctime,omitempty"`
		Btime *time.Time `json:"Btime,omitempty"`
	}{result, known(r.Mtime), known(r.Ctime), known(r.Btime)}
	text, err := json.Marshal(entry)
	if err != nil {
		return err
	}
	file, err := b.grow("uploads.jsonl")
	if err != nil {
		return err
	}
	_, err = file.Write(append(text, '\n'))
	return err
}

func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// contextReader stops a long copy when its context ends.
type contextReader struct {
	ctx  context.Context
	from io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}

// close ends the bundle: CSV beside each result, the record of the collection,
// and for a zip the packing. A bundle that was interrupted is closed as well: what
// there is may be all there will ever be.
func (b *bundle) close(record any) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	err := b.finish(record)
	for _, file := range b.files {
		err = errors.Join(err, file.Close())
	}
	if b.zip == nil {
		return err
	}
	for _, name := range b.names {
		err = errors.Join(err, b.pack(name))
	}
	err = errors.Join(err, b.zip.Close(), b.zipped.Sync(), b.zipped.Close(), os.RemoveAll(b.dir))
	if err != nil {
		return fmt.Errorf("write %s.partial: %w", b.output, err)
	}
	return os.Rename(b.output+".partial", b.output)
}

func (b *bundle) finish(record any) error {
	var errs []error
	for _, name := range b.names {
		if base, ok := strings.CutSuffix(name, ".jsonl"); ok && strings.HasPrefix(name, "results/") {
			errs = append(errs, b.csv(name, base+".csv"))
		}
	}
	if record == nil {
		return errors.Join(errs...)
	}
	text, err := json.MarshalIndent(record, "", "  ")
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	file, err := b.grow("collection.json")
	if err == nil {
		_, err = file.Write(append(text, '\n'))
	}
	return errors.Join(append(errs, err)...)
}

// csv makes a CSV file of a JSONL file in two passes, so that no column is left
// out.
func (b *bundle) csv(from, to string) error {
	columns := &columnSet{}
	if err := b.eachLine(from, func(line []byte) error { columns.add(line); return nil }); err != nil {
		return err
	}
	file, err := b.grow(to)
	if err != nil {
		return err
	}
	p := &printer{format: "csv", out: bufio.NewWriter(file), columns: columns.list, lost: map[string]bool{}}
	if err := b.eachLine(from, p.row); err != nil {
		return err
	}
	return p.close()
}

func (b *bundle) eachLine(name string, take func([]byte) error) error {
	file := b.files[name]
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	reader := bufio.NewReaderSize(file, 1<<20)
	for {
		line, err := reader.ReadBytes('\n')
		if len(line) > 0 {
			if err := take(line[:len(line)-1]); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (b *bundle) pack(name string) error {
	file, err := os.Open(filepath.Join(b.dir, filepath.FromSlash(name)))
	if err != nil {
		return err
	}
	w, err := b.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: time.Now()})
	if err == nil {
		_, err = io.Copy(w, file)
	}
	return errors.Join(err, file.Close())
}
