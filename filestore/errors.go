package filestore

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrExists means that somebody else's file has the name already. The same
	// call will fail again; read what is there.
	ErrExists = errors.New("name is taken")

	// ErrFull means that the disk or quota is full. Nothing was lost, and trying
	// again later helps: callers turn it into back-pressure.
	ErrFull = errors.New("filestore is full")

	// ErrReadOnly means that the store is mounted read-only. An operator must act.
	ErrReadOnly = errors.New("filestore is read-only")

	// ErrTooLarge means that a file exceeds the caller's limit. The same call
	// will fail again.
	ErrTooLarge = errors.New("file is larger than allowed")

	// ErrFinished means that an earlier write or sync of this handle went wrong or
	// was abandoned. The file is valid up to its last good sync; pending bytes go
	// to another file.
	ErrFinished = errors.New("file is finished after an earlier error")

	// ErrAbandoned means that the caller's context ended while the file call was
	// still under way. It may yet be done, or not.
	ErrAbandoned = errors.New("file call abandoned")

	// ErrLeaseLost means that a lease ran out before a renewal completed. A term is
	// over then, and whatever relied on it must stop. What an incarnation wrote may
	// be tried again later: it may revive.
	ErrLeaseLost = errors.New("lease lost")

	// ErrSealed means that others judged this incarnation dead and buried it, sealed
	// its files or took its name over. The process must exit.
	ErrSealed = errors.New("incarnation is sealed")

	// ErrAlive means that an incarnation may still go on. Look again later.
	ErrAlive = errors.New("incarnation may go on")

	// ErrNodeRunning means that another process runs under this node name.
	// NodeRunningError says which.
	ErrNodeRunning = errors.New("node name is in use")

	// ErrUnfit means that the mount cannot carry a mastership lease. An operator
	// must change the mount.
	ErrUnfit = errors.New("mount is unfit for mastership")

	// ErrBadRecord means that a heartbeat or seal does not read as one. A
	// heartbeat may be torn by a renewal under way, so look again.
	ErrBadRecord = errors.New("damaged record")
)

// errShort is a write that took fewer bytes than given without saying why.
var errShort = io.ErrShortWrite

// errNotBegun means that the caller's context ended, or the store was closed,
// before the call had a thread: nothing happened.
var errNotBegun = errors.New("not begun")

// explain adds what was being done and the sentinel that the error stands for.
// io.EOF passes unchanged, as readers expect.
func explain(op opKind, path string, err error) error {
	if err == nil || err == io.EOF {
		return err
	}
	cause := bare(err)
	if kind := sentinelOf(cause); kind != nil && !errors.Is(cause, kind) {
		return fmt.Errorf("%s %s: %w: %w", op, path, kind, cause)
	}
	return fmt.Errorf("%s %s: %w", op, path, cause)
}

// bare takes the path and the call off an error of package os: explain says both.
func bare(err error) error {
	var onPath *fs.PathError
	var onLink *os.LinkError
	switch {
	case errors.As(err, &onPath):
		return onPath.Err
	case errors.As(err, &onLink):
		return onLink.Err
	}
	return err
}

func sentinelOf(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return ErrFull
	case errors.Is(err, syscall.EROFS):
		return ErrReadOnly
	case errors.Is(err, fs.ErrExist):
		return ErrExists
	}
	return nil
}

// passing reports errors that a network filesystem may show once and not again.
func passing(err error) bool {
	return errors.Is(err, syscall.ESTALE) || errors.Is(err, syscall.EIO)
}

// outcomeOf is the closed set of outcomes that metrics know.
func outcomeOf(err error) string {
	switch {
	case err == nil, err == io.EOF:
		return "ok"
	case errors.Is(err, fs.ErrNotExist):
		return "missing"
	case errors.Is(err, fs.ErrExist):
		return "exists"
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return "full"
	case errors.Is(err, syscall.EROFS):
		return "readonly"
	case errors.Is(err, syscall.ESTALE):
		return "stale"
	case errors.Is(err, syscall.EIO):
		return "io"
	}
	return "error"
}
