package replication

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// The format of an outbox file, version 1. Integers are little endian.
//
//	header, 24 bytes                 record
//	 0  8  "RPOUTBOX"                 0  4  "RPOf"
//	 8  4  version, 1                 4  4  length of the payload
//	12  8  number of the first fact   8  8  durable
//	                                 16  4  CRC-32C of bytes 0-15 and the payload
//	20  4  CRC-32C of bytes 0-19     20  n  payload: buspb.Fact
//
// "durable" is how many bytes of the file were synced before the record was
// written, as in the ledger.
//
// A file is named by the number of its first fact; one that replaces a file
// which could not be synced has ".1", ".2" ... behind it. A fact may stand in
// two files, with the same number and the same content.
const (
	outboxDir     = "outbox"
	outboxMagic   = "RPOUTBOX"
	outboxVersion = 1
	outboxHeader  = 24
	factHead      = 20
	markFact      = "RPOf"
	maxFact       = maxFrame - 4096 // its entry must fit a frame as well
)

func appendOutboxHeader(dst []byte, first uint64) []byte {
	start := len(dst)
	dst = append(dst, outboxMagic...)
	dst = binary.LittleEndian.AppendUint32(dst, outboxVersion)
	dst = binary.LittleEndian.AppendUint64(dst, first)
	return binary.LittleEndian.AppendUint32(dst, crc32.Checksum(dst[start:], castagnoli))
}

func parseOutboxHeader(b []byte) (first uint64, err error) {
	if len(b) < outboxHeader || string(b[:len(outboxMagic)]) != outboxMagic ||
		crc32.Checksum(b[:20], castagnoli) != binary.LittleEndian.Uint32(b[20:]) {
		return 0, errTorn
	}
	if v := binary.LittleEndian.Uint32(b[8:]); v != outboxVersion {
		return 0, fmt.Errorf("outbox file version %d: %w", v, ErrVersion)
	}
	return binary.LittleEndian.Uint64(b[12:]), nil
}

func appendFact(dst []byte, durable int64, payload []byte) []byte {
	start := len(dst)
	dst = append(dst, markFact...)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(payload)))
	dst = binary.LittleEndian.AppendUint64(dst, uint64(durable))
	check := crc32.Update(crc32.Checksum(dst[start:], castagnoli), castagnoli, payload)
	dst = binary.LittleEndian.AppendUint32(dst, check)
	return append(dst, payload...)
}

// parseFact reads the fact that b begins with and the bytes it takes; errTorn
// if there is none.
func parseFact(b []byte) (*buspb.Fact, int, error) {
	payload, err := factPayload(b)
	if err != nil {
		return nil, 0, err
	}
	fact := new(buspb.Fact)
	if err := proto.Unmarshal(payload, fact); err != nil || fact.Seq == 0 || fact.Mutation == nil {
		return nil, 0, errTorn
	}
	return fact, factHead + len(payload), nil
}

// passFact returns the bytes that the fact takes which b begins with, if its number is
// below next; 0 if that is not so, or not to be seen without parsing it.
func passFact(b []byte, next uint64) int {
	payload, err := factPayload(b)
	if err != nil {
		return 0
	}
	field, kind, n := protowire.ConsumeTag(payload)
	if field != factSeqField || kind != protowire.VarintType {
		return 0
	}
	if seq, m := protowire.ConsumeVarint(payload[n:]); m < 0 || seq == 0 || seq >= next {
		return 0
	}
	return factHead + len(payload)
}

// factSeqField is the number of Fact.seq, which is written first.
const factSeqField = 1

// factPayload returns the payload of the record that b begins with; errTorn if there
// is none.
func factPayload(b []byte) ([]byte, error) {
	if len(b) < factHead || string(b[:markBytes]) != markFact {
		return nil, errTorn
	}
	n := int64(binary.LittleEndian.Uint32(b[4:]))
	if n > maxFact || n > int64(len(b)-factHead) {
		return nil, errTorn
	}
	size := factHead + int(n)
	if crc32.Update(crc32.Checksum(b[:16], castagnoli), castagnoli, b[factHead:size]) != binary.LittleEndian.Uint32(b[16:]) {
		return nil, errTorn
	}
	return b[factHead:size], nil
}

