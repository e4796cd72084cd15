package client

import (
	"context"
	"crypto/md5" //nolint:gosec // operators compare uploads by it
	"crypto/sha256"
	"encoding"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/wire"
)

// uploadBytes is how much of a file one message carries at most, before
// compression (client protocol 9.4).
const uploadBytes = 1 << 20

// deferredQueue is how many deferred uploads wait behind the one at work; when
// it is full upload() waits.
const deferredQueue = 256

var errNoSeek = errors.New("cannot start over: the source cannot be read twice")

// uploadBook numbers the uploads of a flow and knows those of earlier runs.
type uploadBook struct {
	mu    sync.Mutex
	known map[string]upload
	next  int64
}

func newUploadBook(known map[int64]*upload) *uploadBook {
	b := &uploadBook{known: map[string]upload{}}
	for id, u := range known {
		b.known[u.Key] = *u
		b.next = max(b.next, id+1)
	}
	return b
}

// claim gives the state of an upload from an earlier run, or numbers a new one.
func (b *uploadBook) claim(u upload) (upload, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if old, ok := b.known[u.Key]; ok {
		return old, true
	}
	u.ID = b.next
	b.next++
	return u, false
}

// uploader sends the files of one query. It implements vql.Uploader. A name is
// sent once per query; who asks again gets the first answer.
type uploader struct {
	output *output
	book   *uploadBook
	allow  func(n int64) error // counts bytes; what is sent anew is given back first
	queue  chan deferredUpload // when full, upload() waits
	ended  chan struct{}       // closed by noMore

	mu      sync.Mutex
	entries map[string]*uploadEntry
	left    int // deferred uploads not yet ended
}

type uploadEntry struct {
	done   chan struct{} // closed when result and err are there
	result *vql.UploadResult
	err    error
}

type deferredUpload struct {
	state upload
	path  *vql.Path
}

func newUploader(o *output, book *uploadBook, allow func(int64) error) *uploader {
	u := &uploader{
		output: o, book: book, allow: allow, entries: map[string]*uploadEntry{},
		queue: make(chan deferredUpload, deferredQueue), ended: make(chan struct{}),
	}
	for _, known := range book.known {
		if known.Query == o.query && o.status != nil {
			u.count(known)
		}
	}
	return u
}

// count enters an upload of an earlier run into the status.
func (u *uploader) count(known upload) {
	u.output.status.update(func(v *wirepb.VeloStatus) {
		v.UploadedBytes += known.Offset
		v.ExpectedUploadedBytes += max(0, known.Size)
		if known.Done && !known.failed() {
			v.UploadedFiles++
		}
	})
}

