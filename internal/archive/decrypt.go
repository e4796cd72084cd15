package archive

import (
	"errors"
	"fmt"
	"io"
)

// decryptor reads the plain bytes of an encrypted member and checks its code at the
// end.
type decryptor struct {
	in   io.Reader
	all  *framed
	at   int64
	left int64
	keys *secrets
	mac  *macSum
	over bool // the code was right
}

// Read implements io.Reader.
func (d *decryptor) Read(p []byte) (int, error) {
	if d.left == 0 {
		if !d.over {
			if err := d.all.authentic(d.mac); err != nil {
				return 0, err
			}
			d.over = true
		}
		return 0, io.EOF
	}
	n, err := d.in.Read(p[:min(int64(len(p)), d.left)])
	d.mac.Write(p[:n])
	d.keys.crypt(p[:n], d.at)
	d.at, d.left = d.at+int64(n), d.left-int64(n)
	if errors.Is(err, io.EOF) {
		err = nil
		if n == 0 {
			err = io.ErrUnexpectedEOF
		}
	}
	return n, err
}

// inflated is a member that was deflated before it was encrypted. Its code is checked
// when it ends: what follows the last block of deflate has to be nothing.
type inflated struct {
	io.ReadCloser
	from *decryptor
}

// Read implements io.Reader.
func (i *inflated) Read(p []byte) (int, error) {
	n, err := i.ReadCloser.Read(p)
	if errors.Is(err, io.EOF) {
		if _, rest := io.Copy(io.Discard, i.from); rest != nil {
			return n, rest
		}
	}
	return n, err
}

// decryptedAt reads encrypted bytes at any place.
type decryptedAt struct {
	from *framed
	keys *secrets
}

// ReadAt implements io.ReaderAt.
func (d *decryptedAt) ReadAt(p []byte, off int64) (int, error) {
	n, err := d.from.ReadAt(p, off)
	d.keys.crypt(p[:n], off)
	return n, err
}

// member is an open member; it has exactly the bytes that the directory says.
type member struct {
	in   io.ReadCloser
	name string
	left int64
}

// Read implements io.Reader.
func (m *member) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	// One byte more than there may be, so that a longer member is seen.
	n, err := m.in.Read(p[:min(int64(len(p)), m.left+1)])
	m.left -= int64(n)
	switch {
	case m.left < 0:
		return 0, fmt.Errorf("%.200s is longer than its zip says: %w", m.name, ErrUnsound)
	case errors.Is(err, io.EOF) && m.left > 0:
		return n, fmt.Errorf("%.200s is shorter than its zip says: %w", m.name, ErrUnsound)
	case err == nil || errors.Is(err, io.EOF):
		return n, err
	case errors.Is(err, ErrUnsound):
		return n, fmt.Errorf("%.200s: %w", m.name, err)
	}
	return n, fmt.Errorf("%.200s: %w: %w", m.name, ErrUnsound, err)
}

// Close implements io.Closer.
func (m *member) Close() error { return m.in.Close() }
