package endpoint

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"time"
)

// The format is described by the kernel, Documentation/filesystems/ext4.
const (
	ext4Magic     = 0xef53
	ext4Super     = 1024 // where the superblock lies, in bytes
	ext4Root      = 2    // the inode of the root folder
	ext4MinInode  = 128
	ext4BlockArea = 60 // bytes of an inode that say where its blocks are

	ext4FeatureFileType = 0x2
	ext4FeatureMetaBG   = 0x10
	ext4Feature64       = 0x80

	ext4FlagExtents = 0x80000
	ext4FlagInline  = 0x10000000
	ext4FlagCrypt   = 0x800
)

var (
	errNotExt4    = errors.New("not an ext2, ext3 or ext4 file system")
	errExt4Damage = errors.New("damaged file system")
	errEncrypted4 = errors.New("the file is encrypted")
)

// ext4 reads a file system. Not safe for concurrent use.
type ext4 struct {
	pages *pagedReader

	blockSize, blocks, firstBlock int64
	perGroup, inodesPerGroup      int64
	inodes, inodeSize, descSize   int64
	features                      uint32
	firstMetaBG                   int64
}

func openExt4(r io.ReaderAt) (*ext4, error) {
	e := &ext4{pages: newPagedReader(r)}
	raw := make([]byte, 1024)
	if err := e.pages.read(raw, ext4Super); err != nil {
		return nil, errors.Join(errNotExt4, err)
	}
	le := binary.LittleEndian
	u32 := func(at int) int64 { return int64(le.Uint32(raw[at:])) }
	if le.Uint16(raw[56:]) != ext4Magic || u32(24) > 6 {
		return nil, errNotExt4
	}
	e.blockSize = 1024 << u32(24)
	e.inodes, e.blocks, e.firstBlock = u32(0), u32(4), u32(20)
	e.perGroup, e.inodesPerGroup = u32(32), u32(40)
	e.inodeSize, e.descSize = ext4MinInode, 32
	if u32(76) > 0 { // the revision, which has what follows
		e.inodeSize = int64(le.Uint16(raw[88:]))
		e.features = le.Uint32(raw[96:])
	}
	if e.features&ext4Feature64 != 0 {
		e.descSize = int64(le.Uint16(raw[254:]))
		e.blocks |= u32(336) << 32
	}
	e.firstMetaBG = u32(260)
	if e.perGroup == 0 || e.inodesPerGroup == 0 || e.inodeSize < ext4MinInode || e.inodeSize > e.blockSize || e.descSize < 32 || e.descSize > e.blockSize || e.blocks <= 0 {
		return nil, fmt.Errorf("%w: its superblock", errExt4Damage)
	}
	return e, nil
}

// block is where a block lies, in bytes.
func (e *ext4) block(n int64) (int64, error) {
	if n < 0 || n >= e.blocks {
		return 0, fmt.Errorf("%w: block %d of %d", errExt4Damage, n, e.blocks)
	}
	return n * e.blockSize, nil
}

// descriptor is where a group's descriptor lies, in bytes.
func (e *ext4) descriptor(group int64) (int64, error) {
	perBlock := e.blockSize / e.descSize
	meta := group / perBlock
	if e.features&ext4FeatureMetaBG == 0 || meta < e.firstMetaBG {
		at, err := e.block(e.firstBlock + 1 + group*e.descSize/e.blockSize)
		return at + group*e.descSize%e.blockSize, err
	}
	first := meta * perBlock // the group whose blocks hold it
	at := e.firstBlock + first*e.perGroup
	if hasSuperblock(first) {
		at++
	}
	place, err := e.block(at)
	return place + group%perBlock*e.descSize, err
}

// hasSuperblock reports whether a group begins with a copy of the superblock.
func hasSuperblock(group int64) bool {
	if group <= 1 {
		return true
	}
	for _, base := range []int64{3, 5, 7} {
		n := base
		for n < group {
			n *= base
		}
		if n == group {
			return true
		}
	}
	return false
}

// ext4Inode is a file, folder or the like.
type ext4Inode struct {
	raw    []byte
	number int64
	mode   uint16
	flags  uint32
	size   int64
}

