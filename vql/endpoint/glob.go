package endpoint

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"raptorpack/vql"
)

type globArgs struct {
	Globs             []string   `vql:"globs,required" doc:"One or more glob expressions: *, ?, [a-z], {a,b}, ** (any depth up to 30) and **N (up to N levels)."`
	Root              *vql.Path  `vql:"root" doc:"A folder that every expression starts from."`
	Accessor          string     `vql:"accessor" doc:"The accessor to list with (auto)."`
	NoSymlink         bool       `vql:"nosymlink" doc:"Do not enter folders through symbolic links."`
	RecursionCallback vql.Lambda `vql:"recursion_callback" doc:"A lambda on a folder's row; false keeps the walk out of it."`
	OneFilesystem     bool       `vql:"one_filesystem" doc:"Stay on the device where the walk starts."`
}

var globPlugin = vql.NewPlugin(vql.Spec{
	Name: "glob", Permission: "FILESYSTEM_READ",
	Doc:     "Finds files by name. All expressions share one walk; a file that several match comes once, with all of them in Globs.",
	Columns: globColumns,
}, runGlob)

func runGlob(ctx context.Context, scope *vql.Scope, args *globArgs, emit vql.Emit) error {
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return err
	}
	roots, err := globRoots(accessor, args)
	if err != nil {
		return err
	}
	w := &walk{ctx: ctx, scope: scope, accessor: accessor, args: args, emit: emit}
	defer w.report()
	for _, r := range roots {
		if err := w.start(r); err != nil {
			return err
		}
	}
	return nil
}

// A globRoot is a folder to start from with the patterns below it.
type globRoot struct {
	path     *vql.Path
	patterns []*globPattern
}

// globRoots compiles the expressions. Those that start in the same place, nearly
// always all of them, share a root.
func globRoots(accessor vql.Accessor, args *globArgs) ([]*globRoot, error) {
	top, err := accessor.ParsePath("")
	if err != nil {
		return nil, err
	}
	var roots []*globRoot
	for _, source := range args.Globs {
		base, text := splitGlob(accessor, source)
		if base == nil {
			base = top
		}
		if args.Root != nil {
			if base, err = accessor.ParsePath(args.Root.String()); err != nil {
				return nil, err
			}
		}
		alternatives, err := expandBraces(text)
		if err != nil {
			return nil, err
		}
		root := rootAt(&roots, base)
		for _, text := range alternatives {
			parsed, err := accessor.ParsePath(text)
			if err != nil {
				return nil, err
			}
			fold := foldsCase(parsed.Syntax())
			root.patterns = append(root.patterns, newGlobPattern(source, parsed.Components(), fold))
		}
	}
	return roots, nil
}

// splitGlob takes apart an expression that is a JSON pathspec: the container, and
// the expression for names inside of it.
func splitGlob(accessor vql.Accessor, source string) (base *vql.Path, text string) {
	if !strings.HasPrefix(source, "{") || !json.Valid([]byte(source)) {
		return nil, source
	}
	parsed, err := accessor.ParsePath(source)
	if err != nil || !parsed.HasDelegate() {
		return nil, source
	}
	return parsed.With(nil), parsed.PathSpec().Path
}

func rootAt(roots *[]*globRoot, base *vql.Path) *globRoot {
	for _, r := range *roots {
		if r.path.Equal(base) {
			return r
		}
	}
	*roots = append(*roots, &globRoot{path: base})
	return (*roots)[len(*roots)-1]
}

// foldsCase tells whether names of that kind are the same in either case.
func foldsCase(syntax vql.PathSyntax) bool {
	return syntax == vql.PathWindows || syntax == vql.PathNTFS || syntax == vql.PathRegistry
}

// A walk goes through the folders below one root after the other.
type walk struct {
	ctx      context.Context
	scope    *vql.Scope
	accessor vql.Accessor
	args     *globArgs
	emit     vql.Emit

	followed   map[fileID]bool // folders entered through a link below **
	unlistable int
	firstError error
}

