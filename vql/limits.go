package vql

import (
	"context"
	"errors"
	"time"

	"raptorpack/internal/throttle"
)

// Errors that end a session's queries. They are returned by Scope.Run and
// logged once.
var (
	// ErrRowLimit means that the session emitted Limits.MaxRows rows.
	ErrRowLimit = errors.New("row limit reached")
	// ErrTimeout means that the session ran for Limits.Timeout.
	ErrTimeout = errors.New("timeout reached")
	// ErrNoProgress means that nothing happened for Limits.ProgressTimeout.
	ErrNoProgress = errors.New("no progress within the progress timeout")
	// ErrMemory means that the process uses more than Limits.MaxMemory.
	ErrMemory = errors.New("memory limit reached")
	// ErrClosed means that the scope is closed.
	ErrClosed = errors.New("scope is closed")
)

// Throttle slows queries down to a share of the machine.
type Throttle interface {
	// Charge is called once per op and may sleep. It returns early with ctx's
	// error when ctx ends, or with another error to end the query.
	Charge(ctx context.Context) error
}

// Limits bounds a session. A zero field takes its default.
type Limits struct {
	// MaxRows is how many rows the session may emit; 0 is no limit.
	MaxRows int64
	// Timeout is how long the session may run from its first statement; 0 is no
	// limit.
	Timeout time.Duration
	// ProgressTimeout is how long nothing at all may happen; 0 is no limit.
	ProgressTimeout time.Duration
	// OpsPerSecond bounds source rows, files and buffers per second; 0 is no limit.
	OpsPerSecond float64
	// Throttle is asked for each op, for CPU shares and the like; may be nil.
	Throttle Throttle
	// Usage reads what the process has used, for query(cpu_limit=...); nil asks the
	// system.
	Usage throttle.Measure
	// MaxMemory is how many bytes of heap the process may use; 0 is no limit.
	MaxMemory int64
	// SpillBytes is how much one ORDER BY, GROUP BY or materialised query keeps in
	// memory before it goes to a temporary file; 0 is 32 MiB.
	SpillBytes int64
	// TempDir is where temporary files go; "" is the system's.
	TempDir string
}

const defaultSpillBytes = 32 << 20

func (l *Limits) setDefaults() {
	if l.SpillBytes <= 0 {
		l.SpillBytes = defaultSpillBytes
	}
}

// Stats counts what a session did.
type Stats struct {
	RowsScanned     uint64 // source rows, filtered ones included
	PluginsCalled   uint64
	FunctionsCalled uint64
	RowsEmitted     uint64
	BytesSpilled    uint64
	Ops             uint64 // charged in all
}
