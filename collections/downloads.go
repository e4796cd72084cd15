package collections

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/internal/archive"
)

// ErrBusy means that too many downloads are being made. Trying again later helps.
var ErrBusy = errors.New("too many downloads are being made")

const (
	makers      = 2         // downloads that are made at the same time
	maxWaiting  = 64        // that wait behind those
	makeWithin  = time.Hour // one whose caller does not wait
	dropWithin  = 10 * time.Second
	pieceBytes  = 1 << 20
	tempPrefix  = ".tmp-" // what listings of the filestore hide
	suffixBytes = 8
)

// DownloadsOptions wires Downloads. All are required.
type DownloadsOptions struct {
	Store      *filestore.Store
	Registerer prometheus.Registerer
	Logger     *slog.Logger
}

// Downloads makes zips on the filestore for people to fetch, under names that no other
// node or request has. Safe for concurrent use.
type Downloads struct {
	o       DownloadsOptions
	metrics *metrics
	queue   chan *making // full: ErrBusy

	mu      sync.Mutex
	stopped bool // nothing is taken any more
}

// Download is a wish for one.
type Download struct {
	Dir      string // filestore.FlowDownloadsDir or HuntDownloadsDir
	Name     string // what its name begins with
	Password string // empty: everybody may open it
	Wait     bool   // until it is there; otherwise it is made within an hour

	// Write writes the zip. It is called once, perhaps after Make has returned.
	Write func(ctx context.Context, w io.Writer) error

	// Wanted tells, once the file has its name, whether what it is made of is still
	// there; if not it is removed again.
	Wanted func() bool
}

// making is a download on its way.
type making struct {
	Download
	ctx  context.Context //nolint:containedctx // of the caller who waits; nil: nobody does
	path string
	done chan error // one slot, written once; nobody may be there to read it
}

// NewDownloads wires the folder of downloads.
func NewDownloads(o DownloadsOptions) *Downloads {
	return &Downloads{o: o, metrics: newMetrics(o.Registerer), queue: make(chan *making, maxWaiting)}
}

// Run makes downloads until ctx ends. Those that are not ready by then are dropped, and
// who waits for them is told.
func (d *Downloads) Run(ctx context.Context) error {
	var all sync.WaitGroup
	for range makers {
		all.Go(func() { d.work(ctx) })
	}
	all.Wait()
	d.mu.Lock()
	d.stopped = true
	d.mu.Unlock()
	for {
		select {
		case m := <-d.queue:
			d.end(m, context.Canceled)
		default:
			return nil
		}
	}
}

func (d *Downloads) work(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-d.queue:
			d.end(m, d.make(ctx, m))
		}
	}
}

func (d *Downloads) end(m *making, err error) {
	d.metrics.made(err)
	if err != nil && m.ctx == nil {
		d.o.Logger.Warn("download was not made", "path", m.path, "err", err)
	}
	m.done <- err
}

// Make has a download made and returns its path on the filestore. Nothing else is ever
// written under that path; until the zip is whole there is nothing.
func (d *Downloads) Make(ctx context.Context, wish Download) (string, error) {
	m := &making{Download: wish, path: path.Join(wish.Dir, fileName(wish.Name)), done: make(chan error, 1)}
	if wish.Wait {
		m.ctx = ctx
	}
	if err := d.enqueue(m); err != nil || !wish.Wait {
		return m.path, err
	}
	select {
	case err := <-m.done:
		return m.path, err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// enqueue puts a download into the queue, unless it is full or nobody empties it any
// more.
func (d *Downloads) enqueue(m *making) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.stopped {
		return ErrBusy
	}
	select {
	case d.queue <- m:
		return nil
	default:
		return ErrBusy
	}
}

// fileName is a name for a zip that nobody else makes.
func fileName(wish string) string {
	raw := make([]byte, suffixBytes)
	rand.Read(raw) // never fails since Go 1.24
	if len(wish) > 100 {
		wish = wish[:100]
	}
	// Escaped, so that the name stays in its folder, and in one piece.
	return path.Base(filestore.EscapeName(wish + "-" + hex.EncodeToString(raw) + ".zip"))
}

// make writes one download.
func (d *Downloads) make(ctx context.Context, m *making) error {
	ctx, cancel := context.WithTimeout(ctx, makeWithin)
	defer cancel()
	if m.ctx != nil {
		stop := context.AfterFunc(m.ctx, cancel)
		defer stop()
	}
	dir, name := path.Split(m.path)
	temp := path.Join(dir, tempPrefix+name)
	err := d.write(ctx, temp, m)
	if err == nil {
		err = errors.Join(d.o.Store.Rename(ctx, temp, m.path), d.o.Store.SyncDir(ctx, path.Dir(m.path)))
	}
	if err != nil {
		d.remove(ctx, temp)
		return fmt.Errorf("make download %s: %w", m.path, err)
	}
	if m.Wanted != nil && !m.Wanted() {
		d.remove(ctx, m.path)
		return fmt.Errorf("make download %s: it was deleted meanwhile: %w", m.path, fs.ErrNotExist)
	}
	return nil
}

func (d *Downloads) write(ctx context.Context, temp string, m *making) (err error) {
	if err := d.o.Store.MkdirAll(ctx, path.Dir(temp)); err != nil {
		return err
	}
	file, err := d.o.Store.CreateFile(ctx, temp)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close(context.WithoutCancel(ctx))) }()
	out := &handleWriter{ctx: ctx, file: file, buffer: make([]byte, 0, pieceBytes)}
	err = archive.Seal(out, m.Password, func(w io.Writer) error { return m.Write(ctx, w) })
	if err = errors.Join(err, out.err); err == nil {
		err = out.flush()
	}
	if err == nil {
		err = file.Sync(ctx)
	}
	d.metrics.bytes.Add(float64(out.at))
	return err
}

// remove is for what nobody relies on: what stays is only counted.
func (d *Downloads) remove(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropWithin)
	defer cancel()
	if err := d.o.Store.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.metrics.leftBehind.Inc()
	}
}

// handleWriter writes a file from its beginning, a megabyte at a time.
type handleWriter struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	file   *filestore.Handle
	buffer []byte
	at     int64
	err    error // the first; nothing is written after it
}

// Write implements io.Writer.
func (w *handleWriter) Write(p []byte) (int, error) {
	written := 0
	for len(p) > 0 && w.err == nil {
		n := min(len(p), cap(w.buffer)-len(w.buffer))
		w.buffer = append(w.buffer, p[:n]...)
		p, written = p[n:], written+n
		if len(w.buffer) == cap(w.buffer) {
			w.err = w.flush()
		}
	}
	return written, w.err
}

func (w *handleWriter) flush() error {
	if len(w.buffer) == 0 {
		return nil
	}
	_, err := w.file.WriteAt(w.ctx, w.buffer, w.at)
	w.at += int64(len(w.buffer))
	w.buffer = w.buffer[:0] // after an error nothing is written into it (filestore.ErrAbandoned)
	return err
}
