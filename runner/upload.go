package runner

import (
	"context"
	"crypto/md5" //nolint:gosec // operators compare uploads by it
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"strings"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const uploadBytes = 1 << 20 // of a file in one message

// uploader stores files that a query uploads beside the flow, as those of clients. The
// holes of sparse files are stored as the zeros that they read as.
type uploader struct{ query *query }

// Upload implements vql.Uploader.
func (u *uploader) Upload(ctx context.Context, _ *vql.Scope, r vql.UploadRequest) (*vql.UploadResult, error) {
	stored := r.StoreAs
	if stored == nil {
		stored = r.Path
	}
	s := &sending{
		query: u.query, request: r, number: u.query.job.nextUpload(), sha256: sha256.New(), md5: md5.New(),
		name: valid(stored.String()), source: valid(r.Path.String()), accessor: valid(r.Accessor),
	}
	if s.accessor == "" {
		s.accessor = "auto"
	}
	for _, part := range componentsOf(stored) {
		s.components = append(s.components, valid(part))
	}
	return s.send(ctx)
}

func valid(text string) string { return strings.ToValidUTF8(text, "\uFFFD") }

// componentsOf names a file: a member of a container lies below the container's own
// name.
func componentsOf(p *vql.Path) []string {
	parts := p.Components()
	if inner := p.Delegate(); inner != nil {
		return append(componentsOf(inner), parts...)
	}
	if outer := p.DelegatePath(); outer != "" {
		return append(strings.FieldsFunc(outer, func(r rune) bool { return r == '/' || r == '\\' }), parts...)
	}
	return parts
}

// sending is one file on its way.
type sending struct {
	query      *query
	request    vql.UploadRequest
	number     int64
	name       string // to store it under
	source     string
	accessor   string
	components []string
	offset     int64
	sha256     hash.Hash
	md5        hash.Hash
}

// send delivers the file. Trouble with it is a result with Error; trouble with
// delivering is an error.
func (s *sending) send(ctx context.Context) (*vql.UploadResult, error) {
	r := s.request
	err := s.put(ctx, &wirepb.VeloMessage{UploadTransaction: &wirepb.UploadTransaction{
		Filename: s.source, Accessor: s.accessor, StoreAsName: s.name, Components: s.components, UploadId: s.number,
		ExpectedSize: max(0, r.Size), Mtime: nanoseconds(r.Mtime), Atime: nanoseconds(r.Atime), Ctime: nanoseconds(r.Ctime), Btime: nanoseconds(r.Btime),
	}})
	if err != nil {
		return nil, err
	}
	s.count(func(v *wirepb.VeloStatus) { v.ExpectedUploadedBytes += max(0, r.Size) })
	piece := make([]byte, uploadBytes)
	for {
		n, err := io.ReadFull(r.Reader, piece)
		if n > 0 {
			if err := s.deliver(ctx, piece[:n]); err != nil {
				return nil, err
			}
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return s.finish(ctx)
		case err != nil:
			result := s.result()
			result.Error = err.Error()
			return result, nil
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		}
	}
}

func (s *sending) deliver(ctx context.Context, data []byte) error {
	s.sha256.Write(data)
	s.md5.Write(data)
	b := s.buffer()
	b.Data, b.DataLength = data, uint64(len(data))
	if err := s.put(ctx, &wirepb.VeloMessage{FileBuffer: b}); err != nil {
		return err
	}
	s.offset += int64(len(data))
	s.count(func(v *wirepb.VeloStatus) { v.UploadedBytes += int64(len(data)) })
	return nil
}

// finish sends the last buffer, without data.
func (s *sending) finish(ctx context.Context) (*vql.UploadResult, error) {
	b := s.buffer()
	b.Eof, b.Size, b.StoredSize = true, uint64(s.offset), uint64(s.offset)
	if err := s.put(ctx, &wirepb.VeloMessage{FileBuffer: b}); err != nil {
		return nil, err
	}
	s.count(func(v *wirepb.VeloStatus) { v.UploadedFiles++ })
	result := s.result()
	result.SHA256, result.MD5 = hex.EncodeToString(s.sha256.Sum(nil)), hex.EncodeToString(s.md5.Sum(nil))
	return result, nil
}

func (s *sending) result() *vql.UploadResult {
	return &vql.UploadResult{
		Path: s.source, Size: s.offset, StoredSize: s.offset, StoredName: s.name, Components: s.components, Accessor: s.accessor, UploadID: s.number,
	}
}

// buffer is a piece of the file at where it stands, without data.
func (s *sending) buffer() *wirepb.FileBuffer {
	return &wirepb.FileBuffer{
		Pathspec: &wirepb.PathSpec{Path: s.name, Accessor: s.accessor, Components: s.components},
		Offset:   uint64(s.offset), Size: uint64(max(s.request.Size, s.offset)), StoredSize: uint64(s.offset), UploadNumber: s.number,
		Mtime: nanoseconds(s.request.Mtime), Atime: nanoseconds(s.request.Atime), Ctime: nanoseconds(s.request.Ctime), Btime: nanoseconds(s.request.Btime),
	}
}

func (s *sending) put(ctx context.Context, m *wirepb.VeloMessage) error {
	return s.query.job.send(ctx, s.query.job.message(m))
}

func (s *sending) count(change func(*wirepb.VeloStatus)) { s.query.job.update(s.query.index, change) }

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}
