package replication

import (
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
)

// Options say what a Node works with. Zero values mean the defaults named.
type Options struct {
	// Store is the shared filestore. Required.
	Store *filestore.Store

	// Incarnation names this run of this node ("<node>-<n>"): the owner of its
	// outbox and the name of its streams. Required; never used again by
	// another run.
	Incarnation string

	// States are what the ledger writes to, one per kind.
	States []State

	// ProposeWait is how long Propose waits while nobody leads (15 s).
	ProposeWait time.Duration

	// CommitWindow is the least time between two commits under load (2 ms). A
	// lone proposal is committed at once.
	CommitWindow time.Duration

	// StopGrace is how long a commit may still take after Lead was told to
	// stop (1 s); then it is abandoned and its proposers are unsure.
	StopGrace time.Duration

	// SuccessorWait is how long a named but not yet visible ledger file is
	// waited for (90 s; NFS may hide a new name for up to a minute).
	SuccessorWait time.Duration

	// TailEvery is how often the master looks into the outboxes of other
	// incarnations (2 s).
	TailEvery time.Duration

	// MaxFileBytes is the size at which a ledger or outbox file gets a
	// successor (64 MiB).
	MaxFileBytes int64

	// MaxBodyBytes bounds the body of one mutation (64 MiB).
	MaxBodyBytes int64

	// MaxPendingBytes bounds the proposals, and apart from them the facts,
	// that wait in memory (64 MiB). Propose waits for room; facts beyond it
	// are read from the outbox file again.
	MaxPendingBytes int64

	// SnapshotEntries and SnapshotBytes say how many entries, or how many
	// bytes of ledger, call for a snapshot (100,000 and 64 MiB; bytes also at
	// least the size of the last snapshot). Negative: none by this measure.
	SnapshotEntries int64
	SnapshotBytes   int64

	// CompareEvery is how often, at most, a master has all nodes compare what they
	// have in memory (1 min; rarer where that takes long).
	CompareEvery time.Duration

	// Level is the highest level of the ledger that this program knows (1), and
	// LevelEvery how often a master looks whether all know a higher one (2 s). Living
	// names the incarnations that have not ended, as far as that is known; nil: it is
	// not, and the level stays.
	Level      uint32
	LevelEvery time.Duration
	Living     func() (incarnations []string, known bool)

	// WindowBytes bounds the newest entries kept for nodes that follow (8 MiB);
	// who is farther behind reads files.
	WindowBytes int64

	// Bus connects this node with others; nil: it is alone.
	Bus *BusOptions

	// Registerer takes the metrics; nil: they are counted for nobody.
	Registerer prometheus.Registerer

	// Logger takes the log; nil: discarded.
	Logger *slog.Logger
}

func orDefault[T ~int64](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

func (o *Options) setDefaults() {
	orDefault(&o.ProposeWait, 15*time.Second)
	orDefault(&o.CommitWindow, 2*time.Millisecond)
	orDefault(&o.StopGrace, time.Second)
	orDefault(&o.SuccessorWait, 90*time.Second)
	orDefault(&o.TailEvery, 2*time.Second)
	orDefault(&o.MaxFileBytes, 64<<20)
	orDefault(&o.MaxBodyBytes, 64<<20)
	orDefault(&o.MaxPendingBytes, 64<<20)
	orDefault(&o.WindowBytes, 8<<20)
	orDefault(&o.CompareEvery, time.Minute)
	orDefault(&o.LevelEvery, 2*time.Second)
	orDefault(&o.SnapshotEntries, 100_000)
	orDefault(&o.SnapshotBytes, 64<<20)
	o.Level = max(o.Level, firstLevel)
	if o.Living == nil {
		o.Living = func() ([]string, bool) { return nil, false }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
}

func (o *Options) validate() error {
	if o.Store == nil {
		return fmt.Errorf("replication options: no store: %w", ErrInvalid)
	}
	if !isIncarnation(o.Incarnation) {
		return fmt.Errorf("replication options: incarnation %q: %w", o.Incarnation, ErrInvalid)
	}
	if o.Bus != nil {
		if err := o.Bus.validate(); err != nil {
			return err
		}
	}
	seen := map[string]bool{kindSection: true, "ledger": true, "manifest": true}
	for _, s := range o.States {
		kind := s.Kind()
		if !isKind(kind) || seen[kind] {
			return fmt.Errorf("replication options: kind %q is reserved, doubled or misspelt: %w", kind, ErrInvalid)
		}
		seen[kind] = true
	}
	if o.MaxFileBytes < headerBytes || o.MaxFileBytes > maxFileBytes/2 {
		return fmt.Errorf("replication options: MaxFileBytes %d: %w", o.MaxFileBytes, ErrInvalid)
	}
	return nil
}

// isKind tells whether text may name a kind and so a snapshot file.
func isKind(text string) bool {
	return text != "" && len(text) <= 64 && strings.Trim(text, "abcdefghijklmnopqrstuvwxyz0123456789-_") == ""
}

// isIncarnation tells whether text may name an incarnation and so a directory.
func isIncarnation(text string) bool {
	const allowed = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
	return text != "" && len(text) <= 128 && text[0] != '.' && strings.Trim(text, allowed) == ""
}
