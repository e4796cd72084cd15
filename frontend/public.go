package frontend

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"time"
)

const (
	routePublic = "public"

	// publicPiece is what one read of the filestore brings: a call costs as much as
	// a hundred kilobytes on a network filesystem.
	publicPiece = 256 << 10

	// publicAtOnce is how many files are sent at a time, publicWait how long another
	// one waits for its turn.
	publicAtOnce = 256
	publicWait   = time.Minute
)

// Public opens the files that anybody may fetch who knows their names.
type Public interface {
	// Open returns the file of a name. Nobody is given what the error is about:
	// fs.ErrNotExist is 404, anything else 503.
	Open(ctx context.Context, name string) (*PublicFile, error)
}

// PublicFile is an open file. It never changes.
type PublicFile struct {
	Hash   string // of its bytes, in hex
	Size   int64
	At     time.Time // since when it is there
	ReadAt func(ctx context.Context, p []byte, offset int64) (int, error)
	Close  func(ctx context.Context)
}

// servePublic sends a file, or the part of it that was asked for.
func (f *Frontend) servePublic(w http.ResponseWriter, r *http.Request) {
	if f.draining.Load() {
		f.write(w, r, routePublic, later("draining", nil))
		return
	}
	if !f.publicTurn(r.Context()) {
		f.write(w, r, routePublic, later("public", nil))
		return
	}
	defer func() { <-f.publicTurns }()
	file, err := f.options.Public.Open(r.Context(), r.PathValue("name"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.write(w, r, routePublic, answer{code: http.StatusNotFound})
		return
	case err != nil:
		if f.quiet.may("public") {
			f.log.Warn("public file cannot be read", "err", err)
		}
		f.write(w, r, routePublic, later("public", err))
		return
	}
	defer file.Close(context.WithoutCancel(r.Context()))
	f.account(routePublic, "", ok)
	h := w.Header()
	h.Set("Content-Type", "application/octet-stream")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "private, max-age=3600") // it never changes, but may be withdrawn
	h.Set("Etag", `"`+file.Hash+`"`)
	http.ServeContent(w, r, "", file.At, &publicReader{
		frontend: f, control: http.NewResponseController(w), size: file.Size,
		read: func(p []byte, offset int64) (int, error) { return file.ReadAt(r.Context(), p, offset) },
	})
}

// publicTurn waits until there is room for one more.
func (f *Frontend) publicTurn(ctx context.Context) bool {
	wait, cancel := context.WithTimeout(ctx, publicWait)
	defer cancel()
	select {
	case f.publicTurns <- struct{}{}:
		return true
	case <-wait.Done():
		return false
	}
}

// publicReader reads a file in large pieces. Before each it moves the end of the
// time that the receiver has for taking it.
type publicReader struct {
	read     func(p []byte, offset int64) (int, error) // as long as the request lasts
	size     int64
	frontend *Frontend
	control  *http.ResponseController

	offset int64
	piece  []byte
	at     int64 // of the piece
}

var errWhence = errors.New("seek: unknown whence, or before the beginning")

// Seek implements io.Seeker.
func (p *publicReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += p.offset
	case io.SeekEnd:
		offset += p.size
	case io.SeekStart:
	default:
		return 0, errWhence
	}
	if offset < 0 {
		return 0, errWhence
	}
	p.offset = offset
	return offset, nil
}

// Read implements io.Reader.
func (p *publicReader) Read(to []byte) (int, error) {
	if p.offset >= p.size {
		return 0, io.EOF
	}
	if p.offset < p.at || p.offset >= p.at+int64(len(p.piece)) {
		if err := p.fetch(); err != nil {
			return 0, err
		}
	}
	n := copy(to, p.piece[p.offset-p.at:])
	p.offset += int64(n)
	p.frontend.metrics.published.Add(float64(n))
	return n, nil
}

func (p *publicReader) fetch() error {
	if p.piece == nil {
		p.piece = make([]byte, min(publicPiece, p.size))
	}
	// Without deadlines (a wrapped writer) the server's own limits hold.
	_ = p.control.SetWriteDeadline(time.Now().Add(publicWait))
	whole := p.piece[:min(int64(cap(p.piece)), p.size-p.offset)]
	n, err := p.read(whole, p.offset)
	if n < len(whole) {
		p.piece = p.piece[:0]
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if p.frontend.quiet.may("public") {
			p.frontend.log.Warn("public file cannot be read on", "err", err)
		}
		return fmt.Errorf("public file: %w", err)
	}
	p.piece, p.at = whole, p.offset
	return nil
}
