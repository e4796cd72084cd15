package config

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// A repacked program is the program as it was, then a client file, then a zip of
// further files (perhaps none), then a tail of fixed size:
//
//	16 bytes  "raptorpack tail\n"
//	8 bytes   length of the client file, big endian
//	8 bytes   length of the zip
//	32 bytes  SHA-256 of the client file, the zip and the 32 bytes before
//
// It stands behind the program, so that any build can be repacked, again and again,
// and readers of zips find the zip in the whole file.
const (
	tailMagic = "raptorpack tail\n"
	tailSize  = 64

	maxEmbedded = 1 << 20 // bytes of a client file
)

// ErrEmbedded means that what is packed into a program cannot be used: it was cut off
// or changed, or it is no client file. Trying again does not help.
var ErrEmbedded = errors.New("packed configuration is unusable")

// Embedded is what is packed into a program.
type Embedded struct {
	Config []byte // the client file
	Base   int64  // bytes of the program itself
	Zip    int64  // bytes of the zip
}

// ReadEmbedded finds what is packed into a program; nil: nothing is.
func ReadEmbedded(program io.ReaderAt, size int64) (*Embedded, error) {
	if size < tailSize {
		return nil, nil //nolint:nilnil // as documented
	}
	tail := make([]byte, tailSize)
	if _, err := program.ReadAt(tail, size-tailSize); err != nil {
		return nil, fmt.Errorf("read tail of program: %w", err)
	}
	if string(tail[:len(tailMagic)]) != tailMagic {
		return nil, nil //nolint:nilnil // as documented
	}
	text, zip := binary.BigEndian.Uint64(tail[16:]), binary.BigEndian.Uint64(tail[24:])
	room := uint64(size - tailSize)
	if text > maxEmbedded || text > room || zip > room-text {
		return nil, fmt.Errorf("lengths %d and %d of %d: %w", text, zip, size, ErrEmbedded)
	}
	e := &Embedded{Config: make([]byte, text), Base: int64(room - text - zip), Zip: int64(zip)}
	sum := sha256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(program, e.Base, int64(text+zip))); err != nil {
		return nil, fmt.Errorf("read packed configuration: %w", err)
	}
	sum.Write(tail[:32])
	if !bytes.Equal(sum.Sum(nil), tail[32:]) {
		return nil, fmt.Errorf("SHA-256 differs: %w", ErrEmbedded)
	}
	if _, err := program.ReadAt(e.Config, e.Base); err != nil && text > 0 {
		return nil, fmt.Errorf("read packed configuration: %w", err)
	}
	return e, nil
}

// LoadEmbedded is Load for what is packed into this program; nil: nothing is.
func LoadEmbedded(o Options) (*Loaded, error) {
	name, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	file, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("open this program: %w", err)
	}
	defer file.Close() // only read
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	e, err := ReadEmbedded(file, info.Size())
	if err != nil || e == nil {
		return nil, err
	}
	return Parse(name, e.Config, o)
}
