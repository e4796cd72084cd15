package api

import (
	"fmt"
	"io"
	"mime/multipart"
	"path"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"raptorpack/flows"
)

// sameHash reports whether a file is what its sender says; who says nothing takes
// what came.
func sameHash(said, came string) bool { return said == "" || strings.EqualFold(said, came) }

// filePart finds the file in the body of an upload, which is read piece by piece: it
// may be larger than the memory.
func filePart(ctx huma.Context) (io.Reader, string, error) {
	request, _ := humago.Unwrap(ctx)
	request.Body = &steadyBody{request.Body, ctx.SetReadDeadline}
	parts, err := request.MultipartReader()
	if err != nil {
		return nil, "", fmt.Errorf("upload: expected multipart/form-data: %w: %w", flows.ErrInvalid, err)
	}
	part, err := parts.NextPart()
	if err != nil {
		return nil, "", fmt.Errorf("upload: no part in the body: %w: %w", flows.ErrInvalid, err)
	}
	if part.FormName() != "file" {
		return nil, "", fmt.Errorf("upload: the first part is %.60q, expected file: %w", part.FormName(), flows.ErrInvalid)
	}
	return &lastPart{part, parts}, path.Base(strings.ReplaceAll("/"+part.FileName(), `\`, "/")), nil
}

// lastPart is a part that ends only where the whole body does: what is cut off there
// was cut off somewhere, and a retry has to be known by all that it says.
type lastPart struct {
	*multipart.Part
	rest *multipart.Reader
}

// Read implements io.Reader.
func (p *lastPart) Read(to []byte) (int, error) {
	n, err := p.Part.Read(to)
	if err == io.EOF { //nolint:errorlint // a wrapped one says that the body broke off
		if _, err = p.rest.NextPart(); err == nil {
			return n, fmt.Errorf("upload: more than one part: %w", flows.ErrInvalid)
		}
	}
	if err != nil && err != io.EOF { //nolint:errorlint // as above
		err = fmt.Errorf("upload: the body breaks off: %w: %w", flows.ErrInvalid, err)
	}
	return n, err
}

// steadyBody is a body that may take as long as it likes as a whole, while it keeps
// coming.
type steadyBody struct {
	io.ReadCloser
	deadline func(time.Time) error
}

// Read implements io.Reader.
func (b *steadyBody) Read(to []byte) (int, error) {
	// A connection that knows no deadlines has the server's own.
	_ = b.deadline(time.Now().Add(bodyWithin))
	return b.ReadCloser.Read(to)
}
