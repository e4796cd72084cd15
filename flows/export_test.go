package flows

import "context"

// CheckLines exposes the line checker.
func CheckLines(text, splice []byte) (lines []byte, rows int64, err error) {
	chunks, rows, err := checkLines(text, splice)
	for _, c := range chunks {
		lines = append(lines, c.lines...)
	}
	return lines, rows, err
}

// CheckOnly runs the line checker and keeps nothing.
func CheckOnly(text, splice []byte) (int64, error) {
	_, rows, err := checkLines(text, splice)
	return rows, err
}

// MaxDepth bounds the nesting of a row.
const MaxDepth = maxDepth

// MaxDeliveries bounds how often a task is handed out.
const MaxDeliveries = maxDeliveries

// TellDue writes the facts that are due, as Run does.
func (r *Room) TellDue(ctx context.Context) error { return r.tellDue(ctx) }

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
