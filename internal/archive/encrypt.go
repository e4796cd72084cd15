package archive

import (
	"archive/zip"
	"compress/flate"
	"crypto/rand"
	"fmt"
	"hash"
	"io"
	"math"
	"time"
)

// macSum makes the authentication code of a member.
type macSum struct{ hash.Hash }

// code is the part of the sum that is kept.
func (m *macSum) code() []byte { return m.Sum(nil)[:macBytes] }

// encryptor writes one encrypted member.
type encryptor struct {
	out     io.Writer // the member in the zip
	header  *zip.FileHeader
	secrets *secrets
	mac     *macSum
	plain   int64 // bytes before compression
	at      int64 // encrypted bytes
	buffer  []byte
	deflate *flate.Writer // nil: stored
}

// encrypted begins a member that only the password opens. It ends with finish, before
// the next member begins.
func encrypted(z *zip.Writer, name string, modified time.Time, password string, method uint16) (*encryptor, error) {
	salt := make([]byte, saltBytes)
	rand.Read(salt) // never fails since Go 1.24
	keys, err := secretsOf(password, salt)
	if err != nil {
		return nil, err
	}
	e := &encryptor{secrets: keys, mac: newMAC(keys), buffer: make([]byte, 0, 32<<10)}
	e.header = &zip.FileHeader{
		Name: name, Method: methodAES, Modified: modified, Extra: aesExtra(method),
		// Encrypted; sizes follow the bytes; the name is UTF-8.
		Flags: 0x1 | 0x8 | 0x800, CreatorVersion: needAES, ReaderVersion: needAES,
	}
	if e.out, err = z.CreateRaw(e.header); err != nil {
		return nil, err
	}
	if method == zip.Deflate {
		if e.deflate, err = flate.NewWriter(sealing{e}, flate.BestSpeed); err != nil {
			return nil, err
		}
	}
	_, err = e.out.Write(append(salt, keys.check[:]...))
	return e, err
}

// Write implements io.Writer.
func (e *encryptor) Write(p []byte) (n int, err error) {
	if e.deflate != nil {
		n, err = e.deflate.Write(p)
	} else {
		n, err = sealing{e}.Write(p)
	}
	e.plain += int64(n)
	return n, err
}

// sealing takes the bytes that are to be encrypted.
type sealing struct{ e *encryptor }

// Write implements io.Writer.
func (s sealing) Write(p []byte) (int, error) {
	e, written := s.e, 0
	for len(p) > 0 {
		piece := append(e.buffer[:0], p[:min(len(p), cap(e.buffer))]...)
		e.secrets.crypt(piece, e.at)
		e.mac.Write(piece)
		n, err := e.out.Write(piece)
		e.at, written = e.at+int64(n), written+n
		if err != nil {
			return written, err
		}
		p = p[len(piece):]
	}
	return written, nil
}

// finish ends the member. The zip writes its sizes behind it when the next one begins
// or the zip is closed, from the header that it holds on to; the CRC of AE-2 is 0.
func (e *encryptor) finish() error {
	if e.deflate != nil {
		if err := e.deflate.Close(); err != nil {
			return err
		}
	}
	if _, err := e.out.Write(e.mac.code()); err != nil {
		return fmt.Errorf("%s: %w", e.header.Name, err)
	}
	h := e.header
	h.CompressedSize64, h.UncompressedSize64 = uint64(e.at+aesOverhead), uint64(e.plain)
	//lint:ignore SA1019 the writer puts it into the directory where the size fits
	h.CompressedSize = uint32(min(h.CompressedSize64, math.MaxUint32))
	//lint:ignore SA1019 as above
	h.UncompressedSize = uint32(min(h.UncompressedSize64, math.MaxUint32))
	return nil
}
