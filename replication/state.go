package replication

import (
	"context"
	"io"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// State is what a room lets the ledger do to its memory. statetest.Run holds
// an implementation to these promises.
type State interface {
	// Kind names this room's mutations and its snapshot file, as "labels":
	// lower-case letters, digits, '-' and '_', at most 64, and not one of the
	// ledger's own ("ledger", "replication"). It never changes.
	Kind() string

	// Apply takes over one entry. Same entries, same state, on every node:
	// time comes from the entry, never from a clock, a map's order or chance.
	// An error is a refusal that every node gives alike, to the letter; the
	// state is then unchanged and the proposer gets the error. Apply never
	// waits and must not keep or change e; it may keep e.Mutation.Body, which
	// nobody changes. Calls come from one goroutine at a time.
	Apply(e *buspb.Entry) error

	// View returns the whole state as it stands between two entries. It is
	// called between two Applies and must be quick; WriteTo of what it returns
	// runs in another goroutine while Apply goes on, and writes JSON lines.
	// Same entries, same bytes: sets are sorted, never a library's own
	// serialisation.
	View() io.WriterTo

	// Restore replaces the state by what a View wrote. An empty r gives the
	// state as it was before the first entry. After an error the state is
	// undefined until the next Restore.
	Restore(r io.Reader) error
}

// Term is one mastership: *filestore.Term, or a fake in tests.
type Term interface {
	// Epoch is the number of this mastership, 1 or more, never given twice.
	Epoch() uint64

	// Valid says whether the lease holds now, by this process's monotonic
	// clock. Once false it stays false.
	Valid() bool

	// SealLedger publishes the end of an older epoch's ledger: its last valid
	// entry, the chain hash after it, and the valid bytes of the file that the
	// ledger ends in (0: the epoch has none). The first seal of an epoch wins,
	// for good; the winner is returned, whoever made it. Store.LedgerSeal
	// finds it from then on.
	SealLedger(ctx context.Context, epoch uint64, length int64, lastIndex uint64, chain [32]byte) (*filestore.LedgerSeal, error)
}
