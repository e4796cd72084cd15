package flows

import (
	"errors"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

var (
	// ErrNotFound means that no such flow exists in this node's state. A flow
	// that was only just started may not have been applied here yet.
	ErrNotFound = errors.New("no such flow")

	// ErrExists means that the flow id was used for this client before. A re-run
	// gets a new id.
	ErrExists = errors.New("flow exists already")

	// ErrFinished means that there is nothing left to cancel.
	ErrFinished = errors.New("flow has ended already")

	// ErrUnfinished means that a flow has to end or be cancelled first.
	ErrUnfinished = errors.New("flow has not ended yet")

	// ErrInvalid means that a wish cannot be planned as it is. The text says why;
	// trying again does not help.
	ErrInvalid = errors.New("invalid collection request")

	// ErrTryAgain means that what a client sent is not durable. Nothing was
	// acknowledged, nothing is lost: the client sends it again.
	ErrTryAgain = errors.New("not durable, send again")
)

// grace is how long rows and logs of a flow that ended without being complete are
// still taken.
const grace = 24 * time.Hour

// WaitForRows is how long a flow that ended well may miss rows before it is
// given up as incomplete.
const WaitForRows = 10 * time.Minute

// State is where a flow stands.
type State string

// The states of a flow.
const (
	Pending    State = "pending"    // a task that no client took
	Running    State = "running"    // taken, no end
	Waiting    State = "waiting"    // ended well, but rows or uploads are still missing
	Completed  State = "completed"  // ended well and everything is here
	Incomplete State = "incomplete" // ended well; what is missing has not come in time
	Errored    State = "errored"    // ended with an error, a limit, or the client lost it
	Cancelled  State = "cancelled"  // an operator ended it
)

// Final reports whether no more is expected.
func (s State) Final() bool {
	return s == Completed || s == Incomplete || s == Errored || s == Cancelled
}

// Key names one flow of one client. Flows of a hunt have the same flow id on all
// clients.
type Key struct {
	Org    ids.Org
	Client ids.Client
	Flow   ids.Flow
}

// Limits bound what is taken from a client for one flow; 0 means the server's
// default. Bytes are as sent, before compression.
type Limits struct {
	Rows        int64 `json:"rows,omitempty"`
	RowBytes    int64 `json:"row_bytes,omitempty"`
	Uploads     int64 `json:"uploads,omitempty"`
	UploadBytes int64 `json:"upload_bytes,omitempty"`
	Logs        int64 `json:"logs,omitempty"`
}

// Artifact is one collected artifact with the parameters that were set.
type Artifact struct {
	Name       string      `json:"name"`
	Parameters []Parameter `json:"parameters,omitempty"`
}

// Parameter is a value that the collection set.
type Parameter struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Spec is what is run, the same for each client it is given to. It never
// changes.
type Spec struct {
	Org       ids.Org
	Flow      ids.Flow
	Creator   string
	Artifacts []Artifact
	Names     []Name // sorted by token
	Limits    Limits
	Urgent    bool
	Hunt      ids.Hunt // zero: a direct collection
	Origin    *Origin  // where it ran before it was imported or copied; nil: it runs itself

	digest [32]byte // of the whole spec and its request
}

// Origin is where a collection ran that was brought in from elsewhere.
type Origin struct {
	SHA256   string     `json:"sha256"`             // of its zip, in hex; empty: there was none
	Session  string     `json:"session,omitempty"`  // what it was called there
	Hostname string     `json:"hostname,omitempty"` // of where it ran
	Created  *time.Time `json:"created,omitempty"`  // by the clock there; nil: not known
	Flow     string     `json:"flow,omitempty"`     // of the same client here, from which it was copied for its hunt
}

// Name is an opaque name a client is told, and the result it stands for.
type Name struct {
	Token  string `json:"token"`
	Result string `json:"name"`
}

// result finds what a token stands for.
func (s *Spec) result(token string) (string, bool) {
	at, ok := slices.BinarySearchFunc(s.Names, token, func(n Name, t string) int { return compareText(n.Token, t) })
	if !ok {
		return "", false
	}
	return s.Names[at].Result, true
}

// Results lists the names of the results, sorted, each once.
func (s *Spec) Results() []string {
	out := make([]string, 0, len(s.Names))
	for _, n := range s.Names {
		out = append(out, n.Result)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Totals are sums over all queries as the client states them.
type Totals struct {
	Rows                int64 `json:"rows"`
	Logs                int64 `json:"logs"`
	Uploads             int64 `json:"uploads"`
	UploadBytes         int64 `json:"upload_bytes"`
	ExpectedUploadBytes int64 `json:"expected_upload_bytes"`
}

// CPU is the processor time of a flow's queries on its client, of all cores together,
// as the client counts it. Stock agents tell none: that is the zero value.
type CPU struct {
	Used time.Duration
	Told bool // some query told; otherwise Used is 0
}

// add takes what a query told, without trusting it; nil: nothing.
func (c *CPU) add(ns *int64) {
	if ns == nil {
		return
	}
	c.Told = true
	addCount((*int64)(&c.Used), *ns)
}

// grow takes the larger of what is known and what an end tells: one that is told
// again adds nothing.
func (c *CPU) grow(ns *int64) {
	var told CPU
	told.add(ns)
	c.Used, c.Told = max(c.Used, told.Used), c.Told || told.Told
}

// Nanoseconds is the time used, nil: the client told none. 0 would read as no cost.
func (c CPU) Nanoseconds() *int64 {
	if !c.Told {
		return nil
	}
	ns := int64(c.Used)
	return &ns
}

// Coverage is which rows of one result the nodes hold.
type Coverage struct {
	Name string
	Rows filestore.Intervals
}

// UploadSize is how many bytes are stored of a finished upload.
type UploadSize struct{ Number, Bytes int64 }

// Part is what one node incarnation holds of a flow beside rows.
type Part struct {
	Incarnation string `json:"incarnation"`
	UploadBytes int64  `json:"upload_bytes,omitempty"` // of uploads whose sizes an earlier version did not tell
	Conflicts   int64  `json:"conflicts,omitempty"`
}

// Flow is the record of one collection on one client. Records are immutable: a
// change makes a new one, so that a reader may keep it as long as it likes.
type Flow struct {
	Key
	Spec  *Spec
	Index uint64 // the entry that started it

	State       State
	Error       string // of the client's first failed query, or of ours
	Outcome     buspb.FlowEnd_Outcome
	CancelledBy string
	CancelDue   bool // the client has not confirmed yet that it stopped

	// Of a task. Turn is the newest entry that started, offered, took or cancelled
	// the flow: what a client answers to an older question counts for nothing.
	Turn      uint64
	Cleared   uint64 // the entry by which the client, asked since Turn, did not know it; 0: none
	ClearedBy string // mark of the node that had asked
	Offered   string // the incarnation that hands it out since Turn
	Offers    int    // how often it was handed out after a question
	Reopened  bool   // it had ended once, and a later word of its client opened it again

	// Times of the ledger; zero when it has not happened.
	Created, Taken, Ended, WaitingSince, CancelledAt time.Time

	FirstActive time.Time // by the client's clock
	Duration    time.Duration
	CPU         CPU
	Totals      Totals

	Names   []Coverage          // sorted by name
	Uploads filestore.Intervals // numbers of finished uploads
	Sizes   []UploadSize        // of those, sorted by number; an earlier version told none
	Parts   []Part              // sorted by incarnation
}

// Rows counts the rows that are on the filestore for all results.
func (f *Flow) Rows() int64 {
	var n int64
	for _, c := range f.Names {
		n += c.Rows.Len()
	}
	return n
}

// UploadBytes counts the stored bytes of finished uploads, each upload once.
func (f *Flow) UploadBytes() int64 {
	var n int64
	for _, u := range f.Sizes {
		n += u.Bytes
	}
	for _, p := range f.Parts {
		n += p.UploadBytes
	}
	return n
}

// Conflicts counts batches that came twice with different content.
func (f *Flow) Conflicts() int64 {
	var n int64
	for _, p := range f.Parts {
		n += p.Conflicts
	}
	return n
}

// open reports whether a connection of the client may have to say something
// about the flow.
func (f *Flow) open() bool { return f.State == Pending || f.State == Running || f.CancelDue }

// old reports whether the flow ended so long ago that nothing of it is taken any
// more.
func (f *Flow) old(now time.Time) bool {
	over := latest(f.Ended, f.CancelledAt)
	return f.State.Final() && !over.IsZero() && now.Sub(over) > grace
}

// complete reports whether everything that the client counted is here.
func (f *Flow) complete() bool {
	for _, c := range f.Names {
		if !c.Rows.Contiguous(c.Rows.Len()) {
			return false
		}
	}
	return f.Rows() == f.Totals.Rows && f.Uploads.Len() == f.Totals.Uploads
}

// missing says in words what complete misses.
func (f *Flow) missing() string {
	text := ""
	for _, c := range f.Names {
		if len(c.Rows) == 0 {
			continue
		}
		if holes := c.Rows.Holes(c.Rows[len(c.Rows)-1].End); len(holes) > 0 {
			text += "; " + c.Name + " rows " + shorten(holes.String(), 200)
		}
	}
	if have := f.Rows(); have != f.Totals.Rows {
		text += "; " + plural(have, "row") + " of " + plural(f.Totals.Rows, "row")
	}
	if have := f.Uploads.Len(); have != f.Totals.Uploads {
		text += "; " + plural(have, "upload") + " of " + plural(f.Totals.Uploads, "upload")
	}
	return shorten("missing"+text, maxErrorText)
}

// judge sets State by all that is known. Only expiry makes a flow incomplete.
func (f *Flow) judge(at time.Time) {
	switch {
	case f.Outcome == buspb.FlowEnd_OUTCOME_OK && f.complete():
		f.State, f.Error = Completed, ""
		f.WaitingSince = time.Time{}
	case !f.CancelledAt.IsZero():
		f.State = Cancelled
	case f.Outcome == buspb.FlowEnd_OUTCOME_OK:
		if f.WaitingSince.IsZero() {
			f.WaitingSince = at
		}
		if f.State == Incomplete {
			f.Error = f.missing()
			return
		}
		f.State, f.Error = Waiting, ""
	case f.Outcome != buspb.FlowEnd_OUTCOME_UNSPECIFIED:
		f.State = Errored
	case !f.Taken.IsZero():
		f.State = Running
	default:
		f.State = Pending
	}
}

// rank orders outcomes: a real end beats "the client does not know it", and a
// limit of ours beats what the client says after we stopped it.
func rank(o buspb.FlowEnd_Outcome) int {
	switch o {
	case buspb.FlowEnd_OUTCOME_UNKNOWN:
		return 1
	case buspb.FlowEnd_OUTCOME_OK, buspb.FlowEnd_OUTCOME_ERROR:
		return 2
	case buspb.FlowEnd_OUTCOME_LIMIT:
		return 3
	}
	return 0
}
