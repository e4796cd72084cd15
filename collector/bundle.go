package collector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"raptorpack/container"
	"raptorpack/internal/archive"
	"raptorpack/vql"
)

// ErrOutput means that a bundle cannot be made as it is wished.
var ErrOutput = errors.New("output cannot be made")

// BundleOptions choose how a bundle is made.
type BundleOptions struct {
	Output   string // a folder or, with the ending .zip, a file; neither must exist yet
	Password string // of a zip; empty: none
	Format   string // of rows, see package container
	Level    int    // of a zip: how hard it is deflated, 1 to 9; 0: the fastest
	TempDir  string // where rows grow that go into a zip; empty: the system's
}

// Bundle is the result of a local collection, laid out as a container: a folder, or a
// zip that gets its name when it is whole. It is a vql.Uploader. Rows are kept in files
// at once; a zip is packed from them at the end, except for uploads, which go into it
// as they come.
type Bundle struct {
	o      BundleOptions
	dir    string   // where files grow: the folder itself, or a scratch one
	file   *os.File // nil for a folder
	sealed *archive.Sealed
	zip    *container.Writer

	mu      sync.Mutex
	files   map[string]*os.File // growing files by their name in the bundle
	members []container.Member  // of those, in the order of their making
	uploads map[string]*vql.UploadResult
	taken   map[string]bool // names of uploads
}

// NewBundle makes the output. Close ends it.
func NewBundle(o BundleOptions) (*Bundle, error) {
	b := &Bundle{o: o, dir: o.Output, files: map[string]*os.File{}, uploads: map[string]*vql.UploadResult{}, taken: map[string]bool{}}
	zipped := strings.HasSuffix(strings.ToLower(o.Output), ".zip")
	switch _, err := os.Lstat(o.Output); {
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%s exists already: %w", o.Output, ErrOutput)
	case !container.KnownFormat(o.Format):
		return nil, fmt.Errorf("format %.40q: expected csv, json or csv_only: %w", o.Format, ErrOutput)
	case o.Level < 0 || o.Level > 9:
		return nil, fmt.Errorf("level %d: expected 1 to 9: %w", o.Level, ErrOutput)
	case !zipped && o.Password != "":
		return nil, fmt.Errorf("a password is for zips: %w", ErrOutput)
	case !zipped:
		if err := os.MkdirAll(o.Output, 0o700); err != nil {
			return nil, fmt.Errorf("make output folder: %w", err)
		}
		return b, nil
	}
	return b, b.openZip()
}

func (b *Bundle) openZip() (err error) {
	if b.dir, err = os.MkdirTemp(b.o.TempDir, "raptorpack-collect-"); err != nil {
		return fmt.Errorf("make scratch folder: %w", err)
	}
	if b.file, err = os.OpenFile(b.o.Output+".partial", os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600); err != nil {
		return errors.Join(fmt.Errorf("make output file: %w", err), os.RemoveAll(b.dir))
	}
	var out io.Writer = b.file
	if b.o.Password != "" {
		if b.sealed, err = archive.NewSealed(b.file, b.o.Password, time.Now(), nil); err != nil {
			return errors.Join(err, b.file.Close(), os.RemoveAll(b.dir))
		}
		out = b.sealed
	}
	b.zip = container.NewWriter(out, b.o.Format)
	if b.o.Level > 0 {
		b.zip.Level(b.o.Level)
	}
	return nil
}

// Log adds a line of the query log.
func (b *Bundle) Log(level, message string) error {
	text, err := json.Marshal(map[string]any{"client_time": time.Now().Unix(), "level": level, "message": message})
	if err != nil {
		return err
	}
	return b.line(container.Member{Path: container.LogsName, Kind: container.KindLogs}, text)
}

// Begin makes the file of a result, so that one without rows is there too.
func (b *Bundle) Begin(result string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	_, err := b.grow(rowsOf(result))
	return err
}

// Row adds a row to a result.
func (b *Bundle) Row(result string, row []byte) error { return b.line(rowsOf(result), row) }

func rowsOf(result string) container.Member {
	return container.Member{Path: container.ResultBase(result) + ".jsonl", Kind: container.KindRows, Result: result}
}

// Uploads counts the files that were taken.
func (b *Bundle) Uploads() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.uploads)
}

// line adds a line to a growing file.
func (b *Bundle) line(m container.Member, text []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	file, err := b.grow(m)
	if err != nil {
		return err
	}
	_, err = file.Write(append(text[:len(text):len(text)], '\n'))
	return err
}

func (b *Bundle) grow(m container.Member) (*os.File, error) {
	if file := b.files[m.Path]; file != nil {
		return file, nil
	}
	file, err := create(filepath.Join(b.dir, filepath.FromSlash(m.Path)))
	if err != nil {
		return nil, err
	}
	b.files[m.Path] = file
	b.members = append(b.members, m)
	return file, nil
}

func create(name string) (*os.File, error) {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return nil, err
	}
	return os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
}

// Document adds a file of indented JSON.
func (b *Bundle) Document(name, kind string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return b.line(container.Member{Path: name, Kind: kind}, text)
}

// Close ends the bundle: CSV beside each result, the record of the collection, and for
// a zip the packing. One that was interrupted is closed as well: what there is may be
// all there will ever be. Without a record it is a place for uploads, and no collection.
func (b *Bundle) Close(record *container.Record) error {
	err := b.tables()
	if record != nil {
		record.Uploads = int64(b.Uploads())
		err = errors.Join(err, b.Document(container.RecordName, container.KindRecord, record))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.zip == nil {
		for _, file := range b.files {
			err = errors.Join(err, file.Close())
		}
		return err
	}
	for _, m := range b.members {
		if m.Kind != container.KindRows || b.o.Format != container.FormatCSVOnly {
			err = errors.Join(err, b.pack(m))
		}
	}
	for _, file := range b.files {
		err = errors.Join(err, file.Close())
	}
	_, closing := b.zip.Close()
	if err = errors.Join(err, closing); b.sealed != nil {
		err = errors.Join(err, b.sealed.Close())
	}
	err = errors.Join(err, b.file.Sync(), b.file.Close(), os.RemoveAll(b.dir))
	if err != nil {
		return fmt.Errorf("write %s.partial: %w", b.o.Output, err)
	}
	return os.Rename(b.o.Output+".partial", b.o.Output)
}

func (b *Bundle) pack(m container.Member) error {
	file := b.files[m.Path]
	_, err := b.zip.Member(m, time.Now(), func(out io.Writer) error {
		if _, err := file.Seek(0, io.SeekStart); err != nil {
			return err
		}
		_, err := io.Copy(out, file)
		return err
	})
	return err
}

// contextReader stops a long copy when its context ends.
type contextReader struct {
	ctx  context.Context //nolint:containedctx // lives as long as one call
	from io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.from.Read(p)
}
