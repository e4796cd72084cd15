package clients

import (
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"math/big"
	"slices"

	"raptorpack/ids"
)

// blockSize is how many clients lie together. A block is copied whole when one
// of its cells changes for the first time after a View: 4 KiB, half a microsecond.
const blockSize = 64

// table is one org's clients, by id and by ordinal. Ordinals are dense and never
// reused: a deleted client leaves an empty cell. Room.mu guards it.
type table struct {
	org    ids.Org
	byID   map[number]uint32
	blocks []block
	n      uint32 // the next ordinal
	view   uint32 // number of the newest view

	index   *index   // nil: none yet
	covered uint32   // ordinals below it are in the index, or in what is being merged
	changed *pending // since the merge before
	merging *pending // taken over by the merge under way; nil: none
	merges  uint32   // begun
}

// block has the clients of blockSize ordinals. Births and keys are written once,
// before anybody may look at them. Cells belong also to the views that are older
// than since: they change only in blocks that no view has.
type block struct {
	born  *births
	keys  *[blockSize]modulus
	cells *[blockSize]cell
	since uint32
}

type births [blockSize]birth

func newTable(org ids.Org) *table {
	return &table{org: org, byID: map[number]uint32{}, changed: newPending()}
}

// find returns the ordinal of a client.
func (t *table) find(id string) (uint32, bool) {
	n, ok := numberOf(id)
	if !ok {
		return 0, false
	}
	ordinal, ok := t.byID[n]
	return ordinal, ok
}

func (t *table) cell(ordinal uint32) *cell {
	return &t.blocks[ordinal/blockSize].cells[ordinal%blockSize]
}

func (t *table) birth(ordinal uint32) birth {
	return t.blocks[ordinal/blockSize].born[ordinal%blockSize]
}

// edit returns the cell of an ordinal to be changed.
func (t *table) edit(ordinal uint32) *cell {
	b := &t.blocks[ordinal/blockSize]
	if b.since != t.view {
		cells := *b.cells
		b.cells, b.since = &cells, t.view
	}
	c := &b.cells[ordinal%blockSize]
	if ordinal < t.covered {
		t.changed.add(ordinal, c.labels)
	}
	return c
}

// nobodies is the block of ordinals that all were deleted before a restore.
var nobodies = block{born: new(births), keys: new([blockSize]modulus), cells: new([blockSize]cell)}

// grow makes the ordinals below n known, as those of nobody.
func (t *table) grow(n uint32) {
	for int(n) > len(t.blocks)*blockSize {
		t.blocks = append(t.blocks, nobodies)
	}
	t.n = n
}

// add takes a new client with the next ordinal.
func (t *table) add(b birth, key []byte, c cell) uint32 {
	ordinal := t.n
	t.grow(ordinal + 1)
	t.put(ordinal, b, key, c)
	t.byID[b.id] = ordinal
	return ordinal
}

// put fills the place of an ordinal that nobody had.
func (t *table) put(ordinal uint32, born birth, key []byte, c cell) {
	b, i := &t.blocks[ordinal/blockSize], ordinal%blockSize
	if b.born == nobodies.born {
		*b = block{new(births), new([blockSize]modulus), new([blockSize]cell), t.view}
	}
	b.born[i], b.cells[i] = born, c
	copy(b.keys[i][:], key)
}

// modulus is that of an RSA key with 2048 bits, as all agents make them.
type modulus [256]byte

// In DER, such a key with the usual exponent is this, the modulus, and that.
var (
	keyHead = []byte{0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00}
	keyTail = []byte{0x02, 0x03, 0x01, 0x00, 0x01}
)

const usualExponent = 65537

// splitKey returns the modulus that a key of the usual kind has, else the key
// itself, to be kept among the facts. One of both is not nil.
func splitKey(der []byte) (modulus, odd []byte) {
	rest, head := bytes.CutPrefix(der, keyHead)
	rest, tail := bytes.CutSuffix(rest, keyTail)
	if !head || !tail || len(rest) != 256 || rest[0] < 0x80 {
		return nil, append([]byte{}, der...)
	}
	return rest, nil
}

// appendKey appends a client's key as DER.
func appendKey(out []byte, c *cell, m *modulus) []byte {
	if c.text[0]&hasKey != 0 {
		return append(out, unpack(c.text).key...)
	}
	return slices.Concat(out, keyHead, m[:], keyTail)
}

// publicKey reads a client's key.
func publicKey(c *cell, m *modulus) (*rsa.PublicKey, error) {
	if c.text[0]&hasKey == 0 {
		return &rsa.PublicKey{N: new(big.Int).SetBytes(m[:]), E: usualExponent}, nil
	}
	key, err := x509.ParsePKCS1PublicKey(unpack(c.text).key)
	if err != nil {
		return nil, fmt.Errorf("read public key: %w", err)
	}
	return key, nil
}

// pending are the clients that changed since something.
type pending struct {
	list   []uint32          // ordinals, each once
	labels map[uint32]string // packed, that the index has of them
}

func newPending() *pending { return &pending{labels: map[uint32]string{}} }

// add notes a client that is about to change.
func (p *pending) add(ordinal uint32, labels string) {
	if _, known := p.labels[ordinal]; !known {
		p.labels[ordinal] = labels
		p.list = append(p.list, ordinal)
	}
}

// indexed notes what the index is to have, if the client changed already again.
func (p *pending) indexed(ordinal uint32, labels string) {
	if _, known := p.labels[ordinal]; known {
		p.labels[ordinal] = labels
	}
}

// giveBack takes over what a merge that was given up had.
func (p *pending) giveBack(other *pending) {
	for _, ordinal := range other.list {
		p.add(ordinal, "")
		p.labels[ordinal] = other.labels[ordinal]
	}
}