// scanOutbox visits the facts of an outbox file's valid prefix and returns its
// length. errTorn: the header itself is not complete. ErrDamaged: later records
// prove that more had been durable.
func scanOutbox(data []byte, fn func(*buspb.Fact) error) (int64, error) {
	next, err := parseOutboxHeader(data)
	if err != nil {
		return 0, err
	}
	at := outboxHeader
	for at < len(data) {
		fact, size, err := parseFact(data[at:])
		if err != nil || fact.Seq != next {
			break
		}
		if err := fn(fact); err != nil {
			return int64(at), err
		}
		at += size
		next++
	}
	return int64(at), checkFactTail(data[at:], int64(at))
}

// checkFactTail looks in what follows a valid prefix of the given length for
// records which say that more than the prefix had been synced.
func checkFactTail(rest []byte, length int64) error {
	for at := length; ; {
		i := bytes.Index(rest, []byte(markFact))
		if i < 0 {
			return nil
		}
		rest, at = rest[i:], at+int64(i)
		if _, _, err := parseFact(rest); err == nil {
			durable := int64(binary.LittleEndian.Uint64(rest[8:]))
			if durable > length && durable <= at { // none can speak of bytes behind its own
				return fmt.Errorf("bytes from %d on were durable up to %d: %w", length, durable, ErrDamaged)
			}
		}
		rest, at = rest[1:], at+1
	}
}

// outboxFile names one file of an outbox.
type outboxFile struct {
	first uint64
	part  uint64 // 0: none
}

func (f outboxFile) path(incarnation string) string {
	name := number(f.first)
	if f.part > 0 {
		name += "." + strconv.FormatUint(f.part, 10)
	}
	return path.Join(outboxDir, incarnation, name)
}

func parseOutboxFile(name string) (f outboxFile, ok bool) {
	first, part, split := strings.Cut(name, ".")
	if f.first, ok = parseNumber(first); !ok {
		return f, false
	}
	if split {
		var err error
		f.part, err = strconv.ParseUint(part, 10, 32)
		ok = err == nil && f.part > 0
	}
	return f, ok
}

func (f outboxFile) compare(other outboxFile) int {
	if f.first != other.first {
		if f.first < other.first {
			return -1
		}
		return 1
	}
	return int(int64(f.part) - int64(other.part))
}

// listOutbox lists the files of one outbox in their order.
func listOutbox(ctx context.Context, s *filestore.Store, incarnation string) ([]outboxFile, error) {
	names, err := s.ReadDir(ctx, path.Join(outboxDir, incarnation))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list outbox of %s: %w", incarnation, err)
	}
	var files []outboxFile
	for _, name := range names {
		if f, ok := parseOutboxFile(name); ok {
			files = append(files, f)
		}
	}
	slices.SortFunc(files, outboxFile.compare)
	return files, nil
}

// listOutboxes lists the incarnations that have an outbox.
func listOutboxes(ctx context.Context, s *filestore.Store) ([]string, error) {
	names, err := s.ReadDir(ctx, outboxDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("list outboxes: %w", err)
	}
	return slices.DeleteFunc(names, func(name string) bool { return !isIncarnation(name) }), nil
}

// cursor reads the facts of one outbox in order, each once, as they come.
type cursor struct {
	store *filestore.Store
	name  string // incarnation
	next  uint64 // number of the fact wanted
	file  outboxFile
	at    int64 // where to go on in file; 0: no file chosen yet
	large bool  // the record at this place is larger than usual
	first int64 // where in file the first fact lies that was read last
}

// How much of a file is read at once: mostly a little, as facts are small and their
// readers many; else what may be sent at once and the record that goes beyond it.
const (
	cursorBytes = 256 << 10
	largeBytes  = sendBytes + maxFrame
)

// read returns the next facts, none when there are none yet. ErrGap means that
// facts are missing before those found.
func (c *cursor) read(ctx context.Context) ([]*buspb.Fact, error) {
	for {
		if c.at == 0 {
			found, err := c.choose(ctx)
			if err != nil || !found {
				return nil, err
			}
		}
		facts, err := c.rest(ctx)
		if errors.Is(err, fs.ErrNotExist) {
			c.at = 0 // removed: two snapshots have all of it
			return nil, nil
		}
		if err != nil || len(facts) > 0 {
			return facts, err
		}
		if on, err := c.moveOn(ctx); err != nil || !on {
			return nil, err
		}
	}
}

