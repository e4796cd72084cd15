package notebooks

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/internal/retry"
)

var (
	// ErrOrder means that a row came that is older than the one before. It is a
	// mistake of the caller.
	ErrOrder = errors.New("row is out of order")

	// ErrLarge means that a row is longer than MaxRowBytes. It can be left out.
	ErrLarge = errors.New("row is too long for a timeline")

	// ErrGone means that rows were removed while they were read: their child was
	// replaced or deleted. Reading anew shows what is there now.
	ErrGone = errors.New("the timeline changed while it was read")
)

const (
	// MaxRowBytes bounds the JSON of a row, so that a merge never holds more than a
	// MiB of each child.
	MaxRowBytes = filestore.MaxMemberBytes - lineExtra
	lineExtra   = 100 // what a line has besides its row, at most

	commitBytes = 8 << 20 // of rows in a commit
)

// Committer makes rows durable: *filestore.Committer.
type Committer interface {
	Submit(ctx context.Context, c *filestore.Commit) error
	Forget(ctx context.Context, dir string)
}

// FilesOptions wire Files. All but the last are required.
type FilesOptions struct {
	Store      *filestore.Store
	Reader     *filestore.Reader
	Committer  Committer
	Registerer prometheus.Registerer // nil: counted, not exported
}

// Files are the rows of timelines on the filestore, as one node reads and writes them.
// Safe for concurrent use.
type Files struct {
	o       FilesOptions
	metrics *metrics
}

// NewFiles wires Files; nothing is started.
func NewFiles(o FilesOptions) *Files { return &Files{o, newMetrics(o.Registerer)} }

// Stored are rows that are durable. No timeline names them yet: that takes PlanAdd, and
// when its mutation is refused they have to be dropped (Writer.Drop).
type Stored struct {
	Folder      string
	Rows        int64
	First, Last time.Time
}

// Writer makes the rows of one child durable. It belongs to one goroutine.
type Writer struct {
	f      *Files
	set    filestore.Set
	top    string // the notebook's folder
	name   string
	out    Stored
	text   []byte // lines of the next extent
	rows   int64  // in it
	commit filestore.Commit
	size   int
}

// Begin starts the rows of a child. begun is what Room.Begun says.
func (f *Files) Begin(w Wish, begun uint64) *Writer {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails since Go 1.24
	folder := fmt.Sprintf("~%d-%s", begun, hex.EncodeToString(raw))
	return &Writer{
		f: f, set: filestore.TimelineRows(w.Org, w.Notebook, w.Timeline, folder), top: filestore.NotebookDir(w.Org, w.Notebook),
		name: w.Name, out: Stored{Folder: folder},
	}
}

// Append adds a row: one JSON object in one line, which is not kept. Rows come in the
// order of their times, of which Holds is true.
func (w *Writer) Append(ctx context.Context, at time.Time, row []byte) error {
	switch {
	case len(row) > MaxRowBytes:
		return ErrLarge
	case !object(row) || !Holds(at):
		return fmt.Errorf("row of %d bytes at %s: %w", len(row), at, ErrInvalid)
	case w.out.Rows > 0 && at.Before(w.out.Last):
		return ErrOrder
	}
	if len(w.text)+len(row)+lineExtra > filestore.MaxMemberBytes {
		if err := w.put(ctx); err != nil {
			return err
		}
	}
	if w.out.Rows == 0 {
		w.out.First = at
	}
	w.text = appendLine(w.text, at, row)
	w.out.Last = at
	w.out.Rows++
	w.rows++
	return nil
}

// put makes an extent of the lines that are gathered: a member of its own, nearly, so
// that who reads it inflates nothing else.
func (w *Writer) put(ctx context.Context) error {
	if w.rows > 0 {
		w.commit.Appends = append(w.commit.Appends, filestore.Append{
			Set: w.set, Lines: w.text, Extent: filestore.Extent{Name: w.name, FirstRow: w.out.Rows - w.rows, Rows: w.rows},
		})
		w.size += len(w.text)
		w.text, w.rows = nil, 0 // they belong to the commit now
	}
	if w.size < commitBytes {
		return nil
	}
	return w.flush(ctx)
}

// flush makes durable what was put. While much else waits it waits, too.
func (w *Writer) flush(ctx context.Context) error {
	if len(w.commit.Appends) == 0 {
		return nil
	}
	commit := w.commit
	commit.Class = filestore.Bulk
	w.commit, w.size = filestore.Commit{}, 0
	busy := func(err error) bool { return errors.Is(err, filestore.ErrBusy) }
	err := retry.Do(ctx, retry.Policy{Tries: -1, First: 50 * time.Millisecond, Cap: 5 * time.Second}, busy, func() error {
		return w.f.o.Committer.Submit(ctx, &commit)
	})
	if err != nil {
		return fmt.Errorf("store rows of timeline: %w", err)
	}
	return nil
}

// Close makes the rest durable and closes the files.
func (w *Writer) Close(ctx context.Context) (Stored, error) {
	err := w.put(ctx)
	if err == nil {
		err = w.flush(ctx)
	}
	if err != nil {
		return Stored{}, err
	}
	w.f.o.Committer.Forget(ctx, w.set.String())
	w.f.metrics.storedRows.Add(float64(w.out.Rows))
	w.f.metrics.stored.Inc()
	return w.out, nil
}

// dropWithin is how long removing what nobody needs may take.
const dropWithin = 10 * time.Second

// Drop removes rows that surely no timeline came to name. It goes on when ctx ends. What
// cannot be removed is counted, and goes with its notebook.
func (w *Writer) Drop(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropWithin)
	defer cancel()
	w.f.o.Committer.Forget(ctx, w.set.String())
	if err := w.f.removeFolder(ctx, w.set.String(), w.top); err != nil {
		w.f.metrics.leftBehind.Inc()
	}
}
