package client

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// finishedFlows is how many ended flows are remembered, so that a server that
// asks again gets the final statistics again (client protocol 7.4).
const finishedFlows = 20

// journal is what the log of records adds up to. It changes only by fold, live
// and at recovery alike; every segment begins with a copy of it.
type journal struct {
	Next      uint64                 `json:"next"`      // number of the next message
	Committed uint64                 `json:"committed"` // messages before this one are done
	Flows     map[string]*flowRecord `json:"flows,omitempty"`
	Ended     []string               `json:"ended,omitempty"` // ended flows, oldest first
}

// flowRecord is the durable state of one accepted flow.
type flowRecord struct {
	ID       string              `json:"id"`
	Request  []byte              `json:"request,omitempty"` // serialized FlowRequest; dropped at the end
	Resume   []byte              `json:"resume,omitempty"`  // serialized ResumeTransactions instead
	Urgent   bool                `json:"urgent,omitempty"`
	Accepted time.Time           `json:"accepted"`
	Queries  map[int]*queryMarks `json:"queries,omitempty"`
	Uploads  map[int64]*upload   `json:"uploads,omitempty"`
	Logs     int64               `json:"logs,omitempty"`

	// Runs counts starts; Futile those in a row that added nothing although
	// they had come past what was known; Short those in a row that were cut
	// off before. Grown and Caught describe the present run.
	Runs   int  `json:"runs,omitempty"`
	Futile int  `json:"futile,omitempty"`
	Short  int  `json:"short,omitempty"`
	Grown  bool `json:"grown,omitempty"`
	Caught bool `json:"caught,omitempty"`

	Cancelled uint64 `json:"cancelled,omitempty"` // drop rows and uploads numbered below this
	Final     []byte `json:"final"`               // serialized final FlowStats
	EndedAt   uint64 `json:"ended_at,omitempty"`  // number of that message plus one
}

// queryMarks is how far each name of one VQLCollectorArgs has come.
type queryMarks struct {
	Names map[string]prefix `json:"names,omitempty"`
}

// flowEvent changes a flow without a message.
type flowEvent struct {
	Op       string    `json:"op"`
	Flow     string    `json:"flow"`
	Request  []byte    `json:"request,omitempty"`
	Resume   []byte    `json:"resume,omitempty"`
	Urgent   bool      `json:"urgent,omitempty"`
	Accepted time.Time `json:"accepted,omitzero"`
	Uploads  []*upload `json:"uploads,omitempty"`
}

// Operations of a flowEvent.
const (
	opAccept = "accept"
	opRun    = "run"    // a run of the flow's queries begins
	opCaught = "caught" // this run has come past everything known
	opCancel = "cancel"
	opReopen = "reopen" // ResumeTransactions brings an ended flow back
)

func newJournal() *journal { return &journal{Flows: map[string]*flowRecord{}} }

// ended reports whether the flow's end is in the log.
func (f *flowRecord) ended() bool { return f.Final != nil }

// clone copies f so that it can be read while the journal goes on. Byte slices
// are never changed in place and stay shared.
func (f *flowRecord) clone() flowRecord {
	c := *f
	c.Queries = make(map[int]*queryMarks, len(f.Queries))
	for i, q := range f.Queries {
		c.Queries[i] = &queryMarks{maps.Clone(q.Names)}
	}
	c.Uploads = make(map[int64]*upload, len(f.Uploads))
	for i, u := range f.Uploads {
		copied := *u
		c.Uploads[i] = &copied
	}
	return c
}

func (f *flowRecord) query(index int) *queryMarks {
	if f.Queries == nil {
		f.Queries = map[int]*queryMarks{}
	}
	q := f.Queries[index]
	if q == nil {
		q = &queryMarks{Names: map[string]prefix{}}
		f.Queries[index] = q
	}
	if q.Names == nil {
		q.Names = map[string]prefix{}
	}
	return q
}

// decodeJournal reads a checkpoint.
func decodeJournal(body []byte) (*journal, error) {
	j := newJournal()
	if err := json.Unmarshal(body, j); err != nil {
		return nil, fmt.Errorf("%w: checkpoint: %w", errTorn, err)
	}
	if j.Committed > j.Next {
		return nil, fmt.Errorf("%w: checkpoint commits %d of %d messages", errTorn, j.Committed, j.Next)
	}
	if j.Flows == nil {
		j.Flows = map[string]*flowRecord{}
	}
	for id, f := range j.Flows {
		if f == nil || f.ID != id {
			return nil, fmt.Errorf("%w: checkpoint: flow %.40q", errTorn, id)
		}
		maps.DeleteFunc(f.Queries, func(_ int, q *queryMarks) bool { return q == nil })
		maps.DeleteFunc(f.Uploads, func(_ int64, u *upload) bool { return u == nil })
	}
	return j, nil
}

