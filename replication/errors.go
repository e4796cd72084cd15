package replication

import "errors"

// What Propose and its neighbours may answer. Match with errors.Is.
var (
	// ErrNoMaster means that nobody led within the time a proposal may wait.
	// The mutation was not taken; trying again later helps.
	ErrNoMaster = errors.New("no master leads at the moment")

	// ErrUnsure means that a master may have taken the mutation but no answer
	// came in time. Proposing it again under the same request id is harmless.
	ErrUnsure = errors.New("mutation may or may not be in the ledger")

	// ErrRefused is matched by every refusal of a State. The mutation has its
	// place in the ledger and changed nothing; trying again does not help. In
	// the process that applied it, the State's own error is matched as well.
	ErrRefused = errors.New("refused")

	// ErrNoRoom means that too many mutations wait already. This one was not
	// taken; trying again later helps.
	ErrNoRoom = errors.New("too many mutations wait")

	// ErrUnknownKind means that no State of this node takes this kind.
	ErrUnknownKind = errors.New("no state takes mutations of this kind")

	// ErrTooLarge means that a body exceeds Options.MaxBodyBytes, or that an
	// entry without its body does not fit a frame. Trying again does not help.
	ErrTooLarge = errors.New("mutation is too large")

	// ErrInvalid means that a mutation can have no place in the ledger as it
	// is: no kind, a reserved kind, or a field that only the ledger may set.
	ErrInvalid = errors.New("mutation is not valid")
)

// What leading, loading and checking may answer.
var (
	// ErrDeposed means that the term ended while this node led: the lease was
	// lost, or its expiry passed before a write was durable. Campaign again.
	ErrDeposed = errors.New("no longer the master")

	// ErrEpochOver means that this epoch ended by a failed write or sync. Its
	// ledger is valid to the last good sync; a new epoch is needed.
	ErrEpochOver = errors.New("epoch ended by a failed write")

	// ErrDamaged means that bytes which were once durable are wrong or missing
	// in the ledger, in a blob or in a snapshot. Somebody must look.
	ErrDamaged = errors.New("damaged")

	// ErrGap means that entries or facts are missing before those found.
	ErrGap = errors.New("gap in the sequence")

	// ErrDiverged means that this node's state stands on entries that the
	// ledger does not have. The state must be thrown away and loaded again.
	ErrDiverged = errors.New("state differs from the ledger")

	// ErrUnheard means that another node does not speak at the moment.
	ErrUnheard = errors.New("the other node is not heard")

	// ErrBusy means that the node is loading, leading or following already.
	ErrBusy = errors.New("node is loading, leading or following already")

	// ErrVersion means that a file was written by a newer release.
	ErrVersion = errors.New("format version is not known")

	// ErrLevel means that the ledger speaks of what this program does not know: it
	// was raised to a level that only newer ones have. Running a newer one helps.
	ErrLevel = errors.New("ledger is of a newer level")
)

// errTorn ends a valid prefix: what follows was never complete, or is not any
// more. It is ordinary after a crash.
var errTorn = errors.New("record is torn")

// refusal is a State's no, as its proposer gets it and as request ids remember
// it. cause is nil when it comes from a snapshot.
type refusal struct {
	text  string
	cause error
}

func (r *refusal) Error() string { return "refused: " + r.text }

// Is makes every refusal match ErrRefused.
func (r *refusal) Is(target error) bool { return target == ErrRefused }

func (r *refusal) Unwrap() error { return r.cause }
