package client

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// errTorn means that the bytes at hand are no whole record: the end of what
// was written before a crash, or damage. Nothing after it can be trusted.
var errTorn = errors.New("torn record")

// Kinds of record. The numbers are on disk.
const (
	recordCheckpoint byte = 1 // JSON of the journal; first record of each segment
	recordMessage    byte = 2 // a mark and a serialized message
	recordCommit     byte = 3 // uvarint: all messages before this number are done
	recordFlow       byte = 4 // JSON of a flowEvent
)

// Bounds of a record's length: what a damaged length can ask for. Messages stay
// far below theirs. A checkpoint grows with the uploads of the flows at work,
// about a kilobyte each; its place, the first of a file, makes it known.
const (
	recordHead         = 8 // length and CRC32C, little endian, 4 bytes each
	maxRecordBytes     = 64 << 20
	maxCheckpointBytes = 1 << 30
	checkpointAt       = int64(len(segmentMagic))
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// appendRecord frames one record: length and checksum of kind and body.
func appendRecord(dst []byte, kind byte, body []byte) []byte {
	sum := crc32.Update(crc32.Update(0, castagnoli, []byte{kind}), castagnoli, body)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(body)+1))
	dst = binary.LittleEndian.AppendUint32(dst, sum)
	dst = append(dst, kind)
	return append(dst, body...)
}

// readRecord reads the record at offset of r, which holds limit bytes. It
// answers io.EOF exactly at the limit and errTorn for anything unreadable.
func readRecord(r io.ReaderAt, offset, limit int64) (kind byte, body []byte, next int64, err error) {
	if offset == limit {
		return 0, nil, offset, io.EOF
	}
	if limit-offset < recordHead+1 {
		return 0, nil, offset, errTorn
	}
	var head [recordHead]byte
	if _, err := r.ReadAt(head[:], offset); err != nil {
		return 0, nil, offset, readFailed(err)
	}
	bound := int64(maxRecordBytes)
	if offset == checkpointAt {
		bound = maxCheckpointBytes
	}
	length := int64(binary.LittleEndian.Uint32(head[:4]))
	if length < 1 || length > bound || length > limit-offset-recordHead {
		return 0, nil, offset, errTorn
	}
	data := make([]byte, length)
	if _, err := r.ReadAt(data, offset+recordHead); err != nil {
		return 0, nil, offset, readFailed(err)
	}
	if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(head[4:]) {
		return 0, nil, offset, errTorn
	}
	return data[0], data[1:], offset + recordHead + length, nil
}

// readFailed tells a short file (torn) from a disk that does not answer.
func readFailed(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errTorn
	}
	return err
}

// Kinds of message, as far as the buffer must tell them apart.
const (
	markRows   = "rows"
	markUpload = "upload"
	markLog    = "log"
	markStats  = "stats"
	markOther  = "other"
)

// mark says what a buffered message means for its flow. All totals are those
// after the message, so that folding a prefix of the log gives the state that
// belongs to exactly that prefix.
type mark struct {
	Flow   string      `json:"f,omitempty"`
	Kind   string      `json:"k"`
	Query  int         `json:"q,omitempty"`
	Name   string      `json:"n,omitempty"`
	Prefix prefix      `json:"p,omitzero"`
	Logs   int64       `json:"l,omitempty"` // log rows of the flow
	Upload *uploadMark `json:"u,omitempty"`
	Final  bool        `json:"e,omitempty"` // the flow's last message: its end
}

// prefix identifies the rows of one result name that are in the buffer or
// beyond it: how many, how long as JSON lines, and their CRC32C.
type prefix struct {
	Rows  int64  `json:"r,omitempty"`
	Bytes int64  `json:"b,omitempty"`
	Sum   uint32 `json:"s,omitempty"`
}

// extend adds one line (with its newline) to p.
func (p prefix) extend(line []byte) prefix {
	return prefix{p.Rows + 1, p.Bytes + int64(len(line)), crc32.Update(p.Sum, castagnoli, line)}
}

func encodeMessage(m mark, message []byte) ([]byte, error) {
	head, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode mark of %s: %w", m.Flow, err)
	}
	body := binary.AppendUvarint(make([]byte, 0, len(head)+len(message)+4), uint64(len(head)))
	body = append(body, head...)
	return append(body, message...), nil
}

func decodeMessage(body []byte) (mark, []byte, error) {
	var m mark
	length, n := binary.Uvarint(body)
	if n <= 0 || length > uint64(len(body)-n) {
		return m, nil, errTorn
	}
	head, message := body[n:n+int(length)], body[n+int(length):]
	if err := json.Unmarshal(head, &m); err != nil {
		return m, nil, fmt.Errorf("%w: %w", errTorn, err)
	}
	return m, message, nil
}
