package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
)

// read walks the messages from at on, across files. Damage inside a file ends
// that file: its remaining messages are lost, which recovery has told. So are
// those of a file that somebody removed, which is told here.
func (s *segments) read(at position, end uint64, each func(uint64, []byte) bool) (position, error) {
	for _, seg := range s.from(at) {
		if seg.first >= end {
			break
		}
		if at.segment != seg.number {
			at.segment, at.offset, at.seq = seg.number, checkpointAt, max(at.seq, seg.first)
			// The walk begins at the file's first message, which may lie before
			// the wanted one.
		}
		next, more, err := s.readFile(seg, at, end, each)
		if errors.Is(err, fs.ErrNotExist) {
			next, more, err = position{min(end, s.lose(seg.number)), seg.number, checkpointAt}, true, nil
		}
		if err != nil {
			return at, err
		}
		at = next
		if !more {
			return at, nil
		}
	}
	return at, nil
}

// lose notes that a file is not there any more, and gives the number of the first
// message after it.
func (s *segments) lose(number uint64) uint64 {
	after, news := s.markGone(number)
	if news {
		s.metric.damaged.Inc()
		s.logger.Error("buffer segment was removed, messages lost", "segment", number, "up_to", after)
	}
	return after
}

func (s *segments) markGone(number uint64) (after uint64, news bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	after = s.nextSeq
	for i, seg := range slices.Backward(s.files) {
		if seg.number == number {
			s.files[i].gone = true
			return after, !seg.gone
		}
		after = seg.first
	}
	return after, false
}

// from lists the files that may hold messages at or after at.
func (s *segments) from(at position) []segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []segment
	for i, seg := range s.files {
		whollyBefore := i+1 < len(s.files) && s.files[i+1].first <= at.seq
		if seg.number >= at.segment && !whollyBefore {
			out = append(out, seg)
		}
	}
	return out
}

// readFile walks one file. more is false when each said stop or end was come.
func (s *segments) readFile(seg segment, at position, end uint64, each func(uint64, []byte) bool) (position, bool, error) {
	f, err := os.Open(s.path(seg.number))
	if err != nil {
		return at, false, fmt.Errorf("open buffer segment: %w", err)
	}
	defer f.Close()
	want, seq := at.seq, at.seq
	if at.offset <= checkpointAt {
		seq = seg.first
	}
	for seq < end {
		kind, body, next, err := readRecord(f, at.offset, seg.size)
		switch {
		case errors.Is(err, io.EOF):
			return position{max(seq, want), seg.number, at.offset}, true, nil
		case err != nil:
			return at, false, fmt.Errorf("read buffer segment %d at %d: %w", seg.number, at.offset, err)
		}
		if kind == recordMessage {
			if seq >= want && !each(seq, body) {
				return position{seq, seg.number, at.offset}, false, nil
			}
			seq++
		}
		at.offset = next
	}
	return position{seq, seg.number, at.offset}, false, nil
}

// release removes files whose messages are all done. When the buffer is idle a
// large last file is replaced by a fresh one, which leaves a checkpoint only.
func (s *segments) release(at position, idle bool, checkpoint func() ([]byte, error)) error {
	if last := s.current(); last.gone || idle && last.size > s.idleEnough {
		if err := s.roll(checkpoint); err != nil {
			return err
		}
	}
	for {
		old, ok := s.popDone(at.seq)
		if !ok {
			return nil
		}
		if err := os.Remove(s.path(old.number)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove buffer segment: %w", err)
		}
	}
}

// popDone takes the oldest file off the list if it holds nothing from seq on.
func (s *segments) popDone(seq uint64) (segment, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.files) < 2 || s.files[1].first > seq {
		return segment{}, false
	}
	old := s.files[0]
	s.files = s.files[1:]
	s.total -= old.size
	return old, true
}
