package yara

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/tetratelabs/wazero/api"
)

// Target is what is scanned. A scan uses it from one goroutine at a time.
type Target struct {
	// Reader gives the bytes of the blocks, and may be asked for the same bytes
	// again. Fewer bytes than a block has cut that block short.
	Reader io.ReaderAt
	// Blocks are what is scanned, in the order of their bases. They may overlap:
	// a hit in both is one. A string is found only inside of a block.
	Blocks []Block
	// Size is the size of the whole file, for the rules. Negative is none: the
	// blocks are the memory of a process, and offsets are addresses.
	Size int64
}

// Block is a part of a target, which has to fit into the memory of an instance.
type Block struct {
	Base int64
	Size int64
}

// ScanOptions says what of the matches is wanted.
type ScanOptions struct {
	// Context is how many bytes on either side of a hit come with it.
	Context int
	// Hits is how many hits come, of all rules together; a rule that matched without
	// one counts as one. 0 is all.
	Hits int
	// Note takes remarks: what rules write to their console, and strings that are
	// found too often. May be nil.
	Note func(message string)
}

// Match is a rule that matched.
type Match struct {
	Rule, Namespace string
	Tags            []string
	Meta            []Meta
	// Hits are those of the rule's strings, by string and then by offset. Private
	// strings have none here.
	Hits []Hit
}

// Meta is a line of a rule's meta section; Value is an int64, bool or string.
type Meta struct {
	Name  string
	Value any
}

// Hit is a place where a string was found.
type Hit struct {
	// Name is the string's, as $a; "$" for one without a name.
	Name   string
	Offset int64
	Length int
	// Data holds the hit, at most its first 64 KiB, with the context around it. It
	// is shorter when the bytes could not be read a second time.
	Data []byte
}

const (
	// maxStringMatches is how many places of one string libyara keeps, as
	// YR_MAX_STRING_MATCHES in scripts/yara/build.sh.
	maxStringMatches = 100_000

	// maxHitBytes is how much of a hit, and of each side of its context, is given.
	maxHitBytes = 64 << 10

	// maxBlockBytes is the largest block.
	maxBlockBytes = 1 << 30
)

// Scan scans a target and returns the rules that matched, in their order. It ends
// with ctx, whatever the rules do. Blocks that cannot be read are left out: the
// first such error comes back together with what matched in all others.
func (r *Rules) Scan(ctx context.Context, t Target, o ScanOptions) ([]*Match, error) {
	for _, b := range t.Blocks {
		if b.Base < 0 || b.Size < 0 || b.Size > maxBlockBytes || b.Base+b.Size < 0 {
			return nil, fmt.Errorf("block of %d bytes at %d: out of range", b.Size, b.Base)
		}
	}
	done, err := r.engine.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	in, err := r.engine.take(ctx, r)
	if err != nil {
		return nil, err
	}
	s := &scan{target: t, options: o, next: -1}
	r.engine.counts.scans.Add(1)
	err = in.must(withCall(ctx, &call{scan: s}), "scan", truth(t.Size < 0), uint64(max(t.Size, 0)))
	if err != nil {
		err = fmt.Errorf("scan: %w", err)
		in.broken = true // what it left behind is not worth finding out
	}
	r.engine.counts.read.Add(s.bytesRead)
	if err != nil || s.unread != nil {
		r.engine.counts.failed.Add(1)
	}
	return s.matches, errors.Join(err, s.unread, r.engine.give(ctx, in))
}

// scan is what one scan knows.
type scan struct {
	target  Target
	options ScanOptions

	next    int   // the block that libyara stands at; -1 before the first
	held    Block // what lies in the instance's buffer
	address uint32

	match   *Match // the one that is being told
	matches []*Match
	count   int   // of hits, and of matches without one
	unread  error // the first block that could not be read

	bytesRead uint64
}

// full reports whether no more hits are wanted.
func (s *scan) full() bool { return s.options.Hits > 0 && s.count >= s.options.Hits }

func (s *scan) note(format string, args ...any) {
	if s.options.Note != nil {
		s.options.Note(fmt.Sprintf(format, args...))
	}
}

// advance goes to the first or to the next block. Conditions go through all
// blocks anew.
func (s *scan) advance(first bool) (Block, bool) {
	if first {
		s.next = -1
	}
	if s.next+1 >= len(s.target.Blocks) {
		return Block{}, false
	}
	s.next++
	return s.target.Blocks[s.next], true
}

// read fills the instance's buffer with the block that libyara stands at.
func (s *scan) read(memory api.Memory, address, size uint32) int {
	b := &s.target.Blocks[s.next]
	if address == 0 {
		if s.unread == nil {
			s.unread = fmt.Errorf("read %d bytes at %d: %w", size, b.Base, ErrMemory)
		}
		return 0
	}
	n, err := s.target.Reader.ReadAt(view(memory, uint64(address), uint64(size)), b.Base)
	if err != nil && !errors.Is(err, io.EOF) && s.unread == nil { // the first tells enough
		s.unread = fmt.Errorf("read %d bytes at %d: %w", size, b.Base, err)
	}
	s.bytesRead += uint64(n)
	s.address, s.held = address, Block{b.Base, int64(n)}
	return n
}

// hit takes a place where a string of the matching rule was found; false when no
// more are wanted.
func (s *scan) hit(memory api.Memory, name string, offset int64, length int) bool {
	if s.full() {
		return false
	}
	h := Hit{Name: name, Offset: offset, Length: length}
	around := int64(min(max(s.options.Context, 0), maxHitBytes))
	h.Data = s.bytes(memory, max(offset-around, 0), offset+int64(min(length, maxHitBytes))+around)
	s.match.Hits = append(s.match.Hits, h)
	s.count++
	return true
}

// bytes returns the target from one place to another, from what was scanned where
// that is at hand.
func (s *scan) bytes(memory api.Memory, from, to int64) []byte {
	if s.target.Size >= 0 {
		to = min(to, s.target.Size)
	}
	out := make([]byte, max(to-from, 0))
	if end := s.held.Base + s.held.Size; from >= s.held.Base && to <= end {
		copy(out, view(memory, uint64(s.address)+uint64(from-s.held.Base), uint64(len(out))))
		return out
	}
	n, err := s.target.Reader.ReadAt(out, from)
	if err != nil && !errors.Is(err, io.EOF) {
		s.note("read around a hit at %d: %v", from, err)
	}
	return out[:n]
}

// ruleEnd keeps the match that was told; false when no more are wanted.
func (s *scan) ruleEnd() bool {
	if len(s.match.Hits) == 0 {
		s.count++
	}
	s.matches = append(s.matches, s.match)
	s.match = nil
	return !s.full()
}
