package config

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"raptorpack/internal/archive"
)

// Packed is a further file that goes into a repacked program.
type Packed struct {
	Name string // in the zip, without folders
	Open func() (io.ReadCloser, error)
}

// Repack copies a program with another client file and further files, as a zip; what
// was packed into it before is left out. The client file must be one for clients,
// without keys of a server; the error wraps ErrEmbedded. to is not whole after an
// error.
func Repack(to io.Writer, program io.ReaderAt, size int64, text []byte, files []Packed) error {
	if err := packable(text); err != nil {
		return err
	}
	before, err := ReadEmbedded(program, size)
	if err != nil && !errors.Is(err, ErrEmbedded) {
		return err
	}
	if err != nil {
		return fmt.Errorf("the program was packed before, and is damaged: %w", err)
	}
	if before != nil {
		size = before.Base
	}
	if _, err := io.Copy(to, io.NewSectionReader(program, 0, size)); err != nil {
		return fmt.Errorf("copy program: %w", err)
	}
	sum := sha256.New()
	counted := &counter{to: io.MultiWriter(to, sum)}
	if _, err := counted.Write(text); err != nil {
		return err
	}
	if err := pack(counted, files); err != nil {
		return err
	}
	tail := append(make([]byte, 0, tailSize), tailMagic...)
	tail = binary.BigEndian.AppendUint64(tail, uint64(len(text)))
	tail = binary.BigEndian.AppendUint64(tail, uint64(counted.n)-uint64(len(text)))
	sum.Write(tail)
	_, err = to.Write(sum.Sum(tail))
	return err
}

// packable checks that a text is a client file.
func packable(text []byte) error {
	loaded, err := Parse("client file", text, Options{ClientOnly: true})
	switch {
	case err != nil:
		return err
	case loaded.hasSecrets():
		return fmt.Errorf("it has private keys of a server: make a client file by config client: %w", ErrEmbedded)
	case len(text) > maxEmbedded:
		return fmt.Errorf("a client file of %d bytes, more than %d: %w", len(text), maxEmbedded, ErrEmbedded)
	}
	return nil
}

// pack writes files as a zip; without any it writes nothing.
func pack(to io.Writer, files []Packed) error {
	if len(files) == 0 {
		return nil
	}
	z := archive.NewWriter(to)
	taken := map[string]bool{}
	for _, f := range files {
		if taken[f.Name] {
			return fmt.Errorf("two files are called %.200q: %w", f.Name, ErrEmbedded)
		}
		taken[f.Name] = true
		from, err := f.Open()
		if err != nil {
			return fmt.Errorf("pack %.200q: %w", f.Name, err)
		}
		_, err = z.Member(f.Name, time.Now(), func(w io.Writer) error { _, err := io.Copy(w, from); return err })
		if err = errors.Join(err, from.Close()); err != nil {
			return fmt.Errorf("pack %.200q: %w", f.Name, err)
		}
	}
	return z.Close()
}

// counter counts what it hands on.
type counter struct {
	to io.Writer
	n  int64
}

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	n, err := c.to.Write(p)
	c.n += int64(n)
	return n, err
}
