package endpoint

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"
)

// The format is described by systemd, "Journal File Format", and by its
// journal-def.h.
const (
	journalMagic      = "LPKSHHRH"
	journalMinHeader  = 208
	journalObjectHead = 16
	journalEntryHead  = 64

	objectData  = 1
	objectEntry = 3

	journalCompact = 1 << 4 // incompatible flag: offsets have 4 bytes
	journalKnown   = 1<<5 - 1

	compressedXZ   = 1
	compressedLZ4  = 2
	compressedZSTD = 4
)

const (
	// maxJournalItems bounds the fields of an entry; systemd takes 1024.
	maxJournalItems = 4096
	// maxJournalField bounds a field, in bytes: core dumps are cut there.
	maxJournalField = 8 << 20
	// maxJournalEntry bounds an entry's fields together, in bytes.
	maxJournalEntry = 32 << 20
)

var (
	errNotJournal    = errors.New("not a journal file")
	errJournalDamage = errors.New("damaged")
)

// journal reads the entries of a journal file in the order they were written. Not
// safe for concurrent use.
type journal struct {
	pages   *pagedReader
	fields  map[int64]string // small ones by place: most stand in many entries
	room    int              // for further fields, in bytes
	compact bool
	id      [16]byte // of the file

	at      int64  // the next object
	entries uint64 // that were passed
}

// journalEntry is one entry.
type journalEntry struct {
	seq      uint64
	time     time.Time
	fields   []string // NAME=value
	troubles []error  // of fields that are missing or cut
}

// journalHead is what changes in a header while entries are written.
type journalHead struct {
	size    int64 // of the header
	end     int64 // of the arena
	tail    int64 // the last object
	entries uint64
}

// openJournal reads a journal's header.
func openJournal(r io.ReaderAt) (*journal, error) {
	j := &journal{pages: newPagedReader(r)}
	j.forget()
	head, err := j.head()
	if err != nil {
		return nil, err
	}
	raw := make([]byte, 40)
	if err := j.pages.read(raw, 0); err != nil {
		return nil, errNotJournal
	}
	flags := binary.LittleEndian.Uint32(raw[12:])
	if flags&^uint32(journalKnown) != 0 {
		return nil, fmt.Errorf("journals with flags %#x are not supported", flags)
	}
	j.compact = flags&journalCompact != 0
	copy(j.id[:], raw[24:])
	j.at = head.size
	return j, nil
}

// forget drops what was read before, because the file may have grown since.
func (j *journal) forget() {
	j.pages.forget()
	j.fields, j.room = map[int64]string{}, 4<<20
}

func (j *journal) head() (journalHead, error) {
	raw := make([]byte, journalMinHeader)
	if err := j.pages.read(raw, 0); err != nil || string(raw[:8]) != journalMagic {
		return journalHead{}, errNotJournal
	}
	le := binary.LittleEndian
	h := journalHead{
		size: int64(le.Uint64(raw[88:])), tail: int64(le.Uint64(raw[136:])), entries: le.Uint64(raw[152:]),
	}
	arena := int64(le.Uint64(raw[96:]))
	if h.size < journalMinHeader || h.size > 1<<20 || arena < 0 || h.tail < 0 {
		return journalHead{}, errNotJournal
	}
	if h.end = h.size + arena; h.end < arena {
		return journalHead{}, errNotJournal
	}
	return h, nil
}

// next returns the next entry that is written completely, or nil at the end. An
// error that wraps errJournalDamage ends the file. Charge is called every so often.
func (j *journal) next(ctx context.Context, charge func(context.Context) error, head journalHead, wanted func(*journalEntry) bool) (*journalEntry, error) {
	// The tail object's header is written before its content, the count of entries
	// after it.
	for n := 1; j.entries < head.entries && j.at <= head.tail && j.at < head.end; n++ {
		if n%1000 == 0 {
			if err := charge(ctx); err != nil {
				return nil, emitError{err}
			}
		}
		at := j.at
		kind, size, err := j.object(at, head.end)
		if err != nil {
			return nil, err
		}
		j.at += (size + 7) &^ 7
		if kind != objectEntry {
			continue
		}
		j.entries++
		e, err := j.entryHead(at, size)
		if err != nil {
			return nil, err
		}
		if wanted(e) {
			return e, j.readFields(e, at, size, head.end)
		}
	}
	return nil, nil
}