// choose finds the first file that can hold the next fact.
func (c *cursor) choose(ctx context.Context) (bool, error) {
	files, err := listOutbox(ctx, c.store, c.name)
	if err != nil || len(files) == 0 {
		return false, err
	}
	best := -1
	for i, f := range files {
		if f.first <= c.next && (best < 0 || f.first > files[best].first) {
			best = i
		}
	}
	if best < 0 {
		return false, fmt.Errorf("outbox of %s begins at %d, wanted %d: %w", c.name, files[0].first, c.next, ErrGap)
	}
	c.file, c.at = files[best], outboxHeader
	return true, nil
}

// rest reads on until it finds facts that are wanted, or the end of the file.
func (c *cursor) rest(ctx context.Context) ([]*buspb.Fact, error) {
	for {
		begin := c.at
		if facts, err := c.more(ctx); err != nil || len(facts) > 0 || c.at == begin {
			return facts, err
		}
	}
}

// more reads a piece of what the file has beyond the place reached.
func (c *cursor) more(ctx context.Context) ([]*buspb.Fact, error) {
	data, err := c.tail(ctx)
	if err != nil {
		return nil, fmt.Errorf("read outbox of %s: %w", c.name, err)
	}
	var facts []*buspb.Fact
	begin := c.at
	for taken := 0; len(data) > 0 && taken < sendBytes; {
		if size := passFact(data, c.next); size > 0 {
			c.at += int64(size)
			data = data[size:]
			continue
		}
		fact, size, err := parseFact(data)
		if err != nil || fact.Seq > c.next {
			break
		}
		if fact.Seq == c.next {
			if len(facts) == 0 {
				c.first = c.at
			}
			taken += size
			facts = append(facts, fact)
			c.next++
		}
		c.at += int64(size)
		data = data[size:]
	}
	if c.at == begin && len(data) >= cursorBytes-outboxHeader && !c.large {
		c.large = true
		return c.more(ctx)
	}
	c.large = false
	if c.at == begin && len(data) > 0 {
		if err := checkFactTail(data, c.at); err != nil {
			return nil, fmt.Errorf("read outbox of %s, fact %d: %w", c.name, c.next, err)
		}
	}
	return facts, nil
}

// tail reads a piece of the file from the place reached, after its header.
func (c *cursor) tail(ctx context.Context) ([]byte, error) {
	file, err := c.store.OpenFile(ctx, c.file.path(c.name))
	if err != nil {
		return nil, err
	}
	defer discard(ctx, file)
	info, err := file.Stat(ctx)
	if err != nil || info.Size() <= c.at {
		return nil, err
	}
	from := c.at
	if from == outboxHeader {
		from = 0
	}
	size := int64(cursorBytes)
	if c.large {
		size = largeBytes
	}
	data := make([]byte, min(info.Size()-from, size))
	n, err := (&handleReader{ctx: ctx, file: file, offset: from}).readFull(data)
	if err != nil || from != 0 {
		return data[:n], err
	}
	// A header that does not hold is no reason to leave facts behind: each has its
	// number and checksum. In a file just begun there are none yet.
	if _, err := parseOutboxHeader(data[:n]); err != nil && !errors.Is(err, errTorn) {
		return nil, err
	}
	return data[min(outboxHeader, n):n], nil
}

// moveOn goes to the next file. A later file means that this one is finished:
// what it still got before that is read first.
func (c *cursor) moveOn(ctx context.Context) (bool, error) {
	files, err := listOutbox(ctx, c.store, c.name)
	if err != nil {
		return false, err
	}
	at, _ := slices.BinarySearchFunc(files, c.file, outboxFile.compare)
	for at < len(files) && files[at].compare(c.file) <= 0 {
		at++
	}
	if at == len(files) {
		return false, nil
	}
	before := c.next
	if facts, err := c.rest(ctx); err != nil || len(facts) > 0 {
		c.next = before // let the caller's next read return them
		c.at = 0
		return err == nil, err
	}
	if files[at].first > c.next {
		return false, fmt.Errorf("outbox of %s goes on at %d, wanted %d: %w", c.name, files[at].first, c.next, ErrGap)
	}
	c.file, c.at = files[at], outboxHeader
	return true, nil
}
