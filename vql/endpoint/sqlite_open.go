package endpoint

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"raptorpack/vql"
)

// maxDatabase bounds a database that is copied, in bytes.
const maxDatabase = 4 << 30

// database is a file that SQLite may open for reading.
type database struct {
	name   string
	copied bool   // it is ours
	folder string // to remove, "" for none
}

func (d *database) close(scope *vql.Scope) { removeFolder(scope, d.folder) }

// removeFolder removes a folder of temporary files; "" is none.
func removeFolder(scope *vql.Scope, name string) {
	if name == "" {
		return
	}
	if err := os.RemoveAll(name); err != nil {
		scope.Log(vql.LevelWarn, "remove temporary folder: %v", err)
	}
}

// openDatabase decides whether a database can be read where it lies. SQLite writes
// beside one whose journal has to be rolled back, and beside any in WAL mode, so
// these are copied.
func openDatabase(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path) (*database, error) {
	a, path, err := resolve(scope, accessor, path)
	if err != nil {
		return nil, err
	}
	namer, ok := a.(vql.OSPather)
	if ok && scope.LookupString("SQLITE_ALWAYS_MAKE_TEMPFILE") == "" {
		if name, ok := namer.OSPath(path); ok {
			quiet, err := quietDatabase(name)
			if err != nil {
				return nil, err
			}
			if quiet {
				return &database{name: name}, nil
			}
		}
	}
	return copyDatabase(ctx, scope, accessor, path)
}

// walVersion is the file format version of databases in WAL mode.
// https://www.sqlite.org/fileformat2.html#file_format_version_numbers
const walVersion = 2

// quietDatabase reports whether reading a database writes nothing beside it.
func quietDatabase(name string) (bool, error) {
	file, err := openFile(name, false)
	if err != nil {
		return false, err
	}
	defer file.Close()
	header := make([]byte, 20)
	if _, err := io.ReadFull(file, header); err != nil {
		return true, nil // empty, or no database: SQLite says which
	}
	if header[18] == walVersion || header[19] == walVersion {
		return false, nil
	}
	for _, suffix := range []string{"-journal", "-wal"} {
		if info, err := os.Lstat(name + suffix); err == nil && info.Size() > 0 {
			return false, nil
		}
	}
	return true, nil
}

// copyTries is how often a database is copied that changes meanwhile.
const copyTries = 3

// copyDatabase copies a database with its journals into a folder of its own, and
// recovers it there. The index of the WAL (-shm) stays: SQLite makes a new one, and
// an old one would not fit a copy taken a moment later.
func copyDatabase(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path) (*database, error) {
	a, path, err := resolve(scope, accessor, path)
	if err != nil {
		return nil, err
	}
	folder, err := os.MkdirTemp(scope.Session().Limits.TempDir, "raptorpack-*")
	if err != nil {
		return nil, err
	}
	d := &database{name: filepath.Join(folder, "db"), copied: true, folder: folder}
	for try := 1; ; try++ {
		before := stateOf(ctx, scope, a, path)
		if err := copyParts(ctx, scope, a, path, d.name); err != nil {
			d.close(scope)
			return nil, err
		}
		if before == stateOf(ctx, scope, a, path) {
			break
		}
		if try == copyTries {
			scope.Log(vql.LevelWarn, "sqlite: %s changed while it was copied; rows may be missing", shown(path))
			break
		}
	}
	if err := recoverDatabase(ctx, scope, d.name); err != nil {
		d.close(scope)
		return nil, fmt.Errorf("recover the copy of %s: %w", shown(path), err)
	}
	return d, nil
}

// databaseParts are the files of a database by what their names end in.
var databaseParts = []string{"", "-journal", "-wal"}

// partState is what tells that a part has changed.
type partState struct {
	size  int64
	mtime time.Time
}

func stateOf(ctx context.Context, scope *vql.Scope, a vql.Accessor, path *vql.Path) (out [3]partState) {
	for i, suffix := range databaseParts {
		part := beside(path, suffix)
		if part == nil {
			continue
		}
		if info, err := a.Lstat(ctx, scope, part); err == nil {
			out[i] = partState{info.Size(), info.Mtime()}
		}
	}
	return out
}

// beside is the path of a file whose name is longer by a suffix; nil where the
// path is no name.
func beside(path *vql.Path, suffix string) *vql.Path {
	if suffix == "" {
		return path
	}
	if path.Syntax() == vql.PathOpaque || path.Len() == 0 {
		return nil
	}
	return path.Dirname().Append(path.Basename() + suffix)
}

func copyParts(ctx context.Context, scope *vql.Scope, a vql.Accessor, path *vql.Path, to string) error {
	room := int64(maxDatabase)
	for _, suffix := range databaseParts {
		part := beside(path, suffix)
		if part == nil {
			continue
		}
		n, err := copyToFile(ctx, scope, a, part, to+suffix, room)
		if suffix != "" && errors.Is(err, fs.ErrNotExist) {
			// Taken away since the last try, so that the copy must not have it.
			err = os.Remove(to + suffix)
			if errors.Is(err, fs.ErrNotExist) {
				err = nil
			}
		}
		if err != nil {
			return fmt.Errorf("copy %s: %w", shown(part), err)
		}
		room -= n
	}
	return nil
}

// copyToFile copies a file into a new one of ours and returns its length.
func copyToFile(ctx context.Context, scope *vql.Scope, a vql.Accessor, path *vql.Path, to string, limit int64) (int64, error) {
	if err := scope.Charge(ctx); err != nil {
		return 0, err
	}
	from, err := a.Open(ctx, scope, path)
	if err != nil {
		return 0, err
	}
	defer from.Close()
	file, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return 0, err
	}
	room := &bounded{to: file, left: limit}
	err = copyAll(ctx, scope, room, from)
	if errors.Is(err, errUnpacked) {
		err = fmt.Errorf("it exceeds %d bytes, which is all that is copied", limit)
	}
	return limit - room.left, errors.Join(err, file.Close())
}

// recoverDatabase rolls back a journal or takes over a WAL, so that the copy can
// be opened for reading alone. What is no database is told by the query.
func recoverDatabase(ctx context.Context, scope *vql.Scope, name string) error {
	journals := false
	for _, suffix := range databaseParts[1:] {
		if info, err := os.Lstat(name + suffix); err == nil && info.Size() > 0 {
			journals = true
		}
	}
	quiet, err := quietDatabase(name)
	if err != nil || quiet && !journals {
		return err
	}
	db, err := sql.Open("sqlite", fileURI(name, "rw"))
	if err != nil {
		return err
	}
	defer closeSQL(scope, db)
	var mode string
	return db.QueryRowContext(ctx, "PRAGMA journal_mode=DELETE").Scan(&mode)
}

// fileURI names a database as SQLite wants it. trusted_schema keeps the views of a
// foreign file from calling functions with side effects.
func fileURI(name, mode string) string {
	name = filepath.ToSlash(name)
	if runtime.GOOS == "windows" && !strings.HasPrefix(name, "/") {
		name = "/" + name
	}
	u := url.URL{Scheme: "file", Path: name, OmitHost: true, RawQuery: url.Values{
		"mode":    {mode},
		"_pragma": {"trusted_schema(0)", "cell_size_check(1)", "cache_size(-16384)"},
	}.Encode()}
	return u.String()
}
