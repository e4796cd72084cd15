package endpoint

import (
	"bufio"
	"context"
	"crypto/md5" // it tells files apart, it protects nothing
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"strings"

	"raptorpack/vql"
)

var errObjectName = errors.New("the file has no name: give one")

// outgoing is a file on its way to a store outside. It is read once, from its start.
type outgoing struct {
	size        int64 // as the file says; -1 when it does not know
	read        int64
	file        *bufio.Reader
	sha256, md5 hash.Hash
	charge      func() error
}

// next fills buf and tells whether the file ends with it.
func (o *outgoing) next(buf []byte) (data []byte, last bool, err error) {
	if err := o.charge(); err != nil {
		return nil, false, err
	}
	n, err := io.ReadFull(o.file, buf)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, false, err
	}
	o.read += int64(n)
	o.sha256.Write(buf[:n])
	o.md5.Write(buf[:n])
	if _, err := o.file.Peek(1); err != nil {
		if !errors.Is(err, io.EOF) {
			return nil, false, err
		}
		last = true
	}
	return buf[:n], last, nil
}

// first reads the first part, and makes the buffer for all parts: it is no larger than
// a small file needs.
func (o *outgoing) first(part int64) (buf, data []byte, last bool, err error) {
	small := part
	if o.size >= 0 {
		small = min(part, o.size+1)
	}
	buf = make([]byte, small)
	data, last, err = o.next(buf)
	if err != nil || last || small == part {
		return buf, data, last, err
	}
	buf = append(make([]byte, 0, part), data...)[:part] // the file has grown
	more, last, err := o.next(buf[len(data):])
	return buf, buf[:len(data)+len(more)], last, err
}

// sendFile opens a file and hands it to send, which gives where it lies now.
func sendFile(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path, name string, send func(*outgoing) (string, error)) (vql.Value, error) {
	if err := scope.Allowed("FILESYSTEM_READ"); err != nil {
		return nil, err
	}
	file, err := openThrough(ctx, scope, accessor, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	o := &outgoing{
		size: sizeOf(file), file: bufio.NewReaderSize(file, bufferSize), sha256: sha256.New(), md5: md5.New(),
		charge: func() error { return scope.Charge(ctx) },
	}
	reference, err := send(o)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", shortName(path.String()), err)
	}
	if accessor == "" {
		accessor = "auto"
	}
	return &vql.UploadResult{
		Path: path.String(), Size: o.read, StoredSize: o.read, SHA256: hex.EncodeToString(o.sha256.Sum(nil)), MD5: hex.EncodeToString(o.md5.Sum(nil)),
		StoredName: name, Components: strings.Split(name, "/"), Reference: reference, Accessor: accessor,
	}, nil
}

// objectName is the name of a file in a store: what the call says, or the file's own
// path. Components that mean another folder are spelled out.
func objectName(scope *vql.Scope, accessor string, path *vql.Path, name, root string) (string, error) {
	parts := strings.Split(name, "/")
	if name == "" {
		_, own, err := resolve(scope, accessor, path)
		if err != nil {
			return "", err
		}
		parts = own.Components()
	}
	var out []string
	for _, part := range append(strings.Split(root, "/"), parts...) {
		switch part {
		case "":
		case ".", "..":
			out = append(out, strings.ReplaceAll(part, ".", "%2E"))
		default:
			out = append(out, part)
		}
	}
	if len(parts) == 0 || len(out) == 0 {
		return "", errObjectName
	}
	return strings.Join(out, "/"), nil
}

// partSize is how much of a file is held and sent at a time: so much that the file
// has at most parts pieces, within bounds.
func partSize(size, smallest, largest, parts int64) int64 {
	if size < 0 {
		return min(2*smallest, largest)
	}
	part := size/parts + 1
	part += -part & (1<<20 - 1) // whole MiB
	return min(max(part, smallest), largest)
}
