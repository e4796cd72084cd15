package filestore

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"io/fs"
	"log/slog"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/internal/retry"
	"raptorpack/internal/seeded"
)

// Options sets up a Store. The zero value is ready to use.
type Options struct {
	FS         FS                    // nil: the operating system's, below the root
	Registerer prometheus.Registerer // nil: metrics are counted but not exported
	Logger     *slog.Logger          // nil: slog.Default
	MaxCalls   int                   // file calls under way at once; 0: 64
	DiskAlarm  float64               // used part of the disk that raises the alarm; 0: 0.9
	DiskEvery  time.Duration         // how often Run looks at the disk; 0: 10 s
}

// urgentCalls is the size of the lane that leases and ledger have to
// themselves, so that sixty slow syncs of rows cannot cost a lease.
const urgentCalls = 16

// again is how ESTALE and EIO are retried; some 300 ms in all.
var again = retry.Policy{Tries: 4, First: 40 * time.Millisecond, Cap: 250 * time.Millisecond}

// Store is one shared filesystem as one process sees it: every file call is
// timed, counted, bounded and can be abandoned by its caller. Safe for
// concurrent use.
type Store struct {
	*core
	lane   *pool
	urgent bool // may write when the disk is full
}

// core is what all lanes of one store share.
type core struct {
	fs         FS
	root       string // "" when the FS is not the operating system's
	log        *slog.Logger
	metrics    *metrics
	registerer prometheus.Registerer
	lanes      [2]*pool
	ended      chan struct{} // closed by Close
	close      func() error
	self       process
	alarm      float64
	diskEvery  time.Duration

	full        atomic.Bool  // bulk writes are refused until space is back
	reserveSize atomic.Int64 // 0: no reserve wanted
	alarmed     atomic.Bool

	mu   sync.Mutex
	seed maphash.Seed
	dirs map[uint64]struct{} // directories known to exist, durably, by dirKey
	shut bool
}

// maxKnownDirs bounds the cache of MkdirAll; beyond it the cache starts anew.
const maxKnownDirs = 50_000

// Open returns the store whose root is an existing directory. Close ends it.
func Open(root string, o Options) (*Store, error) {
	c := &core{
		fs: o.FS, log: o.Logger, registerer: o.Registerer, alarm: o.DiskAlarm,
		ended: make(chan struct{}), close: func() error { return nil }, seed: maphash.MakeSeed(), dirs: map[uint64]struct{}{},
	}
	if c.log == nil {
		c.log = slog.Default()
	}
	if c.alarm == 0 {
		c.alarm = 0.9
	}
	c.diskEvery = o.DiskEvery
	orDefault(&c.diskEvery, 10*time.Second)
	if c.fs == nil {
		disk, err := OpenOS(root)
		if err != nil {
			return nil, err
		}
		c.fs, c.root, c.close = disk, root, disk.Close
	}
	if o.MaxCalls <= 0 {
		o.MaxCalls = 64
	}
	c.metrics = newMetrics(o.Registerer)
	c.self = thisProcess()
	c.lanes[0] = &pool{slots: make(chan struct{}, o.MaxCalls), ended: c.ended}
	c.lanes[1] = &pool{slots: make(chan struct{}, urgentCalls), ended: c.ended}
	return &Store{core: c, lane: c.lanes[0]}, nil
}

// Urgent returns the same store with a small lane of its own, for what keeps
// the pack alive: leases, heartbeats, the ledger. It goes on writing when the
// disk is full, from the space that the reserve gave back. Nothing whose
// amount a client decides may be written through it.
func (s *Store) Urgent() *Store {
	return &Store{core: s.core, lane: s.lanes[1], urgent: true}
}

// Close refuses new calls and waits until none is under way or ctx ends; a
// hung mount can keep calls for ever. Handles must be closed before.
func (s *Store) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.shut
	s.shut = true
	s.mu.Unlock()
	if !first {
		return nil
	}
	close(s.ended)
	for _, lane := range s.lanes {
		if err := lane.drain(ctx); err != nil {
			return fmt.Errorf("close filestore: %w", err)
		}
	}
	return s.close()
}

