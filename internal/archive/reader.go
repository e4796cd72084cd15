package archive

import (
	"archive/zip"
	"bytes"
	"compress/flate"
	"context"
	"crypto/hmac"
	"errors"
	"fmt"
	"io"
	"strings"
)

// ErrUnsound means that a file is no zip, or not one that may be read. Trying again
// does not help.
var ErrUnsound = errors.New("not a sound zip")

// Limits bound what is read of a zip; 0 takes the default.
type Limits struct {
	Members int   // files: a million
	Bytes   int64 // of all together, unpacked: 1 TiB
}

const (
	defaultMembers = 1 << 20
	defaultBytes   = 1 << 40
)

// Reader is an open zip. Safe for concurrent use as far as its bytes are.
type Reader struct {
	at       io.ReaderAt
	password string
	files    map[string]*zip.File
	names    []string
}

// Open reads the directory of a zip and refuses the whole of it if names are equal
// or not safe, or if there is more than the limits allow. A sealed zip (see NewSealed) is opened, once its authentication code was checked,
// and gives its inner members. Folders are left out.
func Open(ctx context.Context, at io.ReaderAt, size int64, password string, l Limits) (*Reader, error) {
	r, err := open(at, size, password, l)
	if err != nil {
		return nil, err
	}
	inner := r.files[SealedName]
	if inner == nil {
		return r, nil
	}
	section, err := r.section(ctx, inner)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", SealedName, err)
	}
	return open(section, section.Size(), password, l)
}

