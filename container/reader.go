package container

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"raptorpack/internal/archive"
)

var (
	// ErrUnsound means that a file is no container, or not as its manifest says.
	// Trying again does not help.
	ErrUnsound = errors.New("not a sound zip of a collection")

	// ErrHunt means that a zip is that of a hunt, which another door takes.
	ErrHunt = errors.New("the zip of a hunt, not of a collection")

	// ErrNoRows means that a container has its rows as CSV alone.
	ErrNoRows = errors.New("the rows of this zip are CSV only")
)

// Bounds of what is read of a container.
const (
	maxDocument = 64 << 20
	maxLine     = 8 << 20
	maxIndex    = 128 << 20
	lineBuffer  = 256 << 10
)

// Reader is a container that was found sound.
type Reader struct {
	zip      *archive.Reader
	Stock    bool      // laid out as by stock offline collectors, which have no hashes
	Record   Record    // as its writer says
	Info     []byte    // client_info.json: one object; nil: there is none
	Results  []Result  // in the order of the zip
	Problems []Problem // that the container tells itself, and files of it that are not understood

	logs, uploads string // members; empty: none
}

// Result is where the rows of one result lie.
type Result struct{ Name, Member string }

// Open opens a container, sealed or not, and checks it: all members are those of its
// manifest, with its sizes and hashes, under safe names. Of a stock one only the zip's
// own checksums can be, while it is read.
func Open(ctx context.Context, at io.ReaderAt, size int64, password string) (*Reader, error) {
	z, err := archive.Open(ctx, at, size, password, archive.Limits{})
	if err != nil {
		if errors.Is(err, archive.ErrUnsound) {
			err = fmt.Errorf("%w: %w", ErrUnsound, err)
		}
		return nil, err
	}
	r := &Reader{zip: z}
	if _, has := z.Size(ManifestName); !has {
		return r, r.openStock()
	}
	return r, r.openOwn(ctx)
}

func (r *Reader) openOwn(ctx context.Context) error {
	var m Manifest
	if err := r.document(ManifestName, &m); err != nil {
		return err
	}
	switch _, hunt := r.zip.Size("hunt.json"); {
	case hunt:
		return ErrHunt
	case m.Version != Version || m.Kind != manifestKind:
		return fmt.Errorf("kind %.40q, version %d: %w", m.Kind, m.Version, ErrUnsound)
	case m.Format == FormatCSVOnly:
		return ErrNoRows
	}
	if err := r.verify(ctx, &m); err != nil {
		return err
	}
	r.Problems = m.Problems
	return r.places(&m)
}

// verify holds every member to the manifest.
func (r *Reader) verify(ctx context.Context, m *Manifest) error {
	listed := make(map[string]bool, len(m.Members))
	for i := range m.Members {
		one := &m.Members[i]
		if listed[one.Path] || one.Path == ManifestName {
			return fmt.Errorf("%.200q is listed twice: %w", one.Path, ErrUnsound)
		}
		listed[one.Path] = true
		if err := r.hold(ctx, one); err != nil {
			return err
		}
	}
	for _, name := range r.zip.Names() {
		if name != ManifestName && !listed[name] {
			return fmt.Errorf("the manifest does not list %.200q: %w", name, ErrUnsound)
		}
	}
	return nil
}

func (r *Reader) hold(ctx context.Context, m *Member) error {
	in, err := r.File(m.Path)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	sum := sha256.New()
	n, err := io.Copy(sum, archive.WithContext(ctx, in))
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil:
		return fmt.Errorf("%w: %w", ErrUnsound, err)
	case n != m.Size || hex.EncodeToString(sum.Sum(nil)) != m.SHA256:
		return fmt.Errorf("%.200q is not as the manifest says: %w", m.Path, ErrUnsound)
	}
	return nil
}