// Root returns the directory that the store lives in, empty if it is no
// directory of the operating system.
func (s *Store) Root() string { return s.root }

// Stats returns how many file calls of each kind were begun, exactly: "open",
// "create", "openwrite", "mkdir", "link", "rename", "remove", "readdir",
// "stat", "syncdir", "read", "write", "sync", "truncate", "fstat", "close",
// "usage". Tests hold costs against it.
func (s *Store) Stats() map[string]int64 {
	counts := make(map[string]int64, opCount)
	for kind := range opCount {
		counts[kind.String()] = s.metrics.counts[kind].Load()
	}
	return counts
}

// call runs a file call that brings nothing but an error.
func (s *Store) call(ctx context.Context, kind opKind, path string, fn func() error) error {
	_, err := invoke(ctx, s, kind, path, nil, func() (struct{}, error) { return struct{}{}, fn() })
	return s.noticeFull(ctx, err)
}

// patiently repeats fn while it meets ESTALE or EIO. Never for write or sync.
func (s *Store) patiently(ctx context.Context, fn func() error) error {
	return retry.Do(ctx, again, func(err error) bool {
		if !passing(err) {
			return false
		}
		s.metrics.retries.Inc()
		return true
	}, fn)
}

// OpenFile opens an existing file for reading, afresh: what other hosts synced
// before is visible. A missing file is fs.ErrNotExist.
func (s *Store) OpenFile(ctx context.Context, path string) (*Handle, error) {
	return s.open(ctx, opOpen, path, s.fs.Open)
}

// OpenWrite opens an existing file for reading and writing. Only the one
// writer of a file may do so.
func (s *Store) OpenWrite(ctx context.Context, path string) (*Handle, error) {
	return s.open(ctx, opOpenWrite, path, s.fs.OpenWrite)
}