func open(at io.ReaderAt, size int64, password string, l Limits) (*Reader, error) {
	z, err := zip.NewReader(at, size)
	if err != nil && !errors.Is(err, zip.ErrInsecurePath) { // paths are looked at below
		return nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	r := &Reader{at: at, password: password, files: make(map[string]*zip.File, len(z.File))}
	return r, r.take(z.File, l)
}

// take checks the directory.
func (r *Reader) take(all []*zip.File, l Limits) error {
	members, left := l.Members, uint64(l.Bytes)
	if members == 0 {
		members = defaultMembers
	}
	if left == 0 {
		left = defaultBytes
	}
	if len(all) > members {
		return fmt.Errorf("more than %d files: %w", members, ErrUnsound)
	}
	for _, f := range all {
		if dir, ok := strings.CutSuffix(f.Name, "/"); ok && SafePath(dir) {
			continue
		}
		switch {
		case !SafePath(f.Name):
			return fmt.Errorf("path %.200q is not safe: %w", f.Name, ErrUnsound)
		case r.files[f.Name] != nil:
			return fmt.Errorf("%.200q is there twice: %w", f.Name, ErrUnsound)
		case !f.Mode().IsRegular():
			return fmt.Errorf("%.200q is no regular file: %w", f.Name, ErrUnsound)
		case f.UncompressedSize64 > left:
			return fmt.Errorf("more bytes than may be unpacked, at %.200q: %w", f.Name, ErrUnsound)
		}
		left -= f.UncompressedSize64
		r.files[f.Name] = f
		r.names = append(r.names, f.Name)
	}
	return nil
}

// Names lists the members in the order of the directory.
func (r *Reader) Names() []string { return r.names }

// Size returns how long a member says it is; false if there is none.
func (r *Reader) Size(name string) (int64, bool) {
	f := r.files[name]
	if f == nil {
		return 0, false
	}
	return int64(f.UncompressedSize64), true // at most Limits.Bytes
}

// Open opens a member. One that is longer or shorter than the directory says, or whose
// checksum or authentication code differs, ends with an error that wraps ErrUnsound.
func (r *Reader) Open(name string) (io.ReadCloser, error) {
	f := r.files[name]
	if f == nil {
		return nil, fmt.Errorf("%.200s is missing: %w", name, ErrUnsound)
	}
	in, err := r.plain(f)
	if err != nil {
		return nil, fmt.Errorf("%.200s: %w", name, err)
	}
	return &member{in: in, name: name, left: int64(f.UncompressedSize64)}, nil
}

func (r *Reader) plain(f *zip.File) (io.ReadCloser, error) {
	if f.Flags&1 != 0 || f.Method == methodAES {
		return r.decrypt(f)
	}
	in, err := f.Open()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	return in, nil
}

// decrypt reads an encrypted member. What a wrong password gives is refused at its end
// at the latest.
func (r *Reader) decrypt(f *zip.File) (io.ReadCloser, error) {
	keys, method, cipherText, err := r.unlock(f)
	if err != nil {
		return nil, err
	}
	in := &decryptor{in: io.NewSectionReader(cipherText, 0, cipherText.Size()), all: cipherText, left: cipherText.Size(), keys: keys, mac: newMAC(keys)}
	switch method {
	case zip.Store:
		return io.NopCloser(in), nil
	case zip.Deflate:
		return &inflated{flate.NewReader(in), in}, nil
	}
	return nil, fmt.Errorf("compressed by method %d: %w", method, ErrUnsound)
}

// unlock finds the encrypted bytes of a member, without what frames them.
func (r *Reader) unlock(f *zip.File) (*secrets, uint16, *framed, error) {
	_, method, err := encryption(f)
	if err != nil {
		return nil, 0, nil, err
	}
	start, err := f.DataOffset()
	if err != nil {
		return nil, 0, nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	size := int64(min(f.CompressedSize64, 1<<62)) - aesOverhead
	if size < 0 {
		return nil, 0, nil, fmt.Errorf("encrypted and too short: %w", ErrUnsound)
	}
	head := make([]byte, saltBytes+checkBytes)
	if _, err := r.at.ReadAt(head, start); err != nil {
		return nil, 0, nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	if r.password == "" {
		return nil, 0, nil, ErrPassword
	}
	keys, err := secretsOf(r.password, head[:saltBytes])
	if err != nil {
		return nil, 0, nil, err
	}
	if !bytes.Equal(keys.check[:], head[saltBytes:]) {
		return nil, 0, nil, ErrPassword
	}
	return keys, method, &framed{io.NewSectionReader(r.at, start+int64(len(head)), size), r.at, start + int64(len(head)) + size}, nil
}

// framed are encrypted bytes, and where their code stands.
type framed struct {
	*io.SectionReader
	at   io.ReaderAt
	code int64
}

// authentic holds a finished sum to the code of the member.
func (f *framed) authentic(sum *macSum) error {
	code := make([]byte, macBytes)
	if _, err := f.at.ReadAt(code, f.code); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	if !hmac.Equal(code, sum.code()) {
		return fmt.Errorf("the authentication code differs: %w", ErrUnsound)
	}
	return nil
}

// section reads a stored, encrypted member at any place, after a look at all of it.
func (r *Reader) section(ctx context.Context, f *zip.File) (*io.SectionReader, error) {
	if f.Flags&1 == 0 && f.Method != methodAES {
		if f.Method != zip.Store {
			return nil, fmt.Errorf("neither stored nor encrypted: %w", ErrUnsound)
		}
		start, err := f.DataOffset()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUnsound, err)
		}
		return io.NewSectionReader(r.at, start, int64(min(f.CompressedSize64, 1<<62))), nil
	}
	keys, method, cipherText, err := r.unlock(f)
	if err != nil {
		return nil, err
	}
	if method != zip.Store {
		return nil, fmt.Errorf("not stored: %w", ErrUnsound)
	}
	sum := newMAC(keys)
	if _, err := io.Copy(sum, WithContext(ctx, io.NewSectionReader(cipherText, 0, cipherText.Size()))); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	if err := cipherText.authentic(sum); err != nil {
		return nil, err
	}
	return io.NewSectionReader(&decryptedAt{cipherText, keys}, 0, cipherText.Size()), nil
}
