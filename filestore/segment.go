package filestore

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/crc32"

	"raptorpack/ids"
)

// ErrDamaged means that bytes of a segment or upload are not what was written:
// a torn tail, a flipped bit, a foreign file. Trying again does not help.
var ErrDamaged = errors.New("damaged bytes")

// ErrBadAppend means that an Append or UploadWrite breaks the rules of its
// fields. Trying again does not help: it is a mistake of the caller.
var ErrBadAppend = errors.New("append is malformed")

const (
	// MaxMemberBytes bounds the plain bytes of a gzip member. Only a single row
	// may be longer.
	MaxMemberBytes = 1 << 20

	// MaxRowBytes bounds one row, its line end included.
	MaxRowBytes = 64 << 20

	// MaxNameBytes bounds an extent's name.
	MaxNameBytes = 4 << 10

	// MaxRow bounds row numbers: what a float64 in JavaScript holds exactly.
	MaxRow = 1 << 53

	segmentVersion = 1

	gzipFixed   = 12 // fixed header and XLEN
	gzipTrailer = 8  // CRC32 and ISIZE
	subfield    = 4  // "RP" and its length
	indexFixed  = 14 // version, flags, member length, body CRC, header CRC
	maxXLEN     = 0xffff
	maxIndex    = maxXLEN - subfield

	headerCRCAt = gzipFixed + subfield + 10
)

const (
	extentClientRaw   = 1 << iota // client is the 8 bytes of its id
	extentClientText              // client is in the string table
	extentHasDigest               // 16 bytes of digest follow
	extentKnownFlags  = 1<<iota - 1
	extentClientFlags = extentClientRaw | extentClientText
)

// castagnoli is CRC-32C, which processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Digest identifies a batch of rows that have no numbers: the first 16 bytes of
// SHA-256 over client, name, response time and rows. Zero means that the rows
// are numbered.
type Digest [16]byte

// IsZero reports whether d is none.
func (d Digest) IsZero() bool { return d == Digest{} }

// String returns hex digits, empty for none.
func (d Digest) String() string {
	if d.IsZero() {
		return ""
	}
	return hex.EncodeToString(d[:])
}

// Stream names rows that are numbered together: 0, 1, 2, … Event batches are a
// stream each, by their digest.
type Stream struct {
	Client ids.Client
	Flow   ids.Flow
	Name   string
	Digest Digest
}

// String prints the stream for logs.
func (s Stream) String() string {
	text := s.Client.String() + " " + s.Flow.String() + " " + s.Name
	if !s.Digest.IsZero() {
		text += " " + s.Digest.String()
	}
	return text
}

// Extent is one batch of rows in a segment. Who appends sets the fields down to
// Digest; the others tell where the batch came to lie.
type Extent struct {
	Client   ids.Client // zero: none
	Flow     ids.Flow   // zero: none
	Name     string     // result name, "log" for logs; at most MaxNameBytes
	FirstRow int64      // number of the first row, from 0
	Rows     int64      // at least 1
	Digest   Digest     // only for rows without numbers

	Offset int64  // of the first byte in its member's plain bytes
	Length int64  // plain bytes
	CRC    uint32 // CRC-32C of the plain bytes
}

// Stream returns what the extent's rows are numbered by.
func (e Extent) Stream() Stream { return Stream{e.Client, e.Flow, e.Name, e.Digest} }

// end is the number after the last row.
func (e Extent) end() int64 { return e.FirstRow + e.Rows }

// Member is one gzip member of a segment.
type Member struct {
	Offset  int64 // in the file
	Length  int64 // stored bytes, header and trailer included
	Plain   int64 // bytes when inflated
	Extents []Extent

	head int // bytes before the deflate stream
}

var (
	errMore  = errors.New("more bytes needed")
	errIndex = fmt.Errorf("segment index: %w", ErrDamaged)
)

// appendHeader appends a member's header for extents; length and body CRC are
// patched in by sealMember when they are known.
func appendHeader(dst []byte, strings [][]byte, extents []byte, count int) []byte {
	at := len(dst)
	// FEXTRA set, no time, operating system unknown: same rows, same bytes.
	dst = append(dst, 0x1f, 0x8b, 8, 4, 0, 0, 0, 0, 0, 255, 0, 0, 'R', 'P', 0, 0)
	dst = append(dst, segmentVersion, 0)
	dst = append(dst, make([]byte, indexFixed-2)...)
	dst = binary.AppendUvarint(dst, uint64(len(strings)))
	for _, s := range strings {
		dst = binary.AppendUvarint(dst, uint64(len(s)))
		dst = append(dst, s...)
	}
	dst = binary.AppendUvarint(dst, uint64(count))
	dst = append(dst, extents...)
	index := len(dst) - at - gzipFixed - subfield
	binary.LittleEndian.PutUint16(dst[at+10:], uint16(index+subfield))
	binary.LittleEndian.PutUint16(dst[at+14:], uint16(index))
	return dst
}

// sealMember fills in what depends on the body: member is a whole gzip member
// whose header has head bytes.
func sealMember(member []byte, head int) {
	index := member[gzipFixed+subfield:]
	binary.LittleEndian.PutUint32(index[2:], uint32(len(member)))
	binary.LittleEndian.PutUint32(index[6:], crc32.Checksum(member[head:], castagnoli))
	binary.LittleEndian.PutUint32(index[10:], 0)
	binary.LittleEndian.PutUint32(index[10:], crc32.Checksum(member[:head], castagnoli))
}

// header is a member's header taken apart.
type header struct {
	member  Member
	bodyCRC uint32
}

