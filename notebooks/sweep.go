package notebooks

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"raptorpack/filestore"
)

// Sweep removes what no timeline names any more. Of a deleted notebook that is all that
// was begun before it was deleted; what was begun since stays. Folders that are left
// empty go, too. It may be repeated.
func (f *Files) Sweep(ctx context.Context, u Unused) error {
	top := filestore.NotebookDir(u.Org, u.Notebook)
	var err error
	if u.Folder != "" {
		err = f.removeFolder(ctx, filestore.TimelineRows(u.Org, u.Notebook, u.Timeline, u.Folder).String(), top)
	} else {
		err = f.sweepNotebook(ctx, top, u.Index)
	}
	if err != nil {
		return fmt.Errorf("remove files of notebook %s: %w", u.Notebook, err)
	}
	f.metrics.swept.Inc()
	return nil
}

// removeFolder removes the rows of a child, and the folders above that are empty then,
// up to top.
func (f *Files) removeFolder(ctx context.Context, dir, top string) error {
	if err := f.o.Store.RemoveAll(ctx, dir); err != nil {
		return err
	}
	for dir != top {
		dir = path.Dir(dir)
		if left, err := f.removeEmpty(ctx, dir); left || err != nil {
			return err
		}
	}
	return nil
}

// removeEmpty removes a folder unless something is in it. Who is about to put something
// there makes it again.
func (f *Files) removeEmpty(ctx context.Context, dir string) (left bool, err error) {
	entries, err := f.o.Store.ReadDirEntries(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || len(entries) > 0 {
		return true, err
	}
	if err := f.o.Store.Remove(ctx, dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		// Something came between, or a name that listings hide is there: the next
		// sweep of this notebook looks again.
		return true, nil
	}
	return false, nil
}

// sweepNotebook removes all rows of a notebook that were begun before an entry.
func (f *Files) sweepNotebook(ctx context.Context, top string, before uint64) error {
	var old []string
	err := f.walk(ctx, top, func(dir string) {
		if begun, ok := begunOf(path.Base(dir)); ok && begun < before {
			old = append(old, dir)
		}
	})
	if err != nil {
		return err
	}
	for _, dir := range old {
		if err := f.removeFolder(ctx, dir, top); err != nil {
			return err
		}
	}
	_, err = f.removeEmpty(ctx, top)
	return err
}

// walk calls found for each folder of rows below dir.
func (f *Files) walk(ctx context.Context, dir string, found func(dir string)) error {
	for folders := []string{dir}; len(folders) > 0; folders = folders[1:] {
		entries, err := f.o.Store.ReadDirEntries(ctx, folders[0])
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, e := range entries {
			name := path.Join(folders[0], e.Name())
			switch {
			case !e.IsDir():
			case strings.HasPrefix(e.Name(), "~"):
				found(name)
			default:
				folders = append(folders, name)
			}
		}
	}
	return nil
}

// File is a file of a notebook on the filestore.
type File struct {
	Path   string
	Folder string // of the rows that it has
}

// List lists the files of a notebook, whether a timeline names them or not.
func (f *Files) List(ctx context.Context, key Key) ([]File, error) {
	var dirs []string
	err := f.walk(ctx, filestore.NotebookDir(key.Org, key.Notebook), func(dir string) { dirs = append(dirs, dir) })
	if err != nil {
		return nil, fmt.Errorf("list files of notebook %s: %w", key.Notebook, err)
	}
	var out []File
	for _, dir := range dirs {
		names, err := f.o.Store.ReadDir(ctx, dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list files of notebook %s: %w", key.Notebook, err)
		}
		for _, name := range names {
			out = append(out, File{path.Join(dir, name), path.Base(dir)})
		}
	}
	return out, nil
}
