package main

import (
	"io/fs"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"raptorpack/filestore"
)

// meter counts what is read of a store and holds readers back to a rate.
type meter struct {
	perSecond float64         // bytes; 0: as fast as it goes
	over      <-chan struct{} // closed when nobody waits for what is read any more
	read      atomic.Int64    // bytes

	mu  sync.Mutex
	due time.Time // when all that was read so far would have been, at the rate
}

// meterPiece is how much is read between two looks at the rate.
const meterPiece = 256 << 10

// meterCredit is how much of the time that a reader spent on something else it may
// make up for.
const meterCredit = time.Second

// take counts bytes that were read, and waits until the rate allows more.
func (m *meter) take(bytes int) {
	m.read.Add(int64(bytes))
	if m.perSecond <= 0 || bytes <= 0 {
		return
	}
	now := time.Now()
	m.mu.Lock()
	switch since := now.Sub(m.due); {
	case m.due.IsZero():
		m.due = now
	case since > meterCredit:
		m.due = now.Add(-meterCredit)
	}
	m.due = m.due.Add(time.Duration(float64(bytes) / m.perSecond * float64(time.Second)))
	wait := m.due.Sub(now)
	m.mu.Unlock()
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.over:
	}
}

// meteredFS is a filesystem that is read through a meter.
type meteredFS struct {
	filestore.FS
	meter *meter

	// shown says which names a listing has; nil: all.
	shown func(dir, name string) bool
}

// Open implements filestore.FS.
func (f meteredFS) Open(path string) (filestore.File, error) {
	file, err := f.FS.Open(path)
	if err != nil {
		return nil, err
	}
	return meteredFile{file, f.meter}, nil
}

// ReadDir implements filestore.FS.
func (f meteredFS) ReadDir(path string) ([]fs.DirEntry, error) {
	entries, err := f.FS.ReadDir(path)
	if f.shown == nil {
		return entries, err
	}
	return slices.DeleteFunc(entries, func(e fs.DirEntry) bool { return !f.shown(path, e.Name()) }), err
}

type meteredFile struct {
	filestore.File
	meter *meter
}

// ReadAt implements io.ReaderAt in pieces, so that one large read keeps to the rate
// as many small ones do.
func (f meteredFile) ReadAt(p []byte, off int64) (n int, err error) {
	for n < len(p) {
		piece := p[n:min(n+meterPiece, len(p))]
		got, err := f.File.ReadAt(piece, off+int64(n))
		n += got
		f.meter.take(got)
		if err != nil {
			return n, err
		}
	}
	return n, nil
}