// places finds what is where.
func (r *Reader) places(m *Manifest) error {
	results, record := map[string]bool{}, ""
	for i := range m.Members {
		switch one := &m.Members[i]; one.Kind {
		case KindRecord:
			record = one.Path
		case KindRows:
			if results[one.Result] {
				return fmt.Errorf("result %.100q is there twice: %w", one.Result, ErrUnsound)
			}
			results[one.Result] = true
			r.Results = append(r.Results, Result{one.Result, one.Path})
		case KindLogs:
			r.logs = one.Path
		case KindUploads:
			r.uploads = one.Path
		case KindClient:
			var err error
			if r.Info, err = r.object(one.Path); err != nil {
				return err
			}
		}
	}
	if record == "" {
		return fmt.Errorf("no record of what ran: %w", ErrUnsound)
	}
	return r.document(record, &r.Record)
}

// object reads a member that is one JSON object.
func (r *Reader) object(name string) ([]byte, error) {
	var text json.RawMessage
	if err := r.document(name, &text); err != nil {
		return nil, err
	}
	if !bytes.HasPrefix(text, []byte("{")) {
		return nil, fmt.Errorf("%s is no object: %w", name, ErrUnsound)
	}
	return text, nil
}

// document reads a small member.
func (r *Reader) document(name string, into any) error {
	in, err := r.File(name)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	data, err := io.ReadAll(io.LimitReader(in, maxDocument+1))
	if err == nil && len(data) > maxDocument {
		err = fmt.Errorf("more than %d bytes", maxDocument)
	}
	if err == nil {
		err = json.Unmarshal(data, into)
	}
	if err != nil {
		return fmt.Errorf("%.200s: %w: %w", name, ErrUnsound, err)
	}
	return nil
}

// File opens a member.
func (r *Reader) File(name string) (io.ReadCloser, error) {
	in, err := r.zip.Open(name)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUnsound, err)
	}
	return in, nil
}

// Size returns how long a member is; false if there is none.
func (r *Reader) Size(name string) (int64, bool) { return r.zip.Size(name) }

// Lines goes over the lines of a member without their ends; an empty one is passed
// over. What each is given is valid until it returns. The last line of a stock
// container may lack its end.
func (r *Reader) Lines(ctx context.Context, member string, each func([]byte) error) error {
	in, err := r.File(member)
	if err != nil {
		return err
	}
	defer in.Close() // only read
	lines := bufio.NewReaderSize(archive.WithContext(ctx, in), lineBuffer)
	for line := []byte(nil); ; {
		part, err := lines.ReadSlice('\n')
		line = append(line, part...)
		switch {
		case len(line) > maxLine:
			return fmt.Errorf("%.200s: a line of more than %d bytes: %w", member, maxLine, ErrUnsound)
		case errors.Is(err, bufio.ErrBufferFull):
			continue
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("%w: %w", ErrUnsound, err)
		}
		over := err != nil
		if text := bytes.TrimRight(line, "\r\n"); len(text) > 0 {
			if err := each(text); err != nil {
				return fmt.Errorf("%.200s: %w", member, err)
			}
		}
		if line = line[:0]; over {
			return nil
		}
	}
}

// Logs goes over the query log.
func (r *Reader) Logs(ctx context.Context, each func([]byte) error) error {
	if r.logs == "" {
		return nil
	}
	return r.Lines(ctx, r.logs, each)
}

// Uploads goes over the list of uploads.
func (r *Reader) Uploads(ctx context.Context, each func(*Upload) error) error {
	if r.uploads == "" {
		return nil
	}
	number := int64(-1)
	return r.Lines(ctx, r.uploads, func(line []byte) error {
		var u Upload
		var err error
		if number++; r.Stock {
			var listed bool
			if listed, err = r.stockUpload(line, &u); err == nil && !listed {
				number--
				return nil
			}
			u.Number = number
		} else {
			err = json.Unmarshal(line, &u)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUnsound, err)
		}
		return each(&u)
	})
}

// Index reads which runs of the file the stored bytes of a sparse upload are, as JSON.
func (r *Reader) Index(u *Upload) ([]byte, error) {
	in, err := r.File(u.Member + IndexEnding)
	if err != nil {
		return nil, err
	}
	defer in.Close() // only read
	data, err := io.ReadAll(io.LimitReader(in, maxIndex+1))
	if err == nil && len(data) > maxIndex {
		err = fmt.Errorf("more than %d bytes", maxIndex)
	}
	if err != nil {
		return nil, fmt.Errorf("%.200s: %w: %w", u.Member, ErrUnsound, err)
	}
	return data, nil
}
