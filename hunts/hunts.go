package hunts

import (
	"errors"
	"time"

	"raptorpack/flows"
	"raptorpack/ids"
)

var (
	// ErrNotFound means that no such hunt exists in this node's state. One that was
	// only just created may not have been applied here yet.
	ErrNotFound = errors.New("no such hunt")

	// ErrExists means that the hunt's id was used before.
	ErrExists = errors.New("hunt exists already")

	// ErrInvalid means that a wish cannot be planned as it is. The text says why;
	// trying again does not help.
	ErrInvalid = errors.New("invalid hunt")

	// ErrState means that a hunt cannot be changed so where it stands, as pausing
	// one that was stopped.
	ErrState = errors.New("hunt does not permit this now")

	// ErrLimit means that more clients took part already than a new limit allows, or
	// that a start would exceed the limit.
	ErrLimit = errors.New("client limit")

	// ErrNotAdmitted means that a flow may not be started for its hunt: the hunt does
	// not run, its rate is used up, or a client is not pending. The manager looks
	// again and plans anew.
	ErrNotAdmitted = errors.New("not admitted to the hunt")
)

// Key names a hunt.
type Key struct {
	Org  ids.Org
	Hunt ids.Hunt
}

// State is where a hunt stands.
type State string

// The states of a hunt.
const (
	Draft    State = "draft"    // not started yet
	Running  State = "running"  // recruits and admits
	Paused   State = "paused"   // neither; what runs goes on
	Stopped  State = "stopped"  // an operator ended it; may be started again
	Expired  State = "expired"  // its time is over; may be extended and started again
	Archived State = "archived" // put away; read only
	Deleted  State = "deleted"  // what is left of it is being removed
)

// Set is one of the sets of clients that a hunt keeps. A client is in one of the
// first six at most; WithResults goes across.
type Set int

// The sets of a hunt.
const (
	PendingClients   Set = iota // nominated or added; a task when its turn comes
	RunningClients              // has a task, or works on it
	CompletedClients            // ended well and everything is here
	ErroredClients              // ended otherwise: error, limit, cancelled, rows missing
	DeclinedClients             // its own condition said no; asked again when its labels or facts change
	RemovedClients              // took part, and its flow was deleted
	WithResults                 // the flow of its newest attempt has rows or uploads

	sets    = int(WithResults) + 1
	nowhere = Set(-1)
)

var setNames = [sets]string{"pending", "running", "completed", "errored", "declined", "removed", "with_results"}

// String is the set's name, as in a snapshot.
func (s Set) String() string {
	if s < 0 || int(s) >= sets {
		return "none"
	}
	return setNames[s]
}

// ParseSet reads the name of a set.
func ParseSet(name string) (Set, bool) {
	for i, n := range setNames {
		if n == name {
			return Set(i), true
		}
	}
	return nowhere, false
}

// Counts are the sizes of the sets, by Set.
type Counts [sets]int

// Joined counts the clients that ever took part, but for those that wait for
// another attempt.
func (c Counts) Joined() int {
	return c[RunningClients] + c[CompletedClients] + c[ErroredClients] + c[RemovedClients]
}

// Sums are over all flows of a hunt that the flows' room has, whichever attempt:
// what is on the filestore. Duration is the sum of each flow's longest query. CPU is
// the processor time on clients of the CPUTold flows whose agents told it as they ended:
// stock agents tell none, so it is the cost of all only if CPUTold is Flows.
type Sums struct {
	Flows       int64         `json:"flows"`
	Rows        int64         `json:"rows"`
	Uploads     int64         `json:"uploads"`
	UploadBytes int64         `json:"upload_bytes"`
	Logs        int64         `json:"logs"` // lines, as the clients count them
	Duration    time.Duration `json:"duration_ns"`
	CPU         time.Duration `json:"cpu_ns"`
	CPUTold     int64         `json:"cpu_told"`
}

// CPUNanoseconds is the processor time, nil: no agent told any. 0 would read as no cost.
func (s *Sums) CPUNanoseconds() *int64 {
	if s.CPUTold == 0 {
		return nil
	}
	ns := int64(s.CPU)
	return &ns
}

func sumsOf(f *flows.Flow) Sums {
	if f == nil {
		return Sums{}
	}
	s := Sums{
		Flows: 1, Rows: f.Rows(), Uploads: f.Uploads.Len(), UploadBytes: f.UploadBytes(), Logs: f.Totals.Logs,
		Duration: f.Duration, CPU: f.CPU.Used,
	}
	if f.CPU.Told {
		s.CPUTold = 1
	}
	return s
}

func (s *Sums) change(before, after Sums) {
	s.Flows += after.Flows - before.Flows
	s.Rows += after.Rows - before.Rows
	s.Uploads += after.Uploads - before.Uploads
	s.UploadBytes += after.UploadBytes - before.UploadBytes
	s.Logs += after.Logs - before.Logs
	s.Duration += after.Duration - before.Duration
	s.CPU += after.CPU - before.CPU
	s.CPUTold += after.CPUTold - before.CPUTold
}

// Conditions say which clients a hunt wants.
type Conditions struct {
	Include   []string `json:"include_labels,omitempty"` // one of them, if there is any; case is ignored
	Exclude   []string `json:"exclude_labels,omitempty"` // none of them
	OS        string   `json:"os,omitempty"`             // windows, linux, darwin, freebsd; empty: any
	OnlyAdded bool     `json:"only_added,omitempty"`     // none but those added by hand

	Condition        string `json:"condition,omitempty"`         // VQL that runs on the client
	ConditionRequest []byte `json:"condition_request,omitempty"` // compiled, as in a flow's spec
	Filter           string `json:"filter,omitempty"`            // VQL over its rows that runs on the server
}

// Asks reports whether a client has to be asked before it can be nominated.
func (c *Conditions) Asks() bool { return c.Condition != "" || c.Filter != "" }

// Definition is what of a hunt never changes.
type Definition struct {
	Creator    string
	Artifacts  []flows.Artifact
	Results    []string // names that rows lie under, sorted
	Limits     flows.Limits
	Urgent     bool
	Conditions Conditions
	Origin     *Origin // where it ran, if that was elsewhere; nil: here

	spec []byte // a serialised FlowSpec without a flow
}

// Origin is what a hunt was in the pack where it ran, before it was brought here.
type Origin struct {
	Org      string    `json:"org,omitempty"`
	Hunt     string    `json:"hunt"`
	Creator  string    `json:"creator"`
	Created  time.Time `json:"created"`
	Expires  time.Time `json:"expires"`
	Exported time.Time `json:"exported"`
	SHA256   string    `json:"sha256"` // of the zip, in hex

	counts Counts
	sums   Sums
}

// Settings are what an operator may change at any time.
type Settings struct {
	Description string
	Rate        int64 // clients per minute; 0: as fast as it goes
	Limit       int64 // clients that may take part in all; 0: none
	Expires     time.Time
	Tags        Tags
}

// Life is how a hunt came to stand where it does. Times are the ledger's, zero when
// it has not happened.
type Life struct {
	State       State
	Index       uint64 // the entry that created it
	Created     time.Time
	Started     time.Time // last
	Ended       time.Time // stopped or expired, last
	CancelFlows bool      // what runs on clients is to be cancelled
	MovedBy     string    // who last moved it; empty: the server
}

// Hunt is one hunt as it stood when it was asked for. Definition is shared and must
// not be changed.
type Hunt struct {
	Key
	*Definition
	Settings
	Life
	Counts Counts
	Again  int // of the pending: those that wait for another attempt
	Sums   Sums
}
