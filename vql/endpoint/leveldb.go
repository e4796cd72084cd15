package endpoint

import (
	"bytes"
	"container/heap"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"raptorpack/vql"
)

type leveldbArgs struct {
	File     *vql.Path `vql:"file" doc:"The folder of the database."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
}

var errNoDatabase = errors.New("file is needed")

var leveldbPlugin = vql.NewPlugin(vql.Spec{
	Name: "leveldb", Permission: "FILESYSTEM_READ",
	Doc:     "Gives the keys and values of a LevelDB database, which is neither locked nor written to.",
	Columns: []string{"Key", "Value"},
}, func(ctx context.Context, scope *vql.Scope, args *leveldbArgs, emit vql.Emit) error {
	if args.File == nil {
		return errNoDatabase
	}
	a, folder, err := resolve(scope, args.Accessor, args.File)
	if err != nil {
		return err
	}
	db := &levelDB{scope: scope, accessor: a, folder: folder}
	sources, err := db.open(ctx)
	if err != nil {
		return err
	}
	if !db.bytewise {
		return db.emitAll(ctx, sources, emit)
	}
	return db.merge(ctx, sources, emit)
})

const (
	// maxLevelFile bounds a manifest or log, in bytes, and maxLevelLogs all logs:
	// they are held in memory. The originals begin a new log at 4 MiB.
	maxLevelFile = 64 << 20
	maxLevelLogs = 256 << 20
	// maxLevelTables bounds the tables of a database.
	maxLevelTables = 100_000
)

// levelDB is a database that is read where it lies. https://github.com/google/leveldb,
// doc/impl.md, log_format.md and table_format.md describe it.
type levelDB struct {
	scope    *vql.Scope
	accessor vql.Accessor
	folder   *vql.Path
	bytewise bool // keys are in the order of their bytes
}

// levelEntry is a version of a key.
type levelEntry struct {
	key     []byte
	value   []byte
	seq     uint64
	deleted bool
}

// levelSource gives entries in the order of keys, the newest of a key first.
type levelSource interface {
	// next returns nil at the end.
	next(ctx context.Context) (*levelEntry, error)
}

// open finds the files that make up the database now.
func (db *levelDB) open(ctx context.Context) ([]levelSource, error) {
	infos, err := db.accessor.ReadDir(ctx, db.scope, db.folder)
	if err != nil {
		return nil, err
	}
	tables, logs := levelFiles(infos)
	if len(tables) == 0 && len(logs) == 0 {
		return nil, fmt.Errorf("%s holds no tables and no logs of a database: %w", shown(db.folder), fs.ErrNotExist)
	}
	db.bytewise = true
	if version, err := db.version(ctx); err != nil {
		db.scope.Log(vql.LevelWarn, "leveldb: %s: all files are read, old ones too: %v", shown(db.folder), err)
	} else {
		db.bytewise = version.comparator == "" || version.comparator == "leveldb.BytewiseComparator"
		for number := range tables {
			if !version.tables[number] {
				delete(tables, number)
			}
		}
		for number := range logs {
			if number < version.log && number != version.previous {
				delete(logs, number)
			}
		}
		for number := range version.tables {
			if tables[number] == "" {
				db.scope.Log(vql.LevelWarn, "leveldb: %s: table %d is missing", shown(db.folder), number)
			}
		}
	}
	return db.sources(ctx, tables, logs)
}

// levelFiles tells tables and logs by their names.
func levelFiles(infos []vql.FileInfo) (tables, logs map[uint64]string) {
	tables, logs = map[uint64]string{}, map[uint64]string{}
	for _, info := range infos {
		extension := path.Ext(info.Name())
		number, err := strconv.ParseUint(strings.TrimSuffix(info.Name(), extension), 10, 64)
		switch {
		case err != nil:
		case extension == ".ldb" || extension == ".sst":
			tables[number] = info.Name()
		case extension == ".log":
			logs[number] = info.Name()
		}
	}
	return tables, logs
}

func (db *levelDB) sources(ctx context.Context, tables, logs map[uint64]string) ([]levelSource, error) {
	if len(tables) > maxLevelTables {
		return nil, fmt.Errorf("%d tables are more than the %d that are read", len(tables), maxLevelTables)
	}
	var out []levelSource
	for _, number := range sortedNumbers(tables) {
		t, err := openTable(ctx, db, tables[number])
		if err != nil {
			db.trouble(tables[number], err)
			continue
		}
		out = append(out, t)
	}
	room := int64(maxLevelLogs)
	for _, number := range sortedNumbers(logs) {
		entries, size, err := db.log(ctx, logs[number], room)
		if err != nil {
			db.trouble(logs[number], err)
		}
		room -= size
		out = append(out, entries)
	}
	return out, ctx.Err()
}

func (db *levelDB) trouble(name string, err error) {
	db.scope.Log(vql.LevelWarn, "leveldb: %s: %s: %v", shown(db.folder), name, err)
}

func sortedNumbers(files map[uint64]string) []uint64 {
	out := make([]uint64, 0, len(files))
	for n := range files {
		out = append(out, n)
	}
	slices.Sort(out)
	return out
}

// read reads a whole file of at most limit bytes.
func (db *levelDB) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	file, err := db.accessor.Open(ctx, db.scope, db.folder.Append(name))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := readUpTo(ctx, db.scope, file, limit+1)
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it exceeds %d bytes", limit)
	}
	return data, err
}

// readAt reads a part of a file.
func (db *levelDB) readAt(ctx context.Context, name string, data []byte, at int64) error {
	if err := db.scope.Charge(ctx); err != nil {
		return err
	}
	file, err := db.accessor.Open(ctx, db.scope, db.folder.Append(name))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Seek(at, io.SeekStart); err != nil {
		return err
	}
	_, err = io.ReadFull(file, data)
	return err
}

// log reads a log's entries in the order of their keys.
func (db *levelDB) log(ctx context.Context, name string, room int64) (*levelLog, int64, error) {
	data, err := db.read(ctx, name, min(room, maxLevelFile))
	if err != nil {
		return &levelLog{}, 0, err
	}
	entries, err := parseLevelLog(data)
	slices.SortStableFunc(entries, compareEntries)
	return &levelLog{entries}, int64(len(data)), err
}

// levelLog is a log that has been read.
type levelLog struct{ entries []*levelEntry }

func (l *levelLog) next(context.Context) (*levelEntry, error) {
	if len(l.entries) == 0 {
		return nil, nil
	}
	e := l.entries[0]
	l.entries = l.entries[1:]
	return e, nil
}

func compareEntries(a, b *levelEntry) int {
	if c := bytes.Compare(a.key, b.key); c != 0 {
		return c
	}
	switch {
	case a.seq > b.seq:
		return -1
	case a.seq < b.seq:
		return 1
	}
	return 0
}

func levelRow(e *levelEntry) *vql.Dict {
	row := vql.NewDict()
	row.Set("Key", string(e.key))
	row.Set("Value", string(e.value))
	return row
}

// emitAll gives the entries of all files: the order of their keys is one that we do
// not know, so that old values cannot be told from new ones.
func (db *levelDB) emitAll(ctx context.Context, sources []levelSource, emit vql.Emit) error {
	db.scope.Log(vql.LevelInfo, "leveldb: %s: its keys are in an order of its own; values that were replaced are shown too", shown(db.folder))
	for _, source := range sources {
		for {
			e, err := source.next(ctx)
			if err != nil {
				return err
			}
			if e == nil {
				break
			}
			if e.deleted {
				continue
			}
			if err := emit(levelRow(e)); err != nil {
				return err
			}
		}
	}
	return nil
}

// merge gives the newest value of each key.
func (db *levelDB) merge(ctx context.Context, sources []levelSource, emit vql.Emit) error {
	var front levelHeap
	for _, source := range sources {
		e, err := source.next(ctx)
		if err != nil {
			return err
		}
		if e != nil {
			front = append(front, levelHead{e, source})
		}
	}
	heap.Init(&front)
	var last []byte
	for n := 0; len(front) > 0; n++ {
		e := front[0].entry
		following, err := front[0].source.next(ctx)
		if err != nil {
			return err
		}
		if following == nil {
			heap.Pop(&front)
		} else {
			front[0].entry = following
			heap.Fix(&front, 0)
		}
		if n > 0 && bytes.Equal(last, e.key) {
			continue
		}
		last = e.key
		if e.deleted {
			continue
		}
		if err := emit(levelRow(e)); err != nil {
			return err
		}
	}
	return nil
}

// levelHeap has the source with the first entry in front.
type levelHeap []levelHead

type levelHead struct {
	entry  *levelEntry
	source levelSource
}

func (h levelHeap) Len() int           { return len(h) }
func (h levelHeap) Less(i, j int) bool { return compareEntries(h[i].entry, h[j].entry) < 0 }
func (h levelHeap) Swap(i, j int)      { h[i], h[j] = h[j], h[i] }
func (h *levelHeap) Push(x any)        { *h = append(*h, x.(levelHead)) }

func (h *levelHeap) Pop() any {
	last := (*h)[len(*h)-1]
	*h = (*h)[:len(*h)-1]
	return last
}