// message folds one buffered message in; final is the serialized FlowStats of
// a mark that ends its flow.
func (j *journal) message(m mark, final []byte) {
	j.Next++
	f := j.Flows[m.Flow]
	if f == nil {
		return
	}
	switch m.Kind {
	case markRows:
		f.query(m.Query).Names[m.Name] = m.Prefix
		f.grow()
	case markUpload:
		f.upload(m.Upload)
		f.grow()
	case markLog:
		f.Logs = max(f.Logs, m.Logs)
	}
	if m.Final {
		j.end(f, final)
	}
}

// grow notes that the present run brought something new.
func (f *flowRecord) grow() { f.Grown, f.Caught, f.Futile, f.Short = true, true, 0, 0 }

func (f *flowRecord) upload(m *uploadMark) {
	if m == nil {
		return
	}
	if f.Uploads == nil {
		f.Uploads = map[int64]*upload{}
	}
	u := f.Uploads[m.ID]
	if u == nil {
		u = &upload{ID: m.ID}
		f.Uploads[m.ID] = u
	}
	u.fold(m)
}

// end keeps what a question about an ended flow needs, and no more.
func (j *journal) end(f *flowRecord, final []byte) {
	f.Final = append([]byte{}, final...) // never nil: that it ended matters
	f.EndedAt = j.Next
	f.Request, f.Resume, f.Queries, f.Uploads = nil, nil, nil, nil
	j.Ended = append(slices.DeleteFunc(j.Ended, func(id string) bool { return id == f.ID }), f.ID)
	for len(j.Ended) > finishedFlows {
		delete(j.Flows, j.Ended[0])
		j.Ended = j.Ended[1:]
	}
}

// event folds a flowEvent in.
func (j *journal) event(e flowEvent) {
	f := j.Flows[e.Flow]
	if e.Op == opAccept || e.Op == opReopen {
		if f == nil {
			f = &flowRecord{ID: e.Flow}
			j.Flows[e.Flow] = f
		}
		j.Ended = slices.DeleteFunc(j.Ended, func(id string) bool { return id == e.Flow })
		f.Request, f.Resume, f.Urgent, f.Accepted, f.Final = e.Request, e.Resume, e.Urgent, e.Accepted, nil
		f.Cancelled, f.Runs, f.Futile, f.Short = 0, 0, 0, 0
		for _, u := range e.Uploads {
			if u == nil {
				continue
			}
			f.upload(&uploadMark{ID: u.ID})
			f.Uploads[u.ID] = u
		}
		return
	}
	if f == nil {
		return
	}
	switch e.Op {
	case opRun:
		f.run()
	case opCaught:
		f.Caught = true
	case opCancel:
		f.Cancelled = max(1, j.Next) // 0 is "not cancelled", and message 0 is none of its rows
	}
}

// run judges the run before, which ended without an end of the flow, and
// begins the next.
func (f *flowRecord) run() {
	switch {
	case f.Runs == 0 || f.Grown:
		f.Futile, f.Short = 0, 0
	case f.Caught:
		f.Futile++
	default:
		f.Short++
	}
	f.Runs++
	f.Grown, f.Caught = false, len(f.Queries) == 0 && len(f.Uploads) == 0
}

// commit notes that every message before next is done.
func (j *journal) commit(next uint64) { j.Committed = max(j.Committed, min(next, j.Next)) }

// dropped reports whether message number seq of m's flow was cancelled away.
// Logs and statistics of a cancelled flow are still delivered.
func (j *journal) dropped(m mark, seq uint64) bool {
	f := j.Flows[m.Flow]
	return f != nil && seq < f.Cancelled && (m.Kind == markRows || m.Kind == markUpload)
}

// encode gives the checkpoint of j.
func (j *journal) encode() ([]byte, error) {
	data, err := json.Marshal(j)
	if err != nil {
		return nil, fmt.Errorf("encode journal: %w", err)
	}
	return data, nil
}

// fold takes over any record but a checkpoint.
func (j *journal) fold(kind byte, body []byte) error {
	switch kind {
	case recordMessage:
		m, message, err := decodeMessage(body)
		if err != nil {
			return err
		}
		final, err := finalStats(m, message)
		if err != nil {
			return err
		}
		j.message(m, final)
	case recordCommit:
		next, n := binary.Uvarint(body)
		if n <= 0 {
			return errTorn
		}
		j.commit(next)
	case recordFlow:
		var e flowEvent
		if err := json.Unmarshal(body, &e); err != nil {
			return fmt.Errorf("%w: %w", errTorn, err)
		}
		j.event(e)
	default:
		return fmt.Errorf("%w: kind %d", errTorn, kind)
	}
	return nil
}

// finalStats takes the FlowStats out of a message that ends its flow.
func finalStats(m mark, message []byte) ([]byte, error) {
	if !m.Final {
		return nil, nil
	}
	var v wirepb.VeloMessage
	if err := proto.Unmarshal(message, &v); err != nil {
		return nil, fmt.Errorf("%w: %w", errTorn, err)
	}
	return proto.Marshal(v.GetFlowStats())
}