func (s *Store) open(ctx context.Context, kind opKind, path string, open func(string) (File, error)) (h *Handle, err error) {
	err = s.patiently(ctx, func() error {
		f, err := invoke(ctx, s, kind, path, closeLate, func() (File, error) { return open(path) })
		h = &Handle{store: s, path: path, file: f}
		return err
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// CreateFile makes a new file for reading and writing, and the directories
// above it. An existing name is ErrExists. The name is durable only after
// SyncDir of its directory.
func (s *Store) CreateFile(ctx context.Context, name string) (*Handle, error) {
	if err := s.room(opCreate, name); err != nil {
		return nil, err
	}
	dir := path.Dir(name)
	if err := s.MkdirAll(ctx, dir); err != nil {
		return nil, err
	}
	h, err := s.create(ctx, name)
	if errors.Is(err, fs.ErrNotExist) { // the tree was deleted since: our knowledge is stale
		s.forgetUp(dir)
		if err := s.MkdirAll(ctx, dir); err != nil {
			return nil, err
		}
		return s.create(ctx, name)
	}
	return h, err
}

func (s *Store) create(ctx context.Context, path string) (*Handle, error) {
	f, err := invoke(ctx, s, opCreate, path, closeLate, func() (File, error) { return s.fs.Create(path) })
	if err != nil {
		return nil, s.noticeFull(ctx, err)
	}
	return &Handle{store: s, path: path, file: f}, nil
}

// closeLate disposes of a file whose caller left; nothing was written to it.
func closeLate(f File) { _ = f.Close() }

// MkdirAll makes a directory and those above it, durably: the parent of each
// is synced, once per process and directory. Repeats cost nothing.
func (s *Store) MkdirAll(ctx context.Context, dir string) error {
	if s.known(dir) {
		return nil
	}
	if !fs.ValidPath(dir) {
		return fmt.Errorf("mkdir %.200q: %w", dir, fs.ErrInvalid)
	}
	if err := s.MkdirAll(ctx, path.Dir(dir)); err != nil {
		return err
	}
	err := s.patiently(ctx, func() error {
		return s.call(ctx, opMkdir, dir, func() error { return s.fs.Mkdir(dir) })
	})
	if err != nil && !errors.Is(err, ErrExists) {
		return err
	}
	// Also when somebody else made it: they may not have come to their sync yet.
	if err := s.SyncDir(ctx, path.Dir(dir)); err != nil {
		return err
	}
	s.learn(dir)
	return nil
}

// SyncDir makes the names in a directory durable.
func (s *Store) SyncDir(ctx context.Context, dir string) error {
	if seeded.Out("sync") {
		return nil
	}
	return s.call(ctx, opSyncDir, dir, func() error { return s.fs.SyncDir(dir) })
}

// ReadDir lists a directory afresh, sorted, without the names of unfinished
// files. A missing directory is fs.ErrNotExist.
func (s *Store) ReadDir(ctx context.Context, dir string) ([]string, error) {
	entries, err := s.ReadDirEntries(ctx, dir)
	names := make([]string, 0, len(entries))
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names, err
}

// ReadDirEntries is ReadDir for callers that must tell files from directories.
func (s *Store) ReadDirEntries(ctx context.Context, dir string) (entries []fs.DirEntry, err error) {
	all, err := s.list(ctx, dir)
	for _, entry := range all {
		if !passingName(entry.Name()) {
			entries = append(entries, entry)
		}
	}
	return entries, err
}

func (s *Store) list(ctx context.Context, dir string) (entries []fs.DirEntry, err error) {
	err = s.patiently(ctx, func() (err error) {
		entries, err = invoke(ctx, s, opReadDir, dir, nil, func() ([]fs.DirEntry, error) { return s.fs.ReadDir(dir) })
		return err
	})
	return entries, err
}

// Stat describes a path. On NFS the answer may be cached for a minute, "not
// there" too: never ask for a name that somebody may be about to make.
func (s *Store) Stat(ctx context.Context, path string) (info fs.FileInfo, err error) {
	err = s.patiently(ctx, func() (err error) {
		info, err = invoke(ctx, s, opStat, path, nil, func() (fs.FileInfo, error) { return s.fs.Stat(path) })
		return err
	})
	return info, err
}

// Remove removes a file or an empty directory; a missing one is fs.ErrNotExist.
func (s *Store) Remove(ctx context.Context, path string) error {
	s.forget(path)
	return s.call(ctx, opRemove, path, func() error { return s.fs.Remove(path) })
}

// RemoveAll removes a tree, children first; a missing one is no error.
func (s *Store) RemoveAll(ctx context.Context, root string) error {
	if root == "." {
		return fmt.Errorf("remove the whole store: %w", fs.ErrInvalid)
	}
	entries, err := s.list(ctx, root)
	if err == nil {
		for _, entry := range entries {
			if err := s.removeEntry(ctx, path.Join(root, entry.Name()), entry.IsDir()); err != nil {
				return err
			}
		}
	} else if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err := s.Remove(ctx, root); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func (s *Store) removeEntry(ctx context.Context, path string, isDir bool) error {
	if isDir {
		return s.RemoveAll(ctx, path)
	}
	if err := s.Remove(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// tempPrefix begins the names of unfinished files; nothing else may.
const tempPrefix = ".tmp-"

// passingName reports names that listings hide: unfinished files, and what an
// NFS client calls an open file that was removed.
func passingName(name string) bool {
	return strings.HasPrefix(name, tempPrefix) || strings.HasPrefix(name, ".nfs")
}

func (s *Store) known(dir string) bool {
	if dir == "." {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, known := s.dirs[s.dirKey(dir)]
	return known
}

// dirKey is what a directory is known by: paths of 100 bytes, of each flow some, would
// be most of the cache. That two of the directories known have one key by chance is
// less likely than a bit that flips.
func (s *Store) dirKey(dir string) uint64 { return maphash.String(s.seed, dir) }

func (s *Store) learn(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.dirs) >= maxKnownDirs {
		clear(s.dirs)
	}
	s.dirs[s.dirKey(dir)] = struct{}{}
}

// forget drops one directory from the cache of MkdirAll.
func (s *Store) forget(dir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.dirs, s.dirKey(dir))
}

// forgetUp drops a directory and all above it: another node removed the tree.
func (s *Store) forgetUp(dir string) {
	for ; dir != "."; dir = path.Dir(dir) {
		s.forget(dir)
	}
}
