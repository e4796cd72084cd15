package flows

import (
	"context"
	"time"
)

// CheckLines exposes the line checker.
func CheckLines(text, splice []byte) (lines []byte, rows int64, err error) {
	chunks, rows, err := checkLines(text, splice, false)
	for _, c := range chunks {
		lines = append(lines, c.lines...)
	}
	return lines, rows, err
}

// CheckOwnLines is CheckLines for rows of queries on the server.
func CheckOwnLines(text []byte) (lines []byte, err error) {
	chunks, _, err := checkLines(text, nil, true)
	for _, c := range chunks {
		lines = append(lines, c.lines...)
	}
	return lines, err
}

// CheckOnly runs the line checker and keeps nothing.
func CheckOnly(text, splice []byte) (int64, error) {
	_, rows, err := checkLines(text, splice, false)
	return rows, err
}

// MaxDepth bounds the nesting of a row.
const MaxDepth = maxDepth

// MaxOffers bounds how often a task is handed out that its client does not know.
const MaxOffers = maxOffers

// TellDue writes the facts that are due, as Run does.
func (r *Room) TellDue(ctx context.Context) error { return r.tellDue(ctx) }

// MakeOffers offers the tasks that are due, as Run does.
func (r *Room) MakeOffers(ctx context.Context) error { return r.makeOffers(ctx) }

// CloseQuiet closes the files of deleted flows, as Run does.
func (r *Room) CloseQuiet(ctx context.Context) { r.closeQuiet(ctx) }

// Rouse forgets what is over, as Run does now and then.
func (r *Room) Rouse(now time.Time) { r.rouse(now) }

// Soft counts what this node remembers of clients and flows.
func (r *Room) Soft() (visits, errands, locals int) {
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		visits, locals = visits+len(s.visits), locals+len(s.locals)
		for _, v := range s.visits {
			errands += len(v.errands)
		}
		s.mu.Unlock()
	}
	return visits, errands, locals
}

// ParseQuestion reads an id around the flows of a question.
func ParseQuestion(session string) (asked uint64, by string, ok bool) {
	q, ok := parseQuestion(session)
	return q.asked, q.by, ok
}

// MaxAboutBytes bounds what is kept of uploads before they end.
const MaxAboutBytes = maxAboutBytes

// AboutBytes is what is kept of a flow's uploads before they end.
func (r *Room) AboutBytes(key Key) int64 {
	s := r.shard(key.owner())
	s.mu.Lock()
	defer s.mu.Unlock()
	var sum int64
	for _, u := range s.locals[key].uploads {
		if u.about != nil {
			sum += u.about.bytes()
		}
	}
	return sum
}

// InflateMemory bounds what packets inflate to.
type InflateMemory struct{ inflateMemory }

// NewInflateMemory makes one as a Room has it.
func NewInflateMemory() InflateMemory { return InflateMemory{newInflateMemory()} }

// Reserve waits for room.
func (m InflateMemory) Reserve(ctx context.Context, size int64) (release func(), err error) {
	return m.reserve(ctx, size)
}

// MaxPacketInflated bounds one packet.
const MaxPacketInflated = maxPacketInflated
