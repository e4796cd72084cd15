package endpoint

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"time"

	"raptorpack/vql"
)

// Accessors returns the accessors of this platform by name, for
// vql.SessionOptions.Accessors. They are safe for concurrent use and hold no state.
func Accessors() map[string]vql.Accessor {
	out := map[string]vql.Accessor{
		"auto":     fileAccessor{},
		"file":     fileAccessor{},
		"raw_file": fileAccessor{devices: true},
		"data":     textAccessor{content: dataContent},
		"scope":    textAccessor{content: scopeContent},
		"zip":      zipAccessor{},
		"gzip":     streamAccessor{open: gunzip},
		"bzip2":    streamAccessor{open: bunzip},
		"offset":   offsetAccessor{},
		"sparse":   sparseAccessor{},
		"ext4":     ext4Accessor{},
		"raw_ext4": ext4Accessor{images: true},

		"file_nocase": nocaseAccessor{},
		"overlay":     overlayAccessor{},
		"ranged":      rangedAccessor{},
		"s3":          s3Accessor{},
		"collector":   collectorAccessor{},
	}
	addPlatformAccessors(out)
	addKnownAccessors(out)
	return out
}

// textAccessor opens a text of the query itself: the path is the content, or says
// where in the query the content is.
type textAccessor struct {
	content func(ctx context.Context, scope *vql.Scope, text string) ([]byte, error)
}

func dataContent(_ context.Context, _ *vql.Scope, text string) ([]byte, error) {
	return []byte(text), nil
}

func scopeContent(ctx context.Context, scope *vql.Scope, text string) ([]byte, error) {
	v, ok := scope.Lookup(text)
	if !ok || vql.IsNull(v) {
		return nil, &fs.PathError{Op: "open", Path: text, Err: fs.ErrNotExist}
	}
	return []byte(scope.String(ctx, v)), nil
}

// ParsePath never fails and never looks into the text: it may well start like a
// pathspec.
func (a textAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.NewPath(vql.PathOpaque, vql.PathOpaque.Split(text)...), nil
}

func textOf(path *vql.Path) string {
	if path.Syntax() == vql.PathOpaque {
		return path.Path()
	}
	return path.String()
}

func (a textAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	data, err := a.content(ctx, scope, textOf(path))
	if err != nil {
		return nil, err
	}
	return &plainInfo{name: shortName(textOf(path)), path: path, size: int64(len(data)), mode: 0o444}, nil
}

// shortName keeps log lines and rows readable when the path is a whole document.
func shortName(text string) string {
	if len(text) > 40 {
		return text[:40]
	}
	return text
}

// shown is a path as log lines show it.
func shown(path *vql.Path) string {
	if path.Syntax() == vql.PathOpaque {
		return fmt.Sprintf("%q", shortName(path.String()))
	}
	return path.String()
}

func (a textAccessor) ReadDir(_ context.Context, _ *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	return nil, &fs.PathError{Op: "list", Path: shortName(textOf(path)), Err: fs.ErrInvalid}
}

func (a textAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	data, err := a.content(ctx, scope, textOf(path))
	if err != nil {
		return nil, err
	}
	return memoryFile{bytes.NewReader(data)}, nil
}

// memoryFile is an open file whose content we hold.
type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }

// plainInfo is a name that an accessor knows all about.
type plainInfo struct {
	name  string
	path  *vql.Path
	size  int64
	mode  fs.FileMode
	mtime time.Time
	extra *vql.Dict
}

func (i *plainInfo) Name() string      { return i.name }
func (i *plainInfo) OSPath() *vql.Path { return i.path }
func (i *plainInfo) Size() int64       { return i.size }
func (i *plainInfo) Mode() fs.FileMode { return i.mode }
func (i *plainInfo) IsDir() bool       { return i.mode.IsDir() }
func (i *plainInfo) IsLink() bool      { return false }
func (i *plainInfo) Mtime() time.Time  { return i.mtime }
func (i *plainInfo) Atime() time.Time  { return time.Time{} }
func (i *plainInfo) Ctime() time.Time  { return time.Time{} }
func (i *plainInfo) Btime() time.Time  { return time.Time{} }

func (i *plainInfo) Link() (*vql.Path, error) {
	return nil, fmt.Errorf("%s is not a link: %w", i.name, fs.ErrInvalid)
}

func (i *plainInfo) Data() *vql.Dict {
	if i.extra == nil {
		return vql.NewDict()
	}
	return i.extra
}
