package endpoint

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const levelLogBlock = 32 << 10

var errLevelDamage = errors.New("damaged")

// eachLogRecord hands on the records of a log or manifest. It stops at the first
// that is damaged; zeros at the end are room that was made beforehand.
func eachLogRecord(data []byte, each func([]byte) error) error {
	const full, first, middle, last = 1, 2, 3, 4
	var whole []byte
	for at := 0; at+7 <= len(data); {
		if left := levelLogBlock - at%levelLogBlock; left < 7 {
			at += left
			continue
		}
		kind, size := data[at+6], int(binary.LittleEndian.Uint16(data[at+4:]))
		if kind == 0 && size == 0 {
			return nil
		}
		end := at + 7 + size
		if end > len(data) || 7+size > levelLogBlock-at%levelLogBlock {
			return fmt.Errorf("%w at %d: the record is not whole", errLevelDamage, at)
		}
		if binary.LittleEndian.Uint32(data[at:]) != levelChecksum(data[at+6:end]) {
			return fmt.Errorf("%w at %d: the checksum is wrong", errLevelDamage, at)
		}
		part := data[at+7 : end]
		at = end
		switch kind {
		case full:
			whole = part
		case first:
			whole = append([]byte(nil), part...)
			continue
		case middle, last:
			whole = append(whole, part...)
			if kind == middle {
				continue
			}
		default:
			return fmt.Errorf("%w at %d: unknown record %d", errLevelDamage, at, kind)
		}
		if err := each(whole); err != nil {
			return err
		}
		whole = nil
	}
	return nil
}

// levelCursor reads varints and strings; past the end it gives nothing and sets bad.
type levelCursor struct {
	data []byte
	bad  bool
}

func (c *levelCursor) number() uint64 {
	v, n := binary.Uvarint(c.data)
	if n <= 0 {
		c.bad, c.data = true, nil
		return 0
	}
	c.data = c.data[n:]
	return v
}

func (c *levelCursor) bytes(n uint64) []byte {
	if n > uint64(len(c.data)) {
		c.bad, c.data = true, nil
		return nil
	}
	out := c.data[:n]
	c.data = c.data[n:]
	return out
}

// parseLevelLog reads the batches of a log. With an error it gives those before.
func parseLevelLog(data []byte) (out []*levelEntry, err error) {
	err = eachLogRecord(data, func(batch []byte) error {
		if len(batch) < 12 {
			return fmt.Errorf("%w: a batch of %d bytes", errLevelDamage, len(batch))
		}
		seq := binary.LittleEndian.Uint64(batch)
		c := &levelCursor{data: batch[12:]}
		for ; len(c.data) > 0; seq++ {
			e := &levelEntry{seq: seq, deleted: c.bytes(1)[0] == 0}
			e.key = c.bytes(c.number())
			if !e.deleted {
				e.value = c.bytes(c.number())
			}
			if c.bad {
				return fmt.Errorf("%w: a batch ends too soon", errLevelDamage)
			}
			out = append(out, e)
		}
		return nil
	})
	return out, err
}

// levelVersion is what the manifest says.
type levelVersion struct {
	comparator    string
	log, previous uint64
	tables        map[uint64]bool
}

// version reads the manifest that CURRENT names.
func (db *levelDB) version(ctx context.Context) (*levelVersion, error) {
	current, err := db.read(ctx, "CURRENT", 1<<10)
	if err != nil {
		return nil, err
	}
	name := strings.TrimSpace(string(current))
	if !strings.HasPrefix(name, "MANIFEST-") || strings.ContainsAny(name, `/\`) {
		return nil, fmt.Errorf("%w: CURRENT names no manifest", errLevelDamage)
	}
	data, err := db.read(ctx, name, maxLevelFile)
	if err != nil {
		return nil, err
	}
	v := &levelVersion{tables: map[uint64]bool{}}
	return v, eachLogRecord(data, v.edit)
}

// edit applies a record of the manifest.
func (v *levelVersion) edit(record []byte) error {
	c := &levelCursor{data: record}
	for len(c.data) > 0 {
		switch tag := c.number(); tag {
		case 1:
			v.comparator = string(c.bytes(c.number()))
		case 2:
			v.log = c.number()
		case 3, 4: // the next file's number, the last sequence
			c.number()
		case 5: // where compaction goes on
			c.number()
			c.bytes(c.number())
		case 6:
			c.number() // level
			delete(v.tables, c.number())
		case 7:
			c.number() // level
			v.tables[c.number()] = true
			c.number() // its size
			c.bytes(c.number())
			c.bytes(c.number())
		case 9:
			v.previous = c.number()
		default:
			return fmt.Errorf("%w: unknown tag %d in the manifest", errLevelDamage, tag)
		}
		if c.bad {
			return fmt.Errorf("%w: the manifest ends too soon", errLevelDamage)
		}
	}
	return nil
}
