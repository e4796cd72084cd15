package endpoint

import (
	"context"
	"io/fs"

	"raptorpack/vql"
)

// wantEntry tells whether a name of a folder is of use; of mode only the type is
// known.
type wantEntry func(name string, mode fs.FileMode) bool

// wantedLister is an accessor that leaves out names nobody wants while it lists a
// folder: the walk of a large tree drops nearly all of them.
type wantedLister interface {
	listWanted(ctx context.Context, scope *vql.Scope, path *vql.Path, want wantEntry) ([]vql.FileInfo, error)
}

// dirEntry is a name in a folder and its type.
type dirEntry struct {
	name string
	mode fs.FileMode
}

// readDir lists what the cursors have a use for, and more where the accessor cannot
// choose.
func (w *walk) readDir(at *place, cursors []cursor) ([]vql.FileInfo, error) {
	lister, ok := w.accessor.(wantedLister)
	if !ok {
		return w.accessor.ReadDir(w.ctx, w.scope, at.path)
	}
	return lister.listWanted(w.ctx, w.scope, at.path, func(name string, mode fs.FileMode) bool {
		return wanted(cursors, name, mode&(fs.ModeDir|fs.ModeSymlink) != 0)
	})
}

// wanted tells whether step finds anything to do with a name.
func wanted(cursors []cursor, name string, mayEnter bool) bool {
	for i := range cursors {
		c := &cursors[i]
		last := c.at+1 == len(c.pattern.parts)
		if (last || mayEnter) && c.pattern.parts[c.at].match(name) {
			return true
		}
	}
	return false
}
