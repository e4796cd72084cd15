package replication

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
)

// The format of a ledger file, version 1. Integers are little endian, checks
// are CRC-32C (Castagnoli, RFC 3720 appendix B.4).
//
//	header, 64 bytes                         record
//	 0  8  "RPLEDGER"                         0  4  "RPLe" an entry, "RPLn" the next file
//	 8  4  version, 1                         4  4  length of the payload
//	12  8  epoch                              8  8  durable: bytes of this file that were synced
//	20  8  index of the first entry                 before this record was written
//	28 32  chain hash before that entry      16 32  chain hash before this record
//	60  4  CRC of bytes 0-59                 48  4  CRC of bytes 0-47 and the payload
//	                                         52  n  payload: buspb.Entry, or 8 bytes: the first
//	                                                index that names the next file
//
// The chain hash after an entry is SHA-256 of (the hash before it, its
// payload); before entry 1 it is 32 zero bytes. Next-file records do not move
// it. "durable" tells a torn tail from damage: what fails to read below the
// durable mark of any later record had been synced once.
const (
	fileMagic    = "RPLEDGER"
	fileVersion  = 1
	headerBytes  = 64
	recordHead   = 52
	markEntry    = "RPLe"
	markNext     = "RPLn"
	markBytes    = 4
	nextBytes    = 8
	maxFrame     = 1 << 20 // payload of a record, and of a bus frame
	inlineBytes  = 256 << 10
	maxFileBytes = 1 << 30 // no reader takes a larger ledger file for one
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// chainHash commits to all entries up to an index.
type chainHash = [sha256.Size]byte

// link extends the chain by one payload.
func link(prev chainHash, payload []byte) chainHash {
	h := sha256.New()
	h.Write(prev[:])
	h.Write(payload)
	var next chainHash
	h.Sum(next[:0])
	return next
}

// fileHeader opens a ledger file.
type fileHeader struct {
	epoch uint64
	first uint64
	chain chainHash
}

func (h fileHeader) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, fileMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, fileVersion)
	dst = binary.LittleEndian.AppendUint64(dst, h.epoch)
	dst = binary.LittleEndian.AppendUint64(dst, h.first)
	dst = append(dst, h.chain[:]...)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func parseHeader(b []byte) (fileHeader, error) {
	var h fileHeader
	if len(b) < headerBytes || string(b[:len(fileMagic)]) != fileMagic {
		return h, errTorn
	}
	if crc32.Checksum(b[:60], castagnoli) != binary.LittleEndian.Uint32(b[60:]) {
		return h, errTorn
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != fileVersion {
		return h, fmt.Errorf("ledger file version %d: %w", v, ErrVersion)
	}
	h.epoch = binary.LittleEndian.Uint64(b[12:])
	h.first = binary.LittleEndian.Uint64(b[20:])
	copy(h.chain[:], b[28:])
	return h, nil
}

// record is one parsed record; payload points into the parsed bytes.
type record struct {
	mark    string
	durable int64
	prev    chainHash
	payload []byte
}

func (r record) size() int { return recordHead + len(r.payload) }

func (r record) append(dst []byte) []byte {
	start := len(dst)
	dst = append(dst, r.mark...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(r.payload)))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(r.durable))
	dst = append(dst, r.prev[:]...)
	check := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, r.payload)
	dst = binary.LittleEndian.AppendUint32(dst, check)
	return append(dst, r.payload...)
}

// parseRecord reads the record that b begins with; errTorn if there is none.
func parseRecord(b []byte) (record, error) {
	if len(b) < recordHead {
		return record{}, errTorn
	}
	r := record{mark: string(b[:markBytes])}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if (r.mark != markEntry && r.mark != markNext) || n > maxFrame || n > int64(len(b)-recordHead) {
		return record{}, errTorn
	}
	r.payload = b[recordHead : recordHead+n : recordHead+n]
	check := crc32.Update(crc32.Checksum(b[:48], castagnoli), castagnoli, r.payload)
	if check != binary.LittleEndian.Uint32(b[48:]) {
		return record{}, errTorn
	}
	r.durable = int64(binary.LittleEndian.Uint64(b[8:]))
	copy(r.prev[:], b[16:])
	return r, nil
}

