package vql

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// ErrNoAccessor means that the session has no accessor of that name.
var ErrNoAccessor = errors.New("unknown accessor")

// Accessor opens names of one kind: files, registry keys, members of archives.
// Implementations are safe for concurrent use. Errors wrap fs.ErrNotExist,
// fs.ErrPermission and the like where that is what happened.
type Accessor interface {
	// ParsePath reads a text as this accessor's kind of path; a text that starts
	// with { is a JSON pathspec.
	ParsePath(text string) (*Path, error)

	// Lstat returns the facts of one name without following links.
	Lstat(ctx context.Context, scope *Scope, path *Path) (FileInfo, error)

	// ReadDir lists a folder, sorted by name.
	ReadDir(ctx context.Context, scope *Scope, path *Path) ([]FileInfo, error)

	// Open opens a name for reading. The caller closes it.
	Open(ctx context.Context, scope *Scope, path *Path) (ReadSeekCloser, error)
}

// OSPather is an Accessor that can say how the operating system itself names a
// path, so that libraries that open files themselves take the fast way.
type OSPather interface {
	// OSPath returns the operating system's name and true, or false.
	OSPath(path *Path) (string, bool)
}

// ReadSeekCloser is an open file.
type ReadSeekCloser interface {
	io.Reader
	io.Seeker
	io.Closer
}

// Ranger is a ReadSeekCloser of a sparse file.
type Ranger interface {
	// Ranges returns the file's parts in order, without gaps.
	Ranges() []Range
}

// Range is a part of a file, in bytes.
type Range struct {
	Offset int64
	Length int64
	// Sparse parts hold no data and read as zeros.
	Sparse bool
}

// FileInfo is the facts of one name. Its methods are the members that queries
// see. Unknown times are zero; Size of a folder is as the accessor has it.
type FileInfo interface {
	Name() string
	OSPath() *Path
	Size() int64
	Mode() fs.FileMode
	IsDir() bool
	IsLink() bool
	// Link returns where a link points to.
	Link() (*Path, error)
	Mtime() time.Time
	Atime() time.Time
	Ctime() time.Time
	Btime() time.Time
	// Data holds further facts of this kind of file; never nil.
	Data() *Dict
}

// Uploader takes files out of a query: the agent sends them to its server, local
// commands put them into a folder. It is a service of the session.
type Uploader interface {
	// Upload reads r.Reader to its end. A file that cannot be read whole is a
	// result with Error set; an error means that nothing was stored.
	Upload(ctx context.Context, scope *Scope, r UploadRequest) (*UploadResult, error)
}

// UploadRequest is one file to upload.
type UploadRequest struct {
	Path     *Path
	Accessor string
	// StoreAs overrides the name under which it is stored; nil is Path.
	StoreAs *Path
	// Reader gives the bytes, from the start; sparse parts included unless it is
	// also an io.Seeker and Ranges is set, when data parts may be read alone.
	Reader io.Reader
	// Size is the expected size in bytes, -1 when unknown.
	Size int64
	// Ranges lists the parts of a sparse file; nil means no sparse parts.
	Ranges []Range

	Mtime, Atime, Ctime, Btime time.Time
}

// UploadResult says what became of an upload. Queries see its members.
type UploadResult struct {
	Path       string   `json:"Path"`
	Size       int64    `json:"Size"`
	StoredSize int64    `json:"StoredSize"`
	SHA256     string   `json:"sha256,omitempty"`
	MD5        string   `json:"md5,omitempty"`
	Error      string   `json:"Error,omitempty"`
	StoredName string   `json:"StoredName,omitempty"`
	Components []string `json:"Components,omitempty"`
	Reference  string   `json:"Reference,omitempty"`
	Accessor   string   `json:"Accessor,omitempty"`
	UploadID   int64    `json:"UploadId"`
}

// Accessor returns the session's accessor of a name; "" is auto. The error wraps
// ErrNoAccessor.
func (s *Scope) Accessor(name string) (Accessor, error) {
	if name == "" {
		name = "auto"
	}
	if a, ok := s.session.accessor(name); ok {
		return a, nil
	}
	return nil, fmt.Errorf("%w %s", ErrNoAccessor, name)
}

// SetAccessor puts an accessor in place of another for the rest of the session.
func (s *Scope) SetAccessor(name string, a Accessor) { s.session.setAccessor(name, a) }

// OpenDelegate opens the container that path lies in, with the accessor named by
// the path, for accessors that stack.
func (s *Scope) OpenDelegate(ctx context.Context, path *Path) (ReadSeekCloser, error) {
	accessor, container, err := s.Delegate(path)
	if err != nil {
		return nil, err
	}
	return accessor.Open(ctx, s, container)
}

// Delegate returns the accessor and path of the container that path lies in.
func (s *Scope) Delegate(path *Path) (Accessor, *Path, error) {
	accessor, err := s.Accessor(path.DelegateAccessor())
	if err != nil {
		return nil, nil, err
	}
	container, err := accessor.ParsePath(path.DelegatePath())
	if err != nil {
		return nil, nil, fmt.Errorf("parse container path %s: %w", path.DelegatePath(), err)
	}
	return accessor, container, nil
}
