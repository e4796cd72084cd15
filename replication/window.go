package replication

import "slices"

// passed is an entry that was applied here, as its record has it.
type passed struct {
	payload []byte
	at      place
	sum     digest // of this node, after it
}

// window is the newest entries without a gap, kept for nodes that follow. It is
// guarded by Node.mu.
type window struct {
	max     int64
	base    place // before the first of entries
	entries []passed
	bytes   int64
}

// begin empties the window: what comes next follows at.
func (w *window) begin(at place) { w.base, w.entries, w.bytes = at, nil, 0 }

// add takes the next entry and lets go of the oldest if there are too many.
func (w *window) add(p passed) {
	w.entries = append(w.entries, p)
	w.bytes += passedBytes(p)
	drop := 0
	for w.bytes > w.max && drop < len(w.entries)-1 {
		w.bytes -= passedBytes(w.entries[drop])
		w.base = w.entries[drop].at
		w.entries[drop] = passed{}
		drop++
	}
	w.entries = w.entries[drop:]
}

func passedBytes(p passed) int64 { return int64(len(p.payload)) + 128 }

// place returns the place of an index within the window; its base counts.
func (w *window) place(index uint64) (place, bool) {
	if index == w.base.index {
		return w.base, true
	}
	p, ok := w.entry(index)
	return p.at, ok
}

func (w *window) entry(index uint64) (passed, bool) {
	if index <= w.base.index || index > w.base.index+uint64(len(w.entries)) {
		return passed{}, false
	}
	return w.entries[index-w.base.index-1], true
}

// after returns the payloads that follow index, at most so many bytes but at
// least one; false when the window does not reach back so far.
func (w *window) after(index uint64, most int) ([][]byte, bool) {
	if index < w.base.index {
		return nil, false
	}
	rest := w.entries[min(index-w.base.index, uint64(len(w.entries))):]
	size, count := 0, 0
	for count < len(rest) && (count == 0 || size+len(rest[count].payload) <= most) {
		size += len(rest[count].payload)
		count++
	}
	payloads := make([][]byte, count)
	for i := range payloads {
		payloads[i] = rest[i].payload
	}
	return slices.Clip(payloads), true
}