// place is a point in the ledger: the last entry before it, and its chain.
type place struct {
	epoch uint64 // of the entry at index; 0 before entry 1
	index uint64
	time  int64 // of that entry, unix microseconds
	chain chainHash
}

// after is the place behind an entry that follows p, whose record has payload.
func (p place) after(e *buspb.Entry, payload []byte) place {
	return place{epoch: e.Epoch, index: e.Index, time: e.Time, chain: link(p.chain, payload)}
}

// fileScan is what one pass over a ledger file found.
type fileScan struct {
	header fileHeader
	last   place  // after the last valid entry
	length int64  // valid prefix in bytes
	next   uint64 // first index of the named successor, 0: none named
	rest   int64  // bytes beyond the valid prefix
}

// visit is called for each entry of a scan, with the place after it. e belongs
// to the callee; payload, which the chain is made of, and the bytes of e point into
// the file's.
type visit func(e *buspb.Entry, payload []byte, at place) error

// errStop, returned by a visit, ends a scan without an error.
var errStop = errors.New("stop here")

// scanFile walks the valid prefix of a ledger file. A prefix that ends early
// is not an error unless later records prove that more had been durable; then
// it is ErrDamaged. before is the time of the entry before the file's first.
func scanFile(data []byte, before int64, fn visit) (fileScan, error) {
	h, err := parseHeader(data)
	if err != nil {
		return fileScan{rest: int64(len(data))}, err
	}
	s := fileScan{header: h, length: headerBytes, last: place{epoch: h.epoch, index: h.first - 1, time: before, chain: h.chain}}
	for s.next == 0 && s.length < int64(len(data)) {
		r, err := parseRecord(data[s.length:])
		if err == nil && (r.prev != s.last.chain || r.durable > s.length) {
			err = errTorn
		}
		if err == nil {
			err = s.step(r, fn)
		}
		if errors.Is(err, errTorn) {
			break
		}
		if err != nil {
			s.rest = int64(len(data)) - s.length
			return s, err
		}
		s.length += int64(r.size())
	}
	s.rest = int64(len(data)) - s.length
	return s, s.checkTail(data)
}

// step takes one record that parsed and follows its predecessor.
func (s *fileScan) step(r record, fn visit) error {
	if r.mark == markNext {
		if len(r.payload) != nextBytes {
			return errTorn
		}
		next := binary.LittleEndian.Uint64(r.payload)
		if next != s.last.index+1 {
			return errTorn
		}
		s.next = next
		return nil
	}
	e := &buspb.Entry{}
	if err := proto.Unmarshal(r.payload, e); err != nil {
		return errTorn
	}
	if e.Index != s.last.index+1 || e.Epoch != s.header.epoch || e.Time <= s.last.time || e.Mutation == nil {
		return errTorn
	}
	at := s.last.after(e, r.payload)
	if err := fn(e, r.payload, at); err != nil {
		return err
	}
	s.last = at
	return nil
}

// checkTail looks beyond the valid prefix for records which say that more than
// the prefix had been synced when they were written.
func (s *fileScan) checkTail(data []byte) error {
	for at := s.length; at < int64(len(data)); {
		i := bytes.Index(data[at:], []byte(markEntry[:3]))
		if i < 0 {
			return nil
		}
		at += int64(i)
		// A record cannot speak of bytes behind its own: bytes that say so only look
		// like one, such as a text that somebody sent us.
		if r, err := parseRecord(data[at:]); err == nil && r.durable > s.length && r.durable <= at {
			return fmt.Errorf("bytes from %d on were durable up to %d: %w", s.length, r.durable, ErrDamaged)
		}
		at++
	}
	return nil
}