// A place is a folder on the way down from the root.
type place struct {
	up   *place
	path *vql.Path

	// named is true while only names, no wildcards, led here: such links are
	// followed even with nosymlink, because the caller wrote them.
	named bool

	device   uint64 // where one_filesystem keeps us; valid when fenced
	fenced   bool
	id       fileID
	identity int8 // 0: not asked, 1: id is valid, -1: not known
}

func (w *walk) start(r *globRoot) error {
	top := &place{path: r.path, named: true}
	for _, p := range r.patterns {
		if len(p.parts) > 0 {
			continue
		}
		info, err := w.accessor.Lstat(w.ctx, w.scope, r.path)
		if err != nil {
			w.failed(err)
		} else if err := w.emit(vql.HostObject(&globRow{w.scope, info, []string{p.source}})); err != nil {
			return err
		}
	}
	cursors := startCursors(r.patterns)
	if len(cursors) == 0 {
		return nil
	}
	return w.folder(top, cursors)
}

// A descent is a folder to enter after the one we are in is done.
type descent struct {
	place   *place
	cursors []cursor
}

// folder emits the matches in one folder in name order, then goes down into those
// that patterns still want, so that a folder comes before its content and memory
// holds one folder's names for each level.
func (w *walk) folder(at *place, cursors []cursor) error {
	entries, literal, err := w.list(at, cursors)
	if err != nil {
		return err
	}
	if !literal && w.args.OneFilesystem && !at.fenced {
		if id, ok := w.identify(at); ok {
			at.fenced, at.device = true, id.device
		}
	}
	var down []descent
	for i, info := range entries {
		if i%1024 == 1023 && w.ctx.Err() != nil {
			return w.ctx.Err()
		}
		d, err := w.entry(at, info, cursors, literal)
		if err != nil {
			return err
		}
		if d != nil {
			down = append(down, *d)
		}
	}
	for _, d := range down {
		if err := w.folder(d.place, d.cursors); err != nil {
			return err
		}
	}
	return nil
}

// list gives the folder's entries, or only the named ones when no pattern has a
// wildcard here. Folders that cannot be listed are counted.
func (w *walk) list(at *place, cursors []cursor) (entries []vql.FileInfo, literal bool, err error) {
	if err := w.scope.Charge(w.ctx); err != nil {
		return nil, false, err
	}
	names, literal := literalNames(cursors)
	if !literal {
		entries, err := w.readDir(at, cursors)
		if w.ctx.Err() != nil {
			return nil, false, w.ctx.Err()
		}
		if err != nil {
			w.failed(err)
		}
		return entries, false, nil
	}
	slices.Sort(names)
	for _, name := range names {
		info, err := w.accessor.Lstat(w.ctx, w.scope, at.path.Append(name))
		if err != nil {
			w.failed(err)
			continue
		}
		entries = append(entries, info)
	}
	return entries, true, nil
}

// entry emits one entry if it matches and tells whether to go down into it.
func (w *walk) entry(at *place, info vql.FileInfo, cursors []cursor, literal bool) (*descent, error) {
	matched, below := step(cursors, info.Name())
	if len(matched) == 0 && len(below) == 0 {
		return nil, nil
	}
	if l, ok := info.(interface{ load() (*statFacts, error) }); ok && len(matched) > 0 {
		if _, err := l.load(); err != nil { // it went away since the folder was listed
			w.failed(err)
			return nil, nil
		}
	}
	if len(matched) > 0 {
		if err := w.emit(vql.HostObject(&globRow{w.scope, info, matched})); err != nil {
			return nil, err
		}
	}
	if len(below) == 0 {
		return nil, nil
	}
	next := w.enter(at, info, below, literal)
	if next == nil {
		return nil, nil
	}
	if w.args.RecursionCallback.Given() {
		row := infoRow(info)
		row.Set("Globs", matched)
		if !w.scope.Truth(w.args.RecursionCallback.Call(w.ctx, w.scope, row)) {
			return nil, nil
		}
	}
	return &descent{next, below}, nil
}

// enter decides whether an entry is a folder that the walk may go into.
func (w *walk) enter(at *place, info vql.FileInfo, below []cursor, literal bool) *place {
	if !info.IsDir() && !info.IsLink() {
		return nil
	}
	next := &place{up: at, path: info.OSPath(), named: at.named && literal, fenced: at.fenced, device: at.device}
	if info.IsLink() && !w.mayFollow(next, info, below) {
		return nil
	}
	if next.fenced {
		if id, ok := identityOf(info); ok && id.device != next.device {
			return nil
		}
	}
	return next
}

