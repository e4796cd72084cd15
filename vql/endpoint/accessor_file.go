package endpoint

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"slices"
	"sync"
	"time"

	"raptorpack/vql"
)

// ErrNotRegular means that a name is a device, pipe, socket or folder, which the
// accessor does not read.
var ErrNotRegular = errors.New("not a regular file")

// fileAccessor reads through the operating system. It never opens what could
// block or act: pipes, sockets and, unless devices is set, devices.
type fileAccessor struct {
	devices bool
}

// hostSyntax is how paths of this operating system print.
func hostSyntax() vql.PathSyntax {
	if runtime.GOOS == "windows" {
		return vql.PathWindows
	}
	return vql.PathLinux
}

func (a fileAccessor) ParsePath(text string) (*vql.Path, error) {
	return vql.ParsePath(hostSyntax(), text), nil
}

// OSPath implements vql.OSPather.
func (a fileAccessor) OSPath(path *vql.Path) (string, bool) { return osName(path), !path.HasDelegate() }

// osName is the name that the operating system knows.
func osName(path *vql.Path) string {
	if path.Syntax() != hostSyntax() {
		path = path.WithSyntax(hostSyntax())
	}
	return path.Path()
}

func (a fileAccessor) Lstat(_ context.Context, _ *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	facts, err := lstatFacts(osName(path))
	if err != nil {
		return nil, err
	}
	info := &fileInfo{name: path.Basename(), path: path, mode: facts.mode.Type(), facts: facts}
	return info, nil
}

// ReadDir lists a folder in name order. The facts of an entry are asked for when
// a member needs them, so that names which nobody wants cost nothing.
func (a fileAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	return a.listWanted(ctx, scope, path, func(string, fs.FileMode) bool { return true })
}

// listWanted is ReadDir of the names that want takes.
func (a fileAccessor) listWanted(ctx context.Context, scope *vql.Scope, path *vql.Path, want wantEntry) ([]vql.FileInfo, error) {
	if runtime.GOOS == "windows" && path.Len() == 0 {
		return drives(), nil
	}
	name := osName(path)
	var entries []dirEntry
	seen := 0
	err := listDir(name, func() error { return scope.Charge(ctx) }, func(name string, mode fs.FileMode) {
		seen++
		if want(name, mode) {
			entries = append(entries, dirEntry{name, mode})
		}
	})
	if err != nil {
		if seen == 0 || ctx.Err() != nil {
			return nil, err
		}
		scope.Log("WARN", "list %s: stopped after %d names: %v", name, seen, err)
	}
	slices.SortFunc(entries, func(a, b dirEntry) int { return cmp.Compare(a.name, b.name) })
	infos := make([]fileInfo, len(entries))
	out := make([]vql.FileInfo, len(entries))
	for i := range entries {
		infos[i].name, infos[i].mode, infos[i].parent = entries[i].name, entries[i].mode, path
		out[i] = &infos[i]
	}
	return out, nil
}

func (a fileAccessor) Open(_ context.Context, _ *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	return openFile(osName(path), a.devices)
}

// openFile opens a regular file, or a device when devices is set. The check comes
// before the opening because that alone can act, as on a watchdog or a tape.
func openFile(name string, devices bool) (vql.ReadSeekCloser, error) {
	facts, err := followFacts(name)
	if err != nil {
		return nil, err
	}
	if err := readable(name, facts.mode, devices); err != nil {
		return nil, err
	}
	file, mode, err := openNonblock(name)
	if err != nil {
		return nil, err
	}
	if err := readable(name, mode, devices); err != nil { // it was exchanged meanwhile
		_ = file.Close() // opened for reading only: nothing to lose
		return nil, err
	}
	return file, nil
}

func readable(name string, mode fs.FileMode, devices bool) error {
	if mode.IsRegular() || devices && mode&fs.ModeDevice != 0 {
		return nil
	}
	return &fs.PathError{Op: "open", Path: name, Err: ErrNotRegular}
}

// fileInfo is a name in a folder of the operating system.
type fileInfo struct {
	name   string
	parent *vql.Path // nil when path is set
	path   *vql.Path
	mode   fs.FileMode // the type bits alone

	once  sync.Once
	facts *statFacts
	err   error
}

// load asks the operating system for the facts; the error stays the same after.
func (i *fileInfo) load() (*statFacts, error) {
	i.once.Do(func() {
		if i.facts == nil {
			i.facts, i.err = lstatFacts(osName(i.OSPath()))
		}
		if i.err != nil {
			i.facts = &statFacts{mode: i.mode}
		}
	})
	return i.facts, i.err
}

func (i *fileInfo) known() *statFacts {
	facts, _ := i.load() // the name may be gone by now: zero facts then
	return facts
}

func (i *fileInfo) Name() string { return i.name }

func (i *fileInfo) OSPath() *vql.Path {
	if i.path != nil {
		return i.path
	}
	return i.parent.Append(i.name)
}

func (i *fileInfo) Size() int64       { return i.known().size }
func (i *fileInfo) Mode() fs.FileMode { return i.known().mode }
func (i *fileInfo) IsDir() bool       { return i.mode.IsDir() }
func (i *fileInfo) IsLink() bool      { return i.mode&fs.ModeSymlink != 0 }
func (i *fileInfo) Mtime() time.Time  { return i.known().mtime }
func (i *fileInfo) Atime() time.Time  { return i.known().atime }
func (i *fileInfo) Ctime() time.Time  { return i.known().ctime }
func (i *fileInfo) Btime() time.Time  { return i.known().btime }
func (i *fileInfo) Data() *vql.Dict   { return i.known().data(osName(i.OSPath())) }

// Sys lists owner, group, inode, link count and device.
func (i *fileInfo) Sys() *vql.Dict { return i.known().sys() }

// Link returns where a link points to; a relative target is joined to its folder.
func (i *fileInfo) Link() (*vql.Path, error) {
	path := i.OSPath()
	target, err := os.Readlink(osName(path))
	if err != nil {
		return nil, err
	}
	if !os.IsPathSeparator(append([]byte(target), 0)[0]) && runtime.GOOS != "windows" {
		target = osName(path.Dirname()) + "/" + target
	}
	return vql.ParsePath(hostSyntax(), target), nil
}

// identity names the folder that this entry is or leads to. ok is false when it is
// no folder or the platform does not tell.
func (i *fileInfo) identity() (id fileID, ok bool) {
	facts := i.known()
	if i.IsLink() {
		var err error
		if facts, err = followFacts(osName(i.OSPath())); err != nil {
			return fileID{}, false
		}
	}
	return fileID{facts.device, facts.inode}, facts.mode.IsDir() && facts.inode != 0
}

// fileID tells folders apart.
type fileID struct{ device, inode uint64 }

// openThrough opens path with an accessor of the session.
func openThrough(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path) (vql.ReadSeekCloser, error) {
	a, path, err := resolve(scope, accessor, path)
	if err != nil {
		return nil, err
	}
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	return a.Open(ctx, scope, path)
}

// resolve finds the accessor and makes sure that the path is one of its kind: a
// text that came without an accessor's syntax is parsed now.
func resolve(scope *vql.Scope, accessor string, path *vql.Path) (vql.Accessor, *vql.Path, error) {
	a, err := scope.Accessor(accessor)
	if err != nil {
		return nil, nil, err
	}
	if path == nil {
		return nil, nil, fmt.Errorf("no path: %w", fs.ErrInvalid)
	}
	if path.Syntax() == vql.PathOpaque && !path.HasDelegate() {
		if path, err = a.ParsePath(path.Path()); err != nil {
			return nil, nil, err
		}
	}
	return a, path, nil
}
