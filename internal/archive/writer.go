package archive

import (
	"archive/zip"
	"compress/flate"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Sum is what was written of a member.
type Sum struct {
	Size   int64
	SHA256 string // of the plain bytes, lower-case hex
}

// Writer writes the members of one zip, one after the other. Not safe for concurrent
// use.
type Writer struct{ zip *zip.Writer }

// NewWriter begins a zip. Members are deflated at the fastest.
func NewWriter(w io.Writer) *Writer {
	z := &Writer{zip.NewWriter(w)}
	z.Level(flate.BestSpeed)
	return z
}

// Level makes members that follow be deflated as hard as 1 (the fastest) to 9.
func (w *Writer) Level(level int) {
	w.zip.RegisterCompressor(zip.Deflate, func(out io.Writer) (io.WriteCloser, error) {
		return flate.NewWriter(out, level)
	})
}

// Member writes a member by write. The name has to be safe (see SafePath).
func (w *Writer) Member(name string, modified time.Time, write func(io.Writer) error) (Sum, error) {
	if !SafePath(name) {
		return Sum{}, fmt.Errorf("%.200q: %w", name, ErrUnsound)
	}
	out, err := w.zip.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Deflate, Modified: modified})
	if err != nil {
		return Sum{}, fmt.Errorf("%s: %w", name, err)
	}
	counted := &summed{to: out, hash: sha256.New()}
	if err := write(counted); err != nil {
		return Sum{}, fmt.Errorf("%s: %w", name, err)
	}
	return Sum{counted.size, hex.EncodeToString(counted.hash.Sum(nil))}, nil
}

// Close writes the directory; the zip is not whole before.
func (w *Writer) Close() error { return w.zip.Close() }

// Sealed is a zip with one stored, encrypted member, which is a zip itself: so the
// password hides the names of members, too, and a reader reaches any of them without
// unpacking.
type Sealed struct {
	zip *zip.Writer
	*encryptor
}

// SealedName is the member of a sealed zip that only the password opens.
const SealedName = "data.zip"

// NewSealed begins a sealed zip; what is written into it is the inner one. before
// writes members that everybody may read; nil: none.
func NewSealed(w io.Writer, password string, modified time.Time, before func(*Writer) error) (*Sealed, error) {
	if password == "" {
		return nil, ErrPassword
	}
	outer := NewWriter(w)
	if before != nil {
		if err := before(outer); err != nil {
			return nil, err
		}
	}
	e, err := encrypted(outer.zip, SealedName, modified, password, zip.Store)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SealedName, err)
	}
	return &Sealed{outer.zip, e}, nil
}

// Close ends the inner zip's bytes and writes the outer directory.
func (s *Sealed) Close() error { return errors.Join(s.finish(), s.zip.Close()) }

// Seal calls write with w, or with a sealed zip in it if there is a password, and ends
// that if all went well.
func Seal(w io.Writer, password string, write func(io.Writer) error) error {
	if password == "" {
		return write(w)
	}
	sealed, err := NewSealed(w, password, time.Now(), nil)
	if err != nil {
		return err
	}
	if err := write(sealed); err != nil {
		return err
	}
	return sealed.Close()
}
