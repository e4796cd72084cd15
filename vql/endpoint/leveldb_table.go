package endpoint

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"

	"github.com/klauspost/compress/snappy"
	"github.com/klauspost/compress/zstd"
)

const (
	levelTableMagic = 0xdb4775248b80fb57
	levelFooter     = 48
	// maxLevelBlock bounds a block, packed or not, in bytes. Blocks have about
	// 4 KiB, and one key more.
	maxLevelBlock = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// levelChecksum is a checksum as LevelDB stores it.
func levelChecksum(data []byte) uint32 {
	sum := crc32.Checksum(data, castagnoli)
	return (sum>>15 | sum<<17) + 0xa282ead8
}

// levelTable reads a table block by block. Its file is opened for each, so that a
// database of thousands of tables needs no more descriptors than one.
type levelTable struct {
	db    *levelDB
	name  string
	size  int64
	index *levelBlock
	block *levelBlock // nil before the first and between two
}

func openTable(ctx context.Context, db *levelDB, name string) (*levelTable, error) {
	info, err := db.accessor.Lstat(ctx, db.scope, db.folder.Append(name))
	if err != nil {
		return nil, err
	}
	t := &levelTable{db: db, name: name, size: info.Size()}
	var footer [levelFooter]byte
	if t.size < levelFooter {
		return nil, fmt.Errorf("%w: a table of %d bytes", errLevelDamage, t.size)
	}
	if err := db.readAt(ctx, name, footer[:], t.size-levelFooter); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint64(footer[levelFooter-8:]) != levelTableMagic {
		return nil, fmt.Errorf("%w: not a table", errLevelDamage)
	}
	c := &levelCursor{data: footer[:]}
	c.number() // the index of meta blocks
	c.number()
	t.index, err = t.read(ctx, c)
	return t, err
}

// read reads the block that a handle names.
func (t *levelTable) read(ctx context.Context, handle *levelCursor) (*levelBlock, error) {
	at, size := handle.number(), handle.number()
	if handle.bad || size > maxLevelBlock || at > uint64(t.size) || size+5 > uint64(t.size)-at {
		return nil, fmt.Errorf("%w: a block of %d bytes at %d", errLevelDamage, size, at)
	}
	data := make([]byte, size+5) // with its type and checksum
	if err := t.db.readAt(ctx, t.name, data, int64(at)); err != nil {
		return nil, err
	}
	if binary.LittleEndian.Uint32(data[size+1:]) != levelChecksum(data[:size+1]) {
		return nil, fmt.Errorf("%w: the checksum of the block at %d is wrong", errLevelDamage, at)
	}
	plain, err := expandBlock(data[size], data[:size])
	if err != nil {
		return nil, fmt.Errorf("block at %d: %w", at, err)
	}
	return newLevelBlock(plain)
}

func expandBlock(kind byte, data []byte) ([]byte, error) {
	switch kind {
	case 0:
		return data, nil
	case 1:
		if n, err := snappy.DecodedLen(data); err != nil || n > maxLevelBlock {
			return nil, fmt.Errorf("%w: it unpacks to %d bytes", errLevelDamage, n)
		}
		return snappy.Decode(nil, data)
	case 2:
		z, err := zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxLevelBlock))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		return z.DecodeAll(data, nil)
	}
	return nil, fmt.Errorf("%w: unknown compression %d", errLevelDamage, kind)
}

// next implements levelSource. A damaged block is a log line, and passed over.
func (t *levelTable) next(ctx context.Context) (*levelEntry, error) {
	for {
		if t.block == nil {
			handle, err := t.index.next()
			if err != nil {
				t.db.trouble(t.name, err)
			}
			if handle == nil {
				return nil, nil
			}
			if t.block, err = t.read(ctx, &levelCursor{data: handle.value}); err != nil {
				if ctx.Err() != nil {
					return nil, ctx.Err()
				}
				t.db.trouble(t.name, err)
				continue
			}
		}
		e, err := t.block.next()
		if err == nil && e != nil {
			err = e.splitKey()
		}
		if err != nil {
			t.db.trouble(t.name, err)
			e = nil
		}
		if e != nil {
			return e, nil
		}
		t.block = nil
	}
}

// splitKey takes sequence and type off a key as tables have it.
func (e *levelEntry) splitKey() error {
	n := len(e.key) - 8
	if n < 0 {
		return fmt.Errorf("%w: a key of %d bytes", errLevelDamage, len(e.key))
	}
	tag := binary.LittleEndian.Uint64(e.key[n:])
	e.key, e.seq, e.deleted = e.key[:n:n], tag>>8, tag&0xff == 0
	return nil
}

// levelBlock reads the entries of a block.
type levelBlock struct {
	data levelCursor
	key  []byte // of the entry before
}

func newLevelBlock(data []byte) (*levelBlock, error) {
	if len(data) < 4 {
		return nil, fmt.Errorf("%w: a block of %d bytes", errLevelDamage, len(data))
	}
	restarts := uint64(binary.LittleEndian.Uint32(data[len(data)-4:]))
	if restarts > uint64(len(data)-4)/4 {
		return nil, fmt.Errorf("%w: a block has %d restarts", errLevelDamage, restarts)
	}
	return &levelBlock{data: levelCursor{data: data[:len(data)-4-4*int(restarts)]}}, nil
}

// next returns nil at the end.
func (b *levelBlock) next() (*levelEntry, error) {
	if len(b.data.data) == 0 {
		return nil, nil
	}
	shared, own, size := b.data.number(), b.data.number(), b.data.number()
	added := b.data.bytes(own)
	value := b.data.bytes(size)
	if b.data.bad || shared > uint64(len(b.key)) {
		b.data.data = nil
		return nil, fmt.Errorf("%w: an entry of a block", errLevelDamage)
	}
	key := make([]byte, 0, int(shared)+len(added)) // the one before is in use
	key = append(append(key, b.key[:shared]...), added...)
	b.key = key
	return &levelEntry{key: key, value: value}, nil
}
