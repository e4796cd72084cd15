package endpoint

import (
	"context"
	"fmt"
	"io"
	"time"

	"raptorpack/vql"
)

// watchPeriod is how often files that are watched are looked at.
const watchPeriod = 3 * time.Second

type watchJournaldArgs struct {
	Filename []*vql.Path `vql:"filename,required" doc:"The journal files."`
	Accessor string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	Raw      bool        `vql:"raw" doc:"Give all fields as they are, in one dict."`
}

var watchJournaldPlugin = vql.NewPlugin(vql.Spec{
	Name: "watch_journald", Permission: "FILESYSTEM_READ",
	Doc:     "Gives new entries of systemd's journal files as they are written, also after a file was rotated.",
	Columns: []string{"System", "EventData"},
}, func(ctx context.Context, scope *vql.Scope, args *watchJournaldArgs, emit vql.Emit) error {
	emit = stopping(emit)
	watches := make([]*journalWatch, 0, len(args.Filename))
	for _, path := range args.Filename {
		w := &journalWatch{accessor: args.Accessor, path: path}
		defer w.close()
		watches = append(watches, w)
	}
	for fresh := true; ; fresh = false {
		for _, w := range watches {
			err := w.poll(ctx, scope, fresh, func(j *journal, head journalHead) error {
				return emitEntries(ctx, scope, w.path, j, head, func(*journalEntry) bool { return true }, args.Raw, emit)
			})
			if done, err := fileDone(ctx, scope, "watch_journald", w.path, err); done {
				return err
			}
		}
		if err := pause(ctx, watchPeriod); err != nil {
			return err
		}
	}
})

// pause waits, or returns ctx's error when that ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}

// journalWatch follows one file. It stays open, so that what is written just
// before the file is rotated is read too.
type journalWatch struct {
	accessor string
	path     *vql.Path
	file     vql.ReadSeekCloser // nil while there is none
	journal  *journal
}

func (w *journalWatch) close() {
	if w.file != nil {
		_ = w.file.Close() // opened for reading only: nothing to lose
		w.file, w.journal = nil, nil
	}
}

// poll hands on what is new. At first that begins at the end of the file; a file
// that comes later is read from its start.
func (w *journalWatch) poll(ctx context.Context, scope *vql.Scope, fresh bool, read func(*journal, journalHead) error) error {
	if w.file != nil {
		if err := w.readNew(read); err != nil {
			w.close()
			return err
		}
	}
	file, err := openThrough(ctx, scope, w.accessor, w.path)
	if err != nil {
		return err
	}
	at, ok := file.(io.ReaderAt)
	if !ok {
		_ = file.Close() // opened for reading only: nothing to lose
		return fmt.Errorf("it cannot be watched through the accessor %s", w.accessor)
	}
	j, err := openJournal(at)
	if err != nil || w.journal != nil && j.id == w.journal.id {
		_ = file.Close() // as above
		return err
	}
	w.close()
	w.file, w.journal = file, j
	if fresh {
		return w.skip(ctx, scope)
	}
	return w.readNew(read)
}

func (w *journalWatch) readNew(read func(*journal, journalHead) error) error {
	w.journal.forget()
	head, err := w.journal.head()
	if err != nil {
		return err
	}
	return read(w.journal, head)
}

// skip goes to the end of the file.
func (w *journalWatch) skip(ctx context.Context, scope *vql.Scope) error {
	head, err := w.journal.head()
	if err != nil {
		return err
	}
	_, err = w.journal.next(ctx, scope.Charge, head, func(*journalEntry) bool { return false })
	return err
}