// object reads an object's type and length.
func (j *journal) object(at, end int64) (kind byte, size int64, err error) {
	var raw [journalObjectHead]byte
	if err := j.pages.read(raw[:], at); err != nil {
		return 0, 0, fmt.Errorf("%w: object at %d: %w", errJournalDamage, at, err)
	}
	size = int64(binary.LittleEndian.Uint64(raw[8:]))
	if size < journalObjectHead || size > end-at {
		return 0, 0, fmt.Errorf("%w: object at %d has %d bytes", errJournalDamage, at, size)
	}
	return raw[0], size, nil
}

func (j *journal) entryHead(at, size int64) (*journalEntry, error) {
	var raw [journalEntryHead]byte
	if size < journalEntryHead {
		return nil, fmt.Errorf("%w: entry at %d has %d bytes", errJournalDamage, at, size)
	}
	if err := j.pages.read(raw[:], at); err != nil {
		return nil, fmt.Errorf("%w: entry at %d: %w", errJournalDamage, at, err)
	}
	le := binary.LittleEndian
	return &journalEntry{seq: le.Uint64(raw[16:]), time: time.UnixMicro(int64(le.Uint64(raw[24:]))).UTC()}, nil
}

// readFields reads what an entry's items refer to.
func (j *journal) readFields(e *journalEntry, at, size, end int64) error {
	width := int64(16)
	if j.compact {
		width = 4
	}
	count := (size - journalEntryHead) / width
	if count > maxJournalItems {
		e.troubles = append(e.troubles, fmt.Errorf("%d of %d fields are left out", count-maxJournalItems, count))
		count = maxJournalItems
	}
	items := make([]byte, count*width)
	if err := j.pages.read(items, at+journalEntryHead); err != nil {
		return fmt.Errorf("%w: entry at %d: %w", errJournalDamage, at, err)
	}
	room := maxJournalEntry
	for ; len(items) > 0; items = items[width:] {
		var place int64
		if j.compact {
			place = int64(binary.LittleEndian.Uint32(items))
		} else {
			place = int64(binary.LittleEndian.Uint64(items))
		}
		if room <= 0 {
			e.troubles = append(e.troubles, fmt.Errorf("%d fields are left out: the entry is too large", len(items)/int(width)))
			break
		}
		field, cost, err := j.field(place, end, min(room, maxJournalField))
		room -= cost
		if err != nil {
			e.troubles = append(e.troubles, err)
		}
		if field != "" {
			e.fields = append(e.fields, field)
		}
	}
	return nil
}

// field reads a data object. With an error it may be cut, or empty. cost is how
// much was read and made.
func (j *journal) field(at, end int64, limit int) (text string, cost int, err error) {
	if text, ok := j.fields[at]; ok && len(text) <= limit {
		return text, len(text) + 1, nil
	}
	head := int64(64)
	if j.compact {
		head = 72
	}
	if at <= 0 || at >= end {
		return "", 1, fmt.Errorf("%w: a field at %d", errJournalDamage, at)
	}
	kind, size, err := j.object(at, end)
	if err != nil {
		return "", 1, err
	}
	if kind != objectData || size < head {
		return "", 1, fmt.Errorf("%w: no field at %d", errJournalDamage, at)
	}
	if size-head > maxJournalEntry {
		return "", 1, fmt.Errorf("a field at %d has %d bytes", at, size-head)
	}
	var flags [2]byte
	payload := make([]byte, size-head)
	if err := errors.Join(j.pages.read(flags[:], at), j.pages.read(payload, at+head)); err != nil {
		return "", len(payload) + 1, fmt.Errorf("%w: a field at %d: %w", errJournalDamage, at, err)
	}
	plain, err := expandField(flags[1], payload, limit)
	cost = len(payload) + len(plain) + 1
	if err != nil {
		name, _, _ := bytes.Cut(plain[:min(len(plain), 64)], []byte("="))
		return string(plain), cost, fmt.Errorf("field %q at %d: %w", name, at, err)
	}
	if len(plain) <= 1024 && j.room > 0 {
		j.room -= len(plain) + 64
		j.fields[at] = string(plain)
	}
	return string(plain), cost, nil
}
