package wholepack

import (
	"errors"
	"io/fs"
	"sync"
	"time"

	"raptorpack/filestore"
)

// stale is an FS that may remember what it was told of a path, "not there" too, as
// NFS clients do for up to a minute. Listings and the content of files that are
// opened afresh are always new (close-to-open), and what it does itself it knows.
type stale struct {
	filestore.FS

	mu    sync.Mutex
	last  time.Duration // how long an answer is remembered; 0: not at all
	known map[string]answer
}

// answer is what was said of a path, and when.
type answer struct {
	info fs.FileInfo
	err  error
	at   time.Time
}

func newStale(below filestore.FS) *stale { return &stale{FS: below, known: map[string]answer{}} }

// remember has answers of now and later last so long.
func (s *stale) remember(last time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.last = last
	clear(s.known)
}

func (s *stale) recall(path string) (answer, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a, known := s.known[path]
	return a, known && time.Since(a.at) < s.last
}

func (s *stale) note(path string, info fs.FileInfo, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last > 0 && (err == nil || errors.Is(err, fs.ErrNotExist)) {
		s.known[path] = answer{info, err, time.Now()}
	}
}

func (s *stale) forget(paths ...string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, path := range paths {
		delete(s.known, path)
	}
}

// Stat implements filestore.FS.
func (s *stale) Stat(path string) (fs.FileInfo, error) {
	if a, known := s.recall(path); known {
		return a.info, a.err
	}
	info, err := s.FS.Stat(path)
	s.note(path, info, err)
	return info, err
}

// Open implements filestore.FS.
func (s *stale) Open(path string) (filestore.File, error) { return s.open(path, s.FS.Open) }

// OpenWrite implements filestore.FS.
func (s *stale) OpenWrite(path string) (filestore.File, error) { return s.open(path, s.FS.OpenWrite) }

func (s *stale) open(path string, open func(string) (filestore.File, error)) (filestore.File, error) {
	if a, known := s.recall(path); known && a.err != nil {
		return nil, a.err
	}
	file, err := open(path)
	if err != nil {
		s.note(path, nil, err)
		return nil, err
	}
	s.forget(path) // an open asks the server
	return file, nil
}

// Create implements filestore.FS.
func (s *stale) Create(path string) (filestore.File, error) {
	defer s.forget(path)
	return s.FS.Create(path)
}

// Mkdir implements filestore.FS.
func (s *stale) Mkdir(path string) error {
	defer s.forget(path)
	return s.FS.Mkdir(path)
}

// Link implements filestore.FS.
func (s *stale) Link(oldpath, newpath string) error {
	defer s.forget(oldpath, newpath)
	return s.FS.Link(oldpath, newpath)
}

// Rename implements filestore.FS.
func (s *stale) Rename(oldpath, newpath string) error {
	defer s.forget(oldpath, newpath)
	return s.FS.Rename(oldpath, newpath)
}

// Remove implements filestore.FS.
func (s *stale) Remove(path string) error {
	defer s.forget(path)
	return s.FS.Remove(path)
}

// Usage is that of the disk below.
func (s *stale) Usage() (filestore.Usage, error) { return usageOf(s.FS) }