// Upload implements vql.Uploader.
func (u *uploader) Upload(ctx context.Context, scope *vql.Scope, r vql.UploadRequest) (*vql.UploadResult, error) {
	state := u.describe(r)
	u.mu.Lock()
	entry, again := u.entries[state.Key]
	if !again {
		entry = &uploadEntry{done: make(chan struct{})}
		u.entries[state.Key] = entry
	}
	u.mu.Unlock()
	if again {
		select {
		case <-entry.done:
			return entry.result, entry.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer close(entry.done)
	entry.result, entry.err = u.upload(ctx, scope, state, r)
	return entry.result, entry.err
}

// describe is the upload as the journal will know it.
func (u *uploader) describe(r vql.UploadRequest) upload {
	stored := r.StoreAs
	if stored == nil {
		stored = r.Path
	}
	accessor := r.Accessor
	if accessor == "" {
		accessor = "auto"
	}
	s := upload{
		Query: u.output.query, Key: uploadKey(u.output.query, accessor, r.Path.String(), stored.String()),
		Filename: plainName(r.Path.String()), Accessor: plainName(accessor), StoreAs: plainName(stored.String()),
		Size: r.Size, ModTime: nanoseconds(r.Mtime),
	}
	for _, part := range storedComponents(stored) {
		s.Components = append(s.Components, plainName(part))
	}
	return s
}

// uploadKey tells an upload from all others of its flow. The journal is JSON,
// which would not give back bytes that are no UTF-8.
func uploadKey(query int, accessor, source, storeAs string) string {
	key := strings.Join([]string{fmt.Sprint(query), accessor, source, storeAs}, "\x00")
	if !utf8.ValidString(key) {
		return hex.EncodeToString([]byte(key))
	}
	return key
}

// storedComponents names the file at the server: a member of a container lies
// below the container's own name.
func storedComponents(p *vql.Path) []string {
	parts := p.Components()
	if inner := p.Delegate(); inner != nil {
		return append(storedComponents(inner), parts...)
	}
	if outer := p.DelegatePath(); outer != "" {
		return append(strings.FieldsFunc(outer, func(r rune) bool { return r == '/' || r == '\\' }), parts...)
	}
	return parts
}

func nanoseconds(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func (u *uploader) upload(ctx context.Context, scope *vql.Scope, wanted upload, r vql.UploadRequest) (*vql.UploadResult, error) {
	wanted.Deferred = resumable(scope, wanted.Accessor)
	state, known := u.book.claim(wanted)
	if known && state.Done && !state.Deferred {
		return decodeResult(state)
	}
	if !known {
		if err := u.announce(ctx, state, r, ""); err != nil {
			return nil, err
		}
	}
	if state.Deferred {
		return u.postpone(ctx, scope, state, wanted, r.Path)
	}
	return u.send(ctx, state, wanted, r)
}

// decodeResult gives the answer that an earlier run gave.
func decodeResult(state upload) (*vql.UploadResult, error) {
	var result vql.UploadResult
	if err := json.Unmarshal([]byte(state.Result), &result); err != nil {
		return nil, fmt.Errorf("result of upload %d: %w", state.ID, err)
	}
	return &result, nil
}

// failed reports whether an ended upload ended without its file.
func (u *upload) failed() bool {
	result, err := decodeResult(*u)
	return err != nil || result.Error != ""
}

// announce puts the UploadTransaction: before the data, and with the result
// once more after a deferred upload.
func (u *uploader) announce(ctx context.Context, state upload, r vql.UploadRequest, result string) error {
	m := &uploadMark{ID: state.ID}
	if result == "" {
		m.Begin = &state
		u.update(func(v *wirepb.VeloStatus) { v.ExpectedUploadedBytes += max(0, state.Size) })
	} else {
		m.Done, m.Result = true, result
	}
	return u.put(ctx, m, &wirepb.VeloMessage{
		RequestId: requestUpload,
		UploadTransaction: &wirepb.UploadTransaction{
			Filename: state.Filename, Accessor: state.Accessor, StoreAsName: state.StoreAs, Components: state.Components,
			ExpectedSize: max(0, state.Size), Mtime: state.ModTime, Atime: nanoseconds(r.Atime), Ctime: nanoseconds(r.Ctime),
			Btime: nanoseconds(r.Btime), Mode: state.Mode, UploadId: state.ID, Response: result,
		},
	})
}

func (u *uploader) put(ctx context.Context, m *uploadMark, v *wirepb.VeloMessage) error {
	v.SessionId = u.output.session
	return u.output.buffer.put(ctx, mark{Flow: u.output.session, Kind: markUpload, Query: u.output.query, Upload: m}, v)
}

func (u *uploader) update(change func(*wirepb.VeloStatus)) {
	if u.output.status != nil {
		u.output.status.update(change)
	}
}

// send delivers the file from where an earlier run ended. Trouble with the file
// is a result with Error; trouble with delivering is an error.
func (u *uploader) send(ctx context.Context, state, wanted upload, r vql.UploadRequest) (*vql.UploadResult, error) {
	s := newSending(u, state, r, newStoredReader(r))
	if state.Offset > 0 {
		if err := s.rejoin(wanted); err != nil {
			return s.failed(err), nil
		}
	}
	return s.all(ctx)
}

func newSending(u *uploader, state upload, r vql.UploadRequest, source *storedReader) *sending {
	return &sending{uploader: u, state: state, request: r, source: source, sha256: sha256.New(), md5: md5.New()}
}

// all sends what is left and the end.
func (s *sending) all(ctx context.Context) (*vql.UploadResult, error) {
	if err := s.copy(ctx); err != nil {
		var bad *sourceError
		if errors.As(err, &bad) {
			return s.failed(bad.error), nil
		}
		return nil, err
	}
	return s.finish(ctx)
}

// sourceError is trouble with the file, not with us.
type sourceError struct{ error }

// sending is one file on its way.
type sending struct {
	uploader *uploader
	state    upload
	request  vql.UploadRequest
	source   *storedReader
	sha256   hash.Hash
	md5      hash.Hash
	block    []byte
}

// rejoin reads what is already delivered again and compares. A file that
// changed is sent from its beginning.
func (s *sending) rejoin(wanted upload) error {
	same := wanted.Size == s.state.Size && wanted.ModTime == s.state.ModTime
	sum := uint32(0)
	if same {
		check := crc32.New(castagnoli)
		n, err := io.CopyN(check, s.source, s.state.Offset)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		same, sum = n == s.state.Offset, check.Sum32()
	}
	if same && sum == s.state.Sum && restore(s.sha256, s.state.SHA256) && restore(s.md5, s.state.MD5) {
		return nil
	}
	s.sha256.Reset()
	s.md5.Reset()
	if err := s.uploader.allow(-s.state.Offset); err != nil {
		return err
	}
	s.uploader.update(func(v *wirepb.VeloStatus) { v.UploadedBytes -= s.state.Offset })
	s.state.Size, s.state.ModTime, s.state.Offset, s.state.Sum = wanted.Size, wanted.ModTime, 0, 0
	return s.source.rewind()
}

func restore(h hash.Hash, state []byte) bool {
	u, ok := h.(encoding.BinaryUnmarshaler)
	return ok && len(state) > 0 && u.UnmarshalBinary(state) == nil
}

func hashState(h hash.Hash) []byte {
	if m, ok := h.(encoding.BinaryMarshaler); ok {
		if state, err := m.MarshalBinary(); err == nil {
			return state
		}
	}
	return nil // a resumed upload then starts over
}

func (s *sending) copy(ctx context.Context) error {
	s.block = make([]byte, uploadBytes)
	for {
		n, err := io.ReadFull(s.source, s.block)
		end := errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
		if n > 0 {
			if err := s.deliver(ctx, s.block[:n]); err != nil {
				return err
			}
		}
		if end {
			return nil
		}
		if err != nil {
			return &sourceError{err}
		}
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
	}
}

func (s *sending) deliver(ctx context.Context, data []byte) error {
	u := s.uploader
	if err := u.allow(int64(len(data))); err != nil {
		return err
	}
	s.sha256.Write(data)
	s.md5.Write(data)
	at := s.state.Offset
	s.state.Offset += int64(len(data))
	s.state.Sum = crc32.Update(s.state.Sum, castagnoli, data)
	b := s.buffer(at)
	b.Mtime, b.Atime = s.state.ModTime, nanoseconds(s.request.Atime)
	b.Ctime, b.Btime = nanoseconds(s.request.Ctime), nanoseconds(s.request.Btime)
	b.DataLength = uint64(len(data))
	if u.output.compress {
		b.Data, b.UncompressedLength = wire.Deflate(data), uint64(len(data))
	}
	// What does not compress goes as it is: inflating it would cost the server as
	// much as taking it in.
	if len(b.Data) == 0 || len(b.Data) > len(data)-len(data)/32 {
		b.Data, b.UncompressedLength = slices.Clone(data), 0
	}
	m := &uploadMark{
		ID: s.state.ID, Data: true, Offset: s.state.Offset, Sum: s.state.Sum,
		SHA256: hashState(s.sha256), MD5: hashState(s.md5),
	}
	if err := u.put(ctx, m, &wirepb.VeloMessage{RequestId: requestUpload, FileBuffer: b}); err != nil {
		return err
	}
	u.output.metric.uploadBytes.Add(float64(len(data)))
	u.update(func(v *wirepb.VeloStatus) { v.UploadedBytes += int64(len(data)) })
	return nil
}

// buffer is a FileBuffer at an offset without its data.
func (s *sending) buffer(at int64) *wirepb.FileBuffer {
	b := &wirepb.FileBuffer{
		Pathspec: &wirepb.PathSpec{Path: s.state.StoreAs, Accessor: s.state.Accessor, Components: s.state.Components},
		Offset:   uint64(at), Size: uint64(max(s.state.Size, s.source.logical())), StoredSize: uint64(s.state.Offset),
		UploadNumber: s.state.ID, IsSparse: s.source.sparse,
	}
	if s.source.parts != nil {
		b.StoredSize = uint64(s.source.stored)
	}
	return b
}

// finish puts the last buffer and the result.
func (s *sending) finish(ctx context.Context) (*vql.UploadResult, error) {
	result := s.result()
	text, err := json.Marshal(result)
	if err != nil {
		return nil, fmt.Errorf("encode upload result: %w", err)
	}
	b := s.buffer(s.state.Offset)
	b.Eof, b.Size = true, uint64(result.Size)
	if s.source.sparse {
		b.Index = s.source.index()
	}
	m := &uploadMark{ID: s.state.ID, Done: !s.state.Deferred, Result: string(text)}
	if err := s.uploader.put(ctx, m, &wirepb.VeloMessage{RequestId: requestUpload, FileBuffer: b}); err != nil {
		return nil, err
	}
	if s.state.Deferred {
		if err := s.uploader.announce(ctx, s.state, s.request, string(text)); err != nil {
			return nil, err
		}
	}
	s.uploader.update(func(v *wirepb.VeloStatus) { v.UploadedFiles++ })
	return result, nil
}

func (s *sending) result() *vql.UploadResult {
	size := s.source.logical()
	if !s.source.sparse {
		size = s.state.Offset
	}
	return &vql.UploadResult{
		Path: s.state.Filename, Size: size, StoredSize: s.state.Offset, StoredName: s.state.StoreAs,
		SHA256: hex.EncodeToString(s.sha256.Sum(nil)), MD5: hex.EncodeToString(s.md5.Sum(nil)),
		Components: s.state.Components, Accessor: s.state.Accessor, UploadID: s.state.ID,
	}
}

// failed is the result of a file that could not be read whole.
func (s *sending) failed(err error) *vql.UploadResult {
	return &vql.UploadResult{
		Path: s.state.Filename, Size: max(0, s.state.Size), StoredSize: s.state.Offset, Error: err.Error(),
		StoredName: s.state.StoreAs, Components: s.state.Components, Accessor: s.state.Accessor, UploadID: s.state.ID,
	}
}
