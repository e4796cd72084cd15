package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"raptorpack/internal/seeded"
)

// Handle is an open file of a Store: every call is timed and runs in the
// store's pool. Safe for concurrent use; several writers of one handle must
// write disjoint ranges.
//
// After a failed, short or abandoned write, sync or truncate the handle is
// finished: every later write and sync returns ErrFinished with the cause,
// because a second sync of a file may succeed although the first lost its data.
//
// A call whose context ended before it began did nothing, and the handle stays
// usable. A buffer handed to a call that returned ErrAbandoned must not be used again:
// the call may still read or fill it.
type Handle struct {
	store *Store
	path  string
	file  File

	mu    sync.Mutex
	cause error // why the handle is finished
}

// Path returns the path that the file was opened by.
func (h *Handle) Path() string { return h.path }

// Err returns why the handle is finished, nil while it is not.
func (h *Handle) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.cause
}

// ReadAt reads like io.ReaderAt: fewer than len(p) bytes come with an error,
// io.EOF unwrapped at the end of the file. ESTALE and EIO are retried.
func (h *Handle) ReadAt(ctx context.Context, p []byte, off int64) (n int, err error) {
	err = h.store.patiently(ctx, func() (err error) {
		n, err = invoke(ctx, h.store, opRead, h.path, nil, func() (int, error) { return h.file.ReadAt(p, off) })
		return err
	})
	return n, err
}

// WriteAt writes all of p at off, or finishes the handle. On a full store it
// is refused before anything is written; the handle then stays usable.
func (h *Handle) WriteAt(ctx context.Context, p []byte, off int64) (int, error) {
	if err := h.store.room(opWrite, h.path); err != nil {
		return 0, err
	}
	if err := h.usable(opWrite); err != nil {
		return 0, err
	}
	n, err := invoke(ctx, h.store, opWrite, h.path, nil, func() (int, error) {
		n, err := h.file.WriteAt(p, off)
		if err == nil && n < len(p) {
			err = fmt.Errorf("only %d of %d bytes: %w", n, len(p), errShort)
		}
		return n, err
	})
	return n, h.store.noticeFull(ctx, h.finish(err))
}

// Sync makes all that was written durable, or finishes the handle.
func (h *Handle) Sync(ctx context.Context) error {
	if err := h.usable(opSync); err != nil {
		return err
	}
	if seeded.Out("sync") {
		return nil
	}
	return h.finish(h.store.call(ctx, opSync, h.path, h.file.Sync))
}

// Truncate sets the size of a file that only its writer knows yet, or finishes
// the handle.
func (h *Handle) Truncate(ctx context.Context, size int64) error {
	if err := h.usable(opTruncate); err != nil {
		return err
	}
	return h.finish(h.store.call(ctx, opTruncate, h.path, func() error { return h.file.Truncate(size) }))
}

// Stat describes the open file: its size is what the server said at open.
func (h *Handle) Stat(ctx context.Context) (info fs.FileInfo, err error) {
	err = h.store.patiently(ctx, func() (err error) {
		info, err = invoke(ctx, h.store, opFstat, h.path, nil, h.file.Stat)
		return err
	})
	return info, err
}

// Close closes the file. On NFS an error may tell of a lost write; what was
// synced before is safe.
func (h *Handle) Close(ctx context.Context) error {
	return h.store.call(ctx, opClose, h.path, h.file.Close)
}

// discardWait bounds how long cleaning up may hold up its caller; on a hung
// mount the close goes on without it.
const discardWait = time.Second

// discard closes a handle that nothing depends on, even if ctx has ended; its
// error could only repeat what the caller reports already.
func (h *Handle) discard(ctx context.Context) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	_ = h.Close(limited)
}

func (h *Handle) usable(kind opKind) error {
	if cause := h.Err(); cause != nil {
		return fmt.Errorf("%s %s: %w: %w", kind, h.path, ErrFinished, cause)
	}
	return nil
}

func (h *Handle) finish(err error) error {
	if err == nil || errors.Is(err, errNotBegun) {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.cause == nil {
		h.cause = err
	}
	return err
}