// parseHeader reads the header at the start of b. It returns errMore when b
// ends before the header does, and an error that wraps ErrDamaged when these
// bytes can never become one.
func parseHeader(b []byte) (header, error) {
	const want = "\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
	if n := min(len(b), len(want)); string(b[:n]) != want[:n] {
		return header{}, errIndex
	}
	if len(b) < gzipFixed {
		return header{}, errMore
	}
	head := gzipFixed + int(binary.LittleEndian.Uint16(b[10:]))
	if head < gzipFixed+subfield+indexFixed {
		return header{}, errIndex
	}
	if len(b) < head {
		return header{}, errMore
	}
	b = b[:head]
	index := b[gzipFixed+subfield:]
	if b[12] != 'R' || b[13] != 'P' || int(binary.LittleEndian.Uint16(b[14:])) != len(index) {
		return header{}, errIndex
	}
	if headerCRC(b) != binary.LittleEndian.Uint32(b[headerCRCAt:]) || index[0] != segmentVersion || index[1] != 0 {
		return header{}, errIndex
	}
	h := header{bodyCRC: binary.LittleEndian.Uint32(index[6:])}
	h.member.Length = int64(binary.LittleEndian.Uint32(index[2:]))
	h.member.head = head
	if h.member.Length < int64(head+gzipTrailer) {
		return header{}, errIndex
	}
	d := indexDecoder{b: index[indexFixed:]}
	h.member.Extents, h.member.Plain = d.extents()
	if d.bad || len(d.b) != 0 {
		return header{}, errIndex
	}
	return h, nil
}

// headerCRC is the checksum of a header with its own field taken as zero.
func headerCRC(b []byte) uint32 {
	crc := crc32.Update(0, castagnoli, b[:headerCRCAt])
	crc = crc32.Update(crc, castagnoli, []byte{0, 0, 0, 0})
	return crc32.Update(crc, castagnoli, b[headerCRCAt+4:])
}

// indexDecoder reads the variable part of an index. After the first mistake bad
// is set and everything reads as zero.
type indexDecoder struct {
	b       []byte
	bad     bool
	strings []string
	flows   []ids.Flow // parsed, by string; zero: not yet
}

func (d *indexDecoder) extents() ([]Extent, int64) {
	count := d.number(uint64(len(d.b)))
	d.strings = make([]string, 0, min(count, 64))
	for range count {
		d.strings = append(d.strings, string(d.take(d.number(uint64(len(d.b))))))
	}
	d.flows = make([]ids.Flow, len(d.strings))
	const smallest = 10 // bytes of an extent
	count = d.number(uint64(len(d.b)) / smallest)
	if d.bad || count == 0 {
		d.bad = true
		return nil, 0
	}
	extents := make([]Extent, 0, count)
	var offset int64
	for range count {
		e := d.extent()
		e.Offset = offset
		offset += e.Length
		extents = append(extents, e)
	}
	if offset > MaxMemberBytes && (len(extents) != 1 || extents[0].Rows != 1) {
		d.bad = true
	}
	return extents, offset
}

func (d *indexDecoder) extent() Extent {
	var e Extent
	flags := d.byte()
	if flags&^extentKnownFlags != 0 || flags&extentClientFlags == extentClientFlags {
		d.bad = true
	}
	e.Client = d.client(flags)
	e.Flow = d.flow()
	e.Name = d.text()
	e.FirstRow = int64(d.number(MaxRow))
	e.Rows = int64(d.number(MaxRow))
	e.Length = int64(d.number(MaxRowBytes))
	if crc := d.take(4); len(crc) == 4 {
		e.CRC = binary.LittleEndian.Uint32(crc)
	}
	if flags&extentHasDigest != 0 {
		copy(e.Digest[:], d.take(uint64(len(e.Digest))))
		d.bad = d.bad || e.Digest.IsZero()
	}
	if e.Rows < 1 || e.Rows > e.Length || e.end() > MaxRow || len(e.Name) > MaxNameBytes {
		d.bad = true
	}
	return e
}

func (d *indexDecoder) client(flags byte) ids.Client {
	var text string
	switch flags & extentClientFlags {
	case extentClientRaw:
		text = "C." + hex.EncodeToString(d.take(8))
	case extentClientText:
		text = d.text()
	default:
		return ids.Client{}
	}
	c, err := ids.ParseClient(text)
	d.bad = d.bad || err != nil
	return c
}

func (d *indexDecoder) flow() ids.Flow {
	at := d.number(uint64(len(d.strings)))
	if at >= uint64(len(d.strings)) {
		d.bad = true
		return ids.Flow{}
	}
	if d.strings[at] != "" && d.flows[at].IsZero() {
		f, err := ids.ParseFlow(d.strings[at])
		d.bad = d.bad || err != nil
		d.flows[at] = f
	}
	return d.flows[at]
}

func (d *indexDecoder) text() string {
	at := d.number(uint64(len(d.strings)))
	if at >= uint64(len(d.strings)) {
		d.bad = true
		return ""
	}
	return d.strings[at]
}

func (d *indexDecoder) number(limit uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if d.bad || n <= 0 || v > limit {
		d.bad = true
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *indexDecoder) byte() byte {
	if b := d.take(1); len(b) == 1 {
		return b[0]
	}
	return 0
}

func (d *indexDecoder) take(n uint64) []byte {
	if d.bad || n > uint64(len(d.b)) {
		d.bad = true
		return nil
	}
	b := d.b[:n]
	d.b = d.b[n:]
	return b
}
