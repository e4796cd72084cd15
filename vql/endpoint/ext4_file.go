package endpoint

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sort"

	"raptorpack/vql"
)

const (
	extentMagic    = 0xf30a
	maxExtentDepth = 5
	// maxExtents bounds the extents of a file; each takes 24 bytes.
	maxExtents = 1 << 20
	// uninitialised extents are longer by this and read as zeros.
	maxExtentLength = 1 << 15
)

// extent is a run of blocks of a file.
type extent struct {
	from, count int64 // in the file
	disk        int64 // -1 for zeros
}

// content opens what a file holds. closer is closed with it.
func (e *ext4) content(i *ext4Inode, closer io.Closer) (vql.ReadSeekCloser, error) {
	if i.flags&ext4FlagCrypt != 0 {
		return nil, errEncrypted4
	}
	if i.flags&ext4FlagInline != 0 {
		parts := i.inline()
		data := append(bytes.Clone(parts[0]), parts[1]...)
		return &rangedFile{ranges: wholeRange(min(i.size, int64(len(data)))), closer: closer, readAt: bytes.NewReader(data).ReadAt}, nil
	}
	if i.flags&ext4FlagExtents == 0 {
		return &rangedFile{ranges: wholeRange(i.size), closer: closer, readAt: func(p []byte, at int64) (int, error) {
			return e.readMapped(i, p, at)
		}}, nil
	}
	extents, err := e.extents(i)
	if err != nil {
		return nil, err
	}
	return &rangedFile{ranges: e.ranges(extents, i.size), closer: closer, readAt: func(p []byte, at int64) (int, error) {
		return e.readExtents(extents, p, at)
	}}, nil
}

func wholeRange(size int64) []vql.Range { return []vql.Range{{Length: size}} }

// extents lists the runs of a file in order.
func (e *ext4) extents(i *ext4Inode) ([]extent, error) {
	var out []extent
	if err := e.extentNode(i.raw[40:40+ext4BlockArea], maxExtentDepth+1, &out); err != nil {
		return nil, fmt.Errorf("inode %d: %w", i.number, err)
	}
	sort.Slice(out, func(a, b int) bool { return out[a].from < out[b].from })
	for n := 1; n < len(out); n++ {
		if out[n].from < out[n-1].from+out[n-1].count {
			return nil, fmt.Errorf("%w: extents of inode %d overlap", errExt4Damage, i.number)
		}
	}
	return out, nil
}

// extentNode reads a node of the tree. Each lies deeper than the one above, so that
// none can lead back.
func (e *ext4) extentNode(node []byte, above int, out *[]extent) error {
	le := binary.LittleEndian
	count, depth := int(le.Uint16(node[2:])), int(le.Uint16(node[6:]))
	if le.Uint16(node) != extentMagic || depth >= above || 12*(count+1) > len(node) {
		return fmt.Errorf("%w: a node of extents", errExt4Damage)
	}
	for n := range count {
		entry := node[12*(n+1):]
		if len(*out) == maxExtents {
			return fmt.Errorf("%w: more than %d extents", errExt4Damage, maxExtents)
		}
		if depth == 0 {
			x := extent{from: int64(le.Uint32(entry)), count: int64(le.Uint16(entry[4:])), disk: int64(le.Uint32(entry[8:])) | int64(le.Uint16(entry[6:]))<<32}
			if x.count > maxExtentLength {
				x.count, x.disk = x.count-maxExtentLength, -1
			}
			*out = append(*out, x)
			continue
		}
		at, err := e.block(int64(le.Uint32(entry[4:])) | int64(le.Uint16(entry[8:]))<<32)
		if err != nil {
			return err
		}
		*out = append(*out, extent{}) // counts the node, so that empty ones end too
		child := make([]byte, e.blockSize)
		if err := e.pages.read(child, at); err != nil {
			return err
		}
		if err := e.extentNode(child, depth, out); err != nil {
			return err
		}
	}
	return nil
}

// ranges are the parts of a file, holes included.
func (e *ext4) ranges(extents []extent, size int64) []vql.Range {
	var out []vql.Range
	at := int64(0)
	add := func(to int64, sparse bool) {
		if to = min(to, size); to > at {
			out = append(out, vql.Range{Offset: at, Length: to - at, Sparse: sparse})
			at = to
		}
	}
	for _, x := range extents {
		add(x.from*e.blockSize, true)
		add((x.from+x.count)*e.blockSize, x.disk < 0)
	}
	add(size, true)
	return out
}

func (e *ext4) readExtents(extents []extent, p []byte, at int64) (int, error) {
	block := at / e.blockSize
	n := sort.Search(len(extents), func(n int) bool { return extents[n].from+extents[n].count > block })
	if n == len(extents) || extents[n].from > block {
		return 0, io.EOF // a hole, which the ranges keep from us
	}
	x := extents[n]
	if _, err := e.block(x.disk + x.count - 1); err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), (x.from+x.count)*e.blockSize-at)]
	if err := e.pages.read(p, (x.disk-x.from)*e.blockSize+at); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readMapped reads a file of the older kind, whose inode names its first blocks and
// blocks that name further ones.
func (e *ext4) readMapped(i *ext4Inode, p []byte, at int64) (int, error) {
	disk, err := e.mapped(i, at/e.blockSize)
	if err != nil {
		return 0, err
	}
	p = p[:min(int64(len(p)), e.blockSize-at%e.blockSize)]
	if disk == 0 {
		clear(p)
		return len(p), nil
	}
	place, err := e.block(disk)
	if err != nil {
		return 0, err
	}
	if err := e.pages.read(p, place+at%e.blockSize); err != nil {
		return 0, err
	}
	return len(p), nil
}

// mapped finds a block of such a file; 0 is a hole.
func (e *ext4) mapped(i *ext4Inode, n int64) (int64, error) {
	pointer := func(slot int64) int64 { return int64(binary.LittleEndian.Uint32(i.raw[40+4*slot:])) }
	const direct = 12
	if n < direct {
		return pointer(n), nil
	}
	n -= direct
	perBlock := e.blockSize / 4
	span := int64(1) // of a pointer in the last block on the way
	for level := int64(0); level < 3; level++ {
		if n < span*perBlock {
			return e.follow(pointer(direct+level), n, span)
		}
		n -= span * perBlock
		span *= perBlock
	}
	return 0, fmt.Errorf("%w: a block beyond the end of inode %d", errExt4Damage, i.number)
}

// follow goes from a block of pointers down to a block of the file.
func (e *ext4) follow(disk, n, span int64) (int64, error) {
	for ; disk != 0 && span > 0; span /= e.blockSize / 4 {
		at, err := e.block(disk)
		if err != nil {
			return 0, err
		}
		var raw [4]byte
		if err := e.pages.read(raw[:], at+4*(n/span)); err != nil {
			return 0, err
		}
		disk, n = int64(binary.LittleEndian.Uint32(raw[:])), n%span
	}
	return disk, nil
}