// mayFollow decides about links to folders. Below ** a link is left out when it
// leads to a folder we stand in or to one that another link has led to already;
// elsewhere the length of the pattern ends every loop.
func (w *walk) mayFollow(next *place, info vql.FileInfo, below []cursor) bool {
	if w.args.NoSymlink && !next.named {
		return false
	}
	id, ok := identityOf(info)
	if !ok {
		return false // leads to no folder
	}
	next.id, next.identity = id, 1
	if !recursive(below) {
		return true
	}
	for p := next.up; p != nil; p = p.up {
		if have, ok := w.identify(p); ok && have == id {
			return false
		}
	}
	if w.followed[id] {
		return false
	}
	if w.followed == nil {
		w.followed = map[fileID]bool{}
	}
	w.followed[id] = true
	return true
}

// identify asks once which folder a place is.
func (w *walk) identify(p *place) (fileID, bool) {
	if p.identity == 0 {
		p.identity = -1
		if info, err := w.accessor.Lstat(w.ctx, w.scope, p.path); err == nil {
			if id, ok := identityOf(info); ok {
				p.id, p.identity = id, 1
			}
		}
	}
	return p.id, p.identity > 0
}

func identityOf(info vql.FileInfo) (fileID, bool) {
	if i, ok := info.(interface{ identity() (fileID, bool) }); ok {
		return i.identity()
	}
	return fileID{}, false
}

// failed counts what could not be listed; names that do not exist are no failure.
func (w *walk) failed(err error) {
	if errors.Is(err, fs.ErrNotExist) || isNotDir(err) {
		return
	}
	if w.unlistable++; w.firstError == nil {
		w.firstError = err
	}
}

func (w *walk) report() {
	if w.unlistable > 0 {
		w.scope.Log("WARN", "glob: %d names could not be looked into, the first: %v", w.unlistable, w.firstError)
	}
}

// globRow is the row of a file. Its columns are worked out when a query reads them.
type globRow struct {
	scope *vql.Scope
	info  vql.FileInfo
	globs []string
}

var globColumns = []string{"Name", "OSPath", "Mtime", "Atime", "Ctime", "Btime", "Size", "Mode", "IsDir", "IsLink", "Data", "Globs"}

// Members implements vql.Object.
func (r *globRow) Members() []string { return globColumns }

// Member implements vql.Object.
func (r *globRow) Member(name string) (vql.Value, bool) {
	switch name {
	case "Name":
		return r.info.Name(), true
	case "OSPath":
		return r.info.OSPath(), true
	case "Mtime":
		return r.info.Mtime(), true
	case "Atime":
		return r.info.Atime(), true
	case "Ctime":
		return r.info.Ctime(), true
	case "Btime":
		return r.info.Btime(), true
	case "Size":
		return r.info.Size(), true
	case "Mode":
		return r.info.Mode(), true
	case "IsDir":
		return r.info.IsDir(), true
	case "IsLink":
		return r.info.IsLink(), true
	case "Data":
		return r.info.Data(), true
	case "Globs":
		return r.globs, true
	case "FullPath": // answers who asks for it, and is not in SELECT *
		r.scope.Log("WARN", "glob: the column FullPath is deprecated, use OSPath")
		return r.info.OSPath().String(), true
	}
	return nil, false
}

// infoRow lists a file's facts in the order that glob and stat show.
func infoRow(info vql.FileInfo) *vql.Dict {
	row := vql.NewDict()
	row.Set("Name", info.Name())
	row.Set("OSPath", info.OSPath())
	row.Set("Mtime", info.Mtime())
	row.Set("Atime", info.Atime())
	row.Set("Ctime", info.Ctime())
	row.Set("Btime", info.Btime())
	row.Set("Size", info.Size())
	row.Set("Mode", info.Mode())
	row.Set("IsDir", info.IsDir())
	row.Set("IsLink", info.IsLink())
	row.Set("Data", info.Data())
	return row
}
