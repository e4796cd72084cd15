package archive

import (
	"context"
	"hash"
	"io"
	"io/fs"
	"strings"
)

// summed hashes and counts what its writer takes.
type summed struct {
	to   io.Writer
	hash hash.Hash
	size int64
}

// Write implements io.Writer.
func (s *summed) Write(p []byte) (int, error) {
	n, err := s.to.Write(p)
	s.hash.Write(p[:n])
	s.size += int64(n)
	return n, err
}

// SafePath reports whether a path stays in the folder that a zip is unpacked in, on
// any system.
func SafePath(name string) bool {
	return fs.ValidPath(name) && name != "." && !strings.ContainsAny(name, "\\\x00") && !strings.Contains(name, ":")
}

// contextReader ends reading when nobody waits any more.
type contextReader struct {
	ctx context.Context //nolint:containedctx // lives as long as one call
	r   io.Reader
}

// Read implements io.Reader.
func (c *contextReader) Read(p []byte) (int, error) {
	if c.ctx.Err() != nil {
		return 0, context.Cause(c.ctx)
	}
	return c.r.Read(p)
}

// WithContext is a reader that ends with ctx. It is to be used within one call.
func WithContext(ctx context.Context, r io.Reader) io.Reader { return &contextReader{ctx, r} }
