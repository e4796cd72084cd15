package history

import (
	"fmt"
	"slices"
	"sync"
	"time"
)

// At is a moment since the recorder began.
type At time.Duration

// String returns the moment in seconds.
func (a At) String() string { return fmt.Sprintf("%.3fs", time.Duration(a).Seconds()) }

// Answer is what became of one try.
type Answer int

// The answers.
const (
	Unknown      Answer = iota // none, or one that leaves it open
	Acknowledged               // it is done
	Refused                    // it is not, and never will be
)

// String returns the answer's word.
func (a Answer) String() string { return [...]string{"unknown", "acknowledged", "refused"}[a] }

// Op is one change as the operator saw it who asked for it.
type Op struct {
	Token    string // stands in the entry; no other change bears it
	Operator string
	Kind     string // for people: label, collect
	Key      string // Idempotency-Key of every try; empty: there is one try
	Tries    []Try  // one after the other
}

// Try is one request for a change.
type Try struct {
	Node       string // its name
	Begin, End At
	Answer     Answer
	Status     int    // of HTTP; 0: none came
	Index      uint64 // of the entry, if acknowledged
	Detail     string // what else was said
}

// Outcome is what the operator may conclude from all tries. A change is refused only
// if nothing else was ever said of it.
func (o *Op) Outcome() (Answer, *Try) {
	refused := true
	for i := range o.Tries {
		switch o.Tries[i].Answer {
		case Acknowledged:
			return Acknowledged, &o.Tries[i]
		case Unknown:
			refused = false
		}
	}
	if refused && len(o.Tries) > 0 {
		return Refused, &o.Tries[len(o.Tries)-1]
	}
	return Unknown, nil
}

// Begin is when the change was asked for first.
func (o *Op) Begin() At {
	if len(o.Tries) == 0 {
		return 0
	}
	return o.Tries[0].Begin
}

// String tells the whole story of the change.
func (o *Op) String() string {
	text := fmt.Sprintf("%s %s by %s", o.Kind, o.Token, o.Operator)
	for _, t := range o.Tries {
		text += fmt.Sprintf("; %s to %s at %s: %s", t.Begin, t.Node, t.End, t.Answer)
		switch {
		case t.Answer == Acknowledged:
			text += fmt.Sprintf(" as entry %d", t.Index)
		case t.Detail != "":
			text += fmt.Sprintf(" (%d %s)", t.Status, t.Detail)
		}
	}
	return text
}

// Read is what somebody was shown of one client's labels.
type Read struct {
	Reader     string
	Node       string // incarnation
	Begin, End At
	Client     string
	Labels     []string
	Before     uint64 // index that the node stood at before the read; 0: not known
	After      uint64 // and after it, or when it answered
	AtLeast    uint64 // index that the read asked for, and that the node promised
	Fresh      bool   // the node promised all that was acknowledged before Begin
}

// String names the read.
func (r *Read) String() string {
	return fmt.Sprintf("read of %s by %s at %s from %s to %s, standing at %d to %d", r.Client, r.Reader, r.Node, r.Begin, r.End, r.Before, r.After)
}

// Reign is a node that was seen to lead.
type Reign struct {
	Node     string // incarnation
	Epoch    uint64
	From, To At
}

// Final is how a node stood in the end.
type Final struct {
	Node   string // incarnation
	Index  uint64
	Digest string
}

// History is all that was seen of a pack.
type History struct {
	Ops    []Op
	Reads  []Read
	Reigns []Reign
	Finals []Final
}

// Recorder takes a history down. Safe for concurrent use.
type Recorder struct {
	begin time.Time

	mu    sync.Mutex
	h     History
	acked int // of h.Ops
}

// NewRecorder begins now.
func NewRecorder() *Recorder { return &Recorder{begin: time.Now()} }

// Now is this moment.
func (r *Recorder) Now() At { return At(time.Since(r.begin)) }

// Op notes a change whose story is over.
func (r *Recorder) Op(o Op) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Ops = append(r.h.Ops, o)
	if outcome, _ := o.Outcome(); outcome == Acknowledged {
		r.acked++
	}
}

// Read notes a read.
func (r *Recorder) Read(one Read) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Reads = append(r.h.Reads, one)
}

// Final notes how a node stands in the end.
func (r *Recorder) Final(f Final) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.h.Finals = append(r.h.Finals, f)
}

// Leads notes that a node was seen to lead, at some time between two moments.
func (r *Recorder) Leads(node string, epoch uint64, from, to At) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range slices.Backward(r.h.Reigns) {
		if one := &r.h.Reigns[i]; one.Node == node && one.Epoch == epoch {
			one.To = to
			return
		}
	}
	r.h.Reigns = append(r.h.Reigns, Reign{node, epoch, from, to})
}

// Acknowledged counts the changes that were acknowledged so far.
func (r *Recorder) Acknowledged() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.acked
}

// History is all that was noted so far. The caller changes none of it.
func (r *Recorder) History() *History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.h
	h.Ops, h.Reads = slices.Clip(h.Ops), slices.Clip(h.Reads)
	h.Reigns, h.Finals = slices.Clone(h.Reigns), slices.Clip(h.Finals)
	return &h
}