func (e *ext4) inode(number int64) (*ext4Inode, error) {
	if number < 1 || number > e.inodes {
		return nil, fmt.Errorf("%w: inode %d of %d", errExt4Damage, number, e.inodes)
	}
	at, err := e.descriptor((number - 1) / e.inodesPerGroup)
	if err != nil {
		return nil, err
	}
	desc := make([]byte, e.descSize)
	if err := e.pages.read(desc, at); err != nil {
		return nil, fmt.Errorf("read the descriptor of inode %d: %w", number, err)
	}
	le := binary.LittleEndian
	table := int64(le.Uint32(desc[8:]))
	if e.descSize >= 64 {
		table |= int64(le.Uint32(desc[40:])) << 32
	}
	if at, err = e.block(table); err != nil {
		return nil, err
	}
	raw := make([]byte, e.inodeSize)
	if err := e.pages.read(raw, at+(number-1)%e.inodesPerGroup*e.inodeSize); err != nil {
		return nil, fmt.Errorf("read inode %d: %w", number, err)
	}
	i := &ext4Inode{raw: raw, number: number, mode: le.Uint16(raw), flags: le.Uint32(raw[32:])}
	i.size = int64(le.Uint32(raw[4:])) | int64(le.Uint32(raw[108:]))<<32
	if i.size < 0 {
		return nil, fmt.Errorf("%w: inode %d has %d bytes", errExt4Damage, number, i.size)
	}
	return i, nil
}

func (i *ext4Inode) fileMode() fs.FileMode {
	mode := fs.FileMode(i.mode & 0o777)
	mode |= map[uint16]fs.FileMode{
		0x1000: fs.ModeNamedPipe, 0x2000: fs.ModeDevice | fs.ModeCharDevice, 0x4000: fs.ModeDir, 0x6000: fs.ModeDevice,
		0xa000: fs.ModeSymlink, 0xc000: fs.ModeSocket,
	}[i.mode&0xf000]
	for bit, flag := range map[uint16]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if i.mode&bit != 0 {
			mode |= flag
		}
	}
	return mode
}

func (i *ext4Inode) u16(at int) int64 { return int64(binary.LittleEndian.Uint16(i.raw[at:])) }

// extra reads a field behind the first 128 bytes, 0 where the inode has none.
func (i *ext4Inode) extra(at int) uint32 {
	if len(i.raw) < ext4MinInode+2 || int64(at+4-ext4MinInode) > i.u16(ext4MinInode) || at+4 > len(i.raw) {
		return 0
	}
	return binary.LittleEndian.Uint32(i.raw[at:])
}

// time joins seconds with the field that holds nanoseconds and two further bits.
func (i *ext4Inode) time(seconds int32, extra uint32) time.Time {
	return time.Unix(int64(seconds)+int64(extra&3)<<32, int64(extra>>2)).UTC()
}

func (i *ext4Inode) timeAt(at, extra int) time.Time {
	return i.time(int32(binary.LittleEndian.Uint32(i.raw[at:])), i.extra(extra))
}

func (i *ext4Inode) mtime() time.Time { return i.timeAt(16, 136) }
func (i *ext4Inode) atime() time.Time { return i.timeAt(8, 140) }
func (i *ext4Inode) ctime() time.Time { return i.timeAt(12, 132) }

func (i *ext4Inode) btime() time.Time {
	seconds := i.extra(144)
	if seconds == 0 {
		return time.Time{}
	}
	return i.time(int32(seconds), i.extra(148))
}

// inline is the content of a file that lies in its inode: where blocks would be
// named, and in an attribute.
func (i *ext4Inode) inline() [2][]byte {
	out := [2][]byte{i.raw[40 : 40+ext4BlockArea]}
	if len(i.raw) < ext4MinInode+2 {
		return out
	}
	from := ext4MinInode + int(i.u16(ext4MinInode))
	if from+4 > len(i.raw) || binary.LittleEndian.Uint32(i.raw[from:]) != 0xea020000 {
		return out
	}
	area := i.raw[from+4:]
	for at := 0; at+16 <= len(area) && area[at] != 0; {
		name := area[at+16:]
		name = name[:min(int(area[at]), len(name))]
		if area[at+1] == 7 && string(name) == "data" { // system.data
			offset, size := int(binary.LittleEndian.Uint16(area[at+2:])), int64(binary.LittleEndian.Uint32(area[at+8:]))
			if offset <= len(area) && size <= int64(len(area)-offset) {
				out[1] = area[offset : offset+int(size)]
			}
			return out
		}
		at += 16 + (int(area[at])+3)&^3
	}
	return out
}
