package filestore

import (
	"context"
	"errors"
	"fmt"
	"io"
)

// Pack turns batches into the bytes of a segment.
func Pack(appends ...Append) ([]byte, error) {
	p := newPacker()
	defer p.free()
	for _, a := range appends {
		if err := checkExtent(a.Extent, a.Lines); err != nil {
			return nil, err
		}
		if err := p.add(a.Extent, a.Lines); err != nil {
			return nil, err
		}
	}
	err := p.endMember()
	return append([]byte(nil), p.out...), err
}

// ScanBytes walks over a segment in memory and inflates each member; the error
// tells of a member that is not what its header says.
func ScanBytes(b []byte) (Scan, []Member, error) {
	var members []Member
	src := memory(b)
	scan, err := scanSegment(context.Background(), src, 0, int64(len(b)), func(m Member) error {
		members = append(members, m)
		return nil
	})
	for _, m := range members {
		plain, readErr := readMember(context.Background(), src, m)
		if readErr != nil {
			return scan, members, errors.Join(err, readErr)
		}
		var end int64
		for _, e := range m.Extents {
			if e.Offset != end {
				return scan, members, fmt.Errorf("extent at %d, want %d", e.Offset, end)
			}
			end += e.Length
			if _, cutErr := cutExtent(plain, e); cutErr != nil {
				return scan, members, errors.Join(err, cutErr)
			}
		}
	}
	return scan, members, err
}

type memory []byte

func (m memory) ReadAt(_ context.Context, p []byte, off int64) (int, error) {
	if off >= int64(len(m)) {
		return 0, io.EOF
	}
	n := copy(p, m[off:])
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

// Reseal makes the checksums of a changed header hold again, so that fuzzing
// gets past them.
func Reseal(member []byte, head int) { sealMember(member, head) }

// ParseSidecar returns how many valid extents a sidecar has.
func ParseSidecar(b []byte) (extents int, finished bool) {
	s := parseSidecar(b)
	return len(s.extents), s.finished
}

// ParseCursor reads a cursor.
func ParseCursor(text string) error {
	_, _, err := parseCursor(text)
	return err
}

// CheckIndex holds a sparse index against its sizes.
var CheckIndex = checkIndex

// QueuedBytes is what waits to be committed.
func (c *Committer) QueuedBytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.queued
}
