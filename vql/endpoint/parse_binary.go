package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"sync"
	"time"

	"raptorpack/vql"
)

type parseBinaryArgs struct {
	Filename *vql.Path `vql:"filename,required" doc:"The file to read."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Profile  string    `vql:"profile" doc:"The structures: [[Name, size, [[Field, offset, Type, options], ...]], ...]."`
	Struct   string    `vql:"struct,required" doc:"The structure to start with."`
	Offset   int64     `vql:"offset" doc:"Where it is, in bytes (0)."`
	Env      *vql.Dict `vql:"env" doc:"Variables for the profile's lambdas."`
}

type profileKey struct{ text string }

var parseBinaryFunction = vql.NewFunction(vql.Spec{
	Name: "parse_binary", Permission: "FILESYSTEM_READ",
	Doc: "Reads a structure of a file as a profile describes it. Members are read when they are used.",
}, func(ctx context.Context, scope *vql.Scope, args *parseBinaryArgs) (vql.Value, error) {
	cached, err := scope.Cache().Get(profileKey{args.Profile}, func() (any, error) {
		if args.Profile == "" {
			return &profile{structs: map[string]*structDef{}}, nil
		}
		return readProfile(scope, args.Profile)
	})
	if err != nil {
		return nil, err
	}
	p := cached.(*profile)
	kind, err := (&compiler{scope: scope, profile: p}).typeOf(args.Struct, nil)
	if err != nil {
		return nil, err
	}
	file, err := openBinary(ctx, scope, args.Accessor, args.Filename)
	if err != nil {
		return nil, err
	}
	env := args.Env
	if env == nil {
		env = vql.NewDict()
	}
	// The members are read when the statement of this call may long have ended.
	from := &source{ctx: context.WithoutCancel(ctx), scope: scope.Child(env), file: file}
	top := &binaryStruct{from: from, def: &structDef{}}
	v := kind.read(top, args.Offset)
	if s, ok := structOf(v); ok {
		s.parent = nil
	}
	return v, nil
})

// A binaryStruct is a structure at some place of a file. Its members are read when
// they are asked for.
type binaryStruct struct {
	from   *source
	def    *structDef
	at     int64
	parent *binaryStruct

	mu    sync.Mutex // guards cache
	cache map[string]vql.Value
}

func newStruct(from *source, def *structDef, at int64, parent *binaryStruct) *binaryStruct {
	return &binaryStruct{from: from, def: def, at: at, parent: parent}
}

// call evaluates a lambda of the profile. It sees the structure as its parameter,
// unless values are given, and as the variable "this".
//
// A profile may refer to itself in circles: past maxLambdas calls within calls
// everything is NULL.
func (s *binaryStruct) call(l vql.Lambda, values ...vql.Value) vql.Value {
	defer s.from.calls.Add(-1)
	if s.from.calls.Add(1) > maxLambdas {
		s.from.scope.Log(vql.LevelDefault, "parse_binary: %s: lambdas nest deeper than %d", s.def.name, maxLambdas)
		return vql.NULL
	}
	this := wrapStruct(s)
	vars := vql.NewDict()
	vars.Set("this", this)
	scope := s.from.scope.Child(vars)
	defer scope.Close()
	if len(values) == 0 {
		values = []vql.Value{this}
	}
	return l.Call(s.from.ctx, scope, values...)
}

// maxLambdas is how deep lambdas of one file may call each other.
const maxLambdas = 100

func (s *binaryStruct) size() int64 { return s.def.size.of(s) }

// member reads a member: a field, a reference to one (@Field), or a fact of the
// structure itself.
func (s *binaryStruct) member(name string) (vql.Value, bool) {
	s.mu.Lock()
	v, ok := s.cache[name]
	s.mu.Unlock()
	if ok {
		return v, true
	}
	if field, ok := s.def.byName[name]; ok {
		v := field.kind.read(s, s.at+field.offset.of(s))
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.cache == nil {
			s.cache = map[string]vql.Value{}
		}
		s.cache[name] = v
		return v, true
	}
	if field, ok := s.def.byName[strings.TrimPrefix(name, "@")]; ok {
		return s.reference(field), true
	}
	switch name {
	case "SizeOf":
		return s.size(), true
	case "StartOf", "OffsetOf":
		return s.at, true
	case "EndOf":
		return s.at + s.size(), true
	case "ParentOf":
		if s.parent == nil || s.parent.def.name == "" {
			return vql.NULL, true
		}
		return wrapStruct(s.parent), true
	}
	return vql.NULL, false
}

func (s *binaryStruct) reference(field *fieldDef) vql.Value {
	offset := field.offset.of(s)
	size := field.kind.size(s, s.at+offset)
	value, _ := s.member(field.name)
	d := vql.NewDict()
	d.Set("SizeOf", size)
	d.Set("StartOf", s.at+offset)
	d.Set("EndOf", s.at+offset+size)
	d.Set("RelOffset", offset)
	d.Set("RelEndOf", offset+size)
	d.Set("Value", value)
	return d
}

// structMembers shows a structure to queries: its cells are parsed when they are
// read.
type structMembers struct{ *binaryStruct }

func wrapStruct(s *binaryStruct) vql.Value { return vql.HostObject(structMembers{s}) }

func structOf(v vql.Value) (*binaryStruct, bool) {
	o, ok := vql.ObjectOf(v)
	if !ok {
		return nil, false
	}
	m, ok := o.(structMembers)
	return m.binaryStruct, ok
}

// Member implements vql.Object: every field, and what the structure says of itself.
func (m structMembers) Member(name string) (vql.Value, bool) { return m.member(name) }

// Members implements vql.Object. Fields that begin with __ are helpers of the
// profile, to be used but not shown.
func (m structMembers) Members() []string {
	var out []string
	for _, f := range m.def.fields {
		if !strings.HasPrefix(f.name, "__") {
			out = append(out, f.name)
		}
	}
	return out
}

// MarshalJSON gives the members that are shown.
func (m structMembers) MarshalJSON() ([]byte, error) {
	return vql.AppendJSON(nil, m.from.scope.Row(m.from.ctx, wrapStruct(m.binaryStruct))), nil
}

// binaryFiles keeps the files of a session's structures open, the latest opened
// last: their members may be read at any time, and there may be many files.
type binaryFiles struct {
	mu     sync.Mutex
	open   []*pagedFile // whatever is open is in here
	closed bool         // the session has ended
}

type binaryFilesKey struct{}

const maxBinaryFiles = 32

// openBinary returns a file that stays readable for the life of the session.
func openBinary(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path) (io.ReaderAt, error) {
	if path == nil {
		return nil, fs.ErrInvalid
	}
	cached, err := scope.Cache().Get(binaryFilesKey{}, func() (any, error) {
		all := &binaryFiles{}
		scope.OnRootClose(all.closeAll)
		return all, nil
	})
	if err != nil {
		return nil, err
	}
	all := cached.(*binaryFiles)
	f := all.find(&pagedFile{all: all, accessor: accessor, path: path, scope: scope, ctx: context.WithoutCancel(ctx)})
	return f, f.reopen(ctx, scope)
}

// find returns the file of the same name that is there already, or f.
func (all *binaryFiles) find(f *pagedFile) *pagedFile {
	all.mu.Lock()
	defer all.mu.Unlock()
	for _, have := range all.open {
		if have.accessor == f.accessor && have.path.String() == f.path.String() {
			return have
		}
	}
	return f
}

// add takes in a file that was opened and returns files that are to be closed.
func (all *binaryFiles) add(f *pagedFile) (old []*pagedFile, err error) {
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.closed {
		return nil, errShut
	}
	if !slices.Contains(all.open, f) {
		all.open = append(all.open, f)
	}
	n := max(len(all.open)-maxBinaryFiles, 0)
	old, all.open = slices.Clone(all.open[:n]), slices.Delete(all.open, 0, n)
	return old, nil
}

func (all *binaryFiles) closeAll() {
	all.mu.Lock()
	open := all.open
	all.open, all.closed = nil, true
	all.mu.Unlock()
	closeFiles(open)
}

func closeFiles(files []*pagedFile) {
	for _, f := range files {
		f.close()
	}
}

const (
	pageSize = 16 << 10
	maxPages = 32
)

// errShut means that the session of a file has ended.
var errShut = errors.New("the session has ended")

// pagedFile reads a file in pages and keeps some of them. Evicted, it closes its
// file and opens it again when it is read once more.
type pagedFile struct {
	all      *binaryFiles
	accessor string
	path     *vql.Path
	scope    *vql.Scope
	ctx      context.Context // never ends, see source

	mu     sync.Mutex // guards the fields below; one reads at a time
	file   vql.ReadSeekCloser
	pages  map[int64][]byte
	opened time.Time
}

// maxPageAge is how long what was read counts for further calls: a session of
// event queries lives for days, and files change and are exchanged.
const maxPageAge = 10 * time.Second

// reopen makes sure that the file is open, so that a missing one is told at once.
func (f *pagedFile) reopen(ctx context.Context, scope *vql.Scope) error {
	old, err := f.refresh(ctx, scope)
	closeFiles(old)
	return err
}

func (f *pagedFile) refresh(ctx context.Context, scope *vql.Scope) ([]*pagedFile, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.opened) > maxPageAge {
		f.drop()
	}
	for n, page := range f.pages {
		if len(page) < pageSize { // the end of the file may have grown
			delete(f.pages, n)
		}
	}
	return f.ensure(ctx, scope)
}

// ensure opens the file; the caller holds the lock, and without it closes the
// files that gave way.
func (f *pagedFile) ensure(ctx context.Context, scope *vql.Scope) ([]*pagedFile, error) {
	if f.file != nil {
		return nil, nil
	}
	file, err := openThrough(ctx, scope, f.accessor, f.path)
	if err != nil {
		return nil, err
	}
	old, err := f.all.add(f)
	if err != nil {
		_ = file.Close() // opened for reading only: nothing to lose
		return nil, err
	}
	f.file, f.pages, f.opened = file, map[int64][]byte{}, time.Now()
	return old, nil
}

func (f *pagedFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.drop()
}

// drop forgets file and pages; the caller holds the lock.
func (f *pagedFile) drop() {
	if f.file != nil {
		_ = f.file.Close() // opened for reading only: nothing to lose
	}
	f.file, f.pages = nil, nil
}

// ReadAt implements io.ReaderAt.
func (f *pagedFile) ReadAt(p []byte, at int64) (int, error) {
	n, old, err := f.readAt(p, at)
	closeFiles(old)
	return n, err
}

func (f *pagedFile) readAt(p []byte, at int64) (done int, old []*pagedFile, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if old, err = f.ensure(f.ctx, f.scope); err != nil {
		return 0, old, err
	}
	for done < len(p) {
		page, err := f.page((at + int64(done)) / pageSize)
		if err != nil {
			return done, old, err
		}
		from := (at + int64(done)) % pageSize
		if from >= int64(len(page)) {
			return done, old, io.EOF
		}
		done += copy(p[done:], page[from:])
	}
	return done, old, nil
}

func (f *pagedFile) page(n int64) ([]byte, error) {
	if page, ok := f.pages[n]; ok {
		return page, nil
	}
	if _, err := f.file.Seek(n*pageSize, io.SeekStart); err != nil {
		return nil, err
	}
	page := make([]byte, pageSize)
	got, err := io.ReadFull(f.file, page)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, fmt.Errorf("read %s: %w", shortName(f.path.String()), err)
	}
	page = page[:got]
	if len(f.pages) >= maxPages {
		f.pages = map[int64][]byte{}
	}
	f.pages[n] = page
	return page, nil
}
