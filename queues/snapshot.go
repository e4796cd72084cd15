package queues

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
)

// ErrSnapshot means that a snapshot of this room does not read.
var ErrSnapshot = errors.New("snapshot of queues is damaged")

// line is an item that waits, in the snapshot file; or, once and in front, how many
// had no room.
type line struct {
	Index  uint64          `json:"index,omitempty"`
	N      uint32          `json:"n,omitempty"`
	At     int64           `json:"at_us,omitempty"`
	Org    string          `json:"org,omitempty"`
	Queue  string          `json:"queue,omitempty"`
	Client string          `json:"client,omitempty"`
	Flow   string          `json:"flow,omitempty"`
	Row    json.RawMessage `json:"row,omitempty"`
	Lost   int64           `json:"lost,omitempty"`
}

// view is the state between two entries: items never change.
type view struct {
	waiting []*Item
	lost    int64
}

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.Lock()
	defer r.mu.Unlock()
	return &view{slices.Clone(r.waiting), r.lost}
}

// WriteTo writes a line for each item, in order.
func (v *view) WriteTo(w io.Writer) (int64, error) {
	return jsonlines.Write(w, func(yield func(line) bool) {
		if v.lost > 0 && !yield(line{Lost: v.lost}) {
			return
		}
		for _, i := range v.waiting {
			l := line{
				Index: i.index, N: i.n, At: i.at.UnixMicro(), Org: i.Org.String(), Queue: i.Queue,
				Client: i.Client.String(), Flow: i.Flow.String(), Row: i.Row,
			}
			if !yield(l) {
				return
			}
		}
	})
}

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := &Room{}
	for dec := json.NewDecoder(bufio.NewReader(from)); ; {
		var l line
		err := dec.Decode(&l)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("restore queues: %w: %w", ErrSnapshot, err)
		}
		if l.Queue == "" {
			fresh.lost = l.Lost
			continue
		}
		item, err := l.item()
		if err != nil {
			return fmt.Errorf("restore queues: %w: %w", ErrSnapshot, err)
		}
		if item.place().compare(fresh.last) <= 0 {
			return fmt.Errorf("restore queues: item %d.%d out of order: %w", item.index, item.n, ErrSnapshot)
		}
		fresh.waiting, fresh.last = append(fresh.waiting, item), item.place()
	}
	r.mu.Lock()
	r.waiting, r.last, r.lost = fresh.waiting, fresh.last, fresh.lost
	r.mu.Unlock()
	r.signal()
	return nil
}

func (l *line) item() (*Item, error) {
	i := &Item{Queue: l.Queue, Row: l.Row, at: time.UnixMicro(l.At).UTC(), index: l.Index, n: l.N}
	var err error
	if i.Org, err = ids.ParseOrg(l.Org); err != nil {
		return nil, err
	}
	if l.Client != "" {
		if i.Client, err = ids.ParseClient(l.Client); err != nil {
			return nil, err
		}
	}
	if l.Flow != "" {
		i.Flow, err = ids.ParseFlow(l.Flow)
	}
	return i, err
}
