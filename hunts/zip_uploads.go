package hunts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/archive"
)

const (
	// aboutUploads is the name of the extents that tell what clients said of files
	// before they sent them.
	aboutUploads = flows.UploadName + ".about"

	maxIndexSize = 128 << 20
)

// uploads writes the list of uploads, what clients said of them before, and the stored
// bytes of each, under its client, flow, accessor and path.
func (z *zipWriter) uploads(ctx context.Context) error {
	set := uploadSet(z.key)
	if _, err := z.lines(ctx, aboutUploads, kindAbout, set, aboutUploads, nil); err != nil {
		return err
	}
	s, _, err := z.r.pin(ctx, z.key, set, flows.UploadName, nil, "")
	if err != nil {
		return err
	}
	if err := z.uploadList(ctx, s); err != nil {
		return err
	}
	return z.eachUpload(ctx, s, func(u *zipUpload, _ []byte) error { return z.upload(ctx, u) })
}

// zipUpload is an upload on its way into the zip.
type zipUpload struct {
	flows.Upload
	client ids.Client
	flow   ids.Flow
	member string // empty: it cannot be written
}

// eachUpload goes over the lines of the list of uploads.
func (z *zipWriter) eachUpload(ctx context.Context, s *selection, found func(*zipUpload, []byte) error) error {
	_, err := s.Walk(ctx, 0, s.take, func(b filestore.Batch) (err error) {
		if !z.r.showsNow(z.key, s, b.Stream) {
			return nil
		}
		stream, _ := s.Stream(b.Stream)
		u := &zipUpload{client: stream.Client, flow: stream.Flow}
		(&Filter{}).Each(b.Lines, func(_ int64, line []byte) bool {
			u.Upload, u.member = flows.Upload{}, ""
			if json.Unmarshal(line, &u.Upload) == nil {
				u.member = z.place(u)
			}
			err = found(u, line)
			return err == nil
		})
		return err
	})
	return err
}

// place is where an upload stands in the zip: as it does in the folder of its flow,
// where names are escaped and unique.
func (z *zipWriter) place(u *zipUpload) string {
	dir := filestore.FlowUploadsDir(z.key.Org, u.client, u.flow) + "/"
	if name, ok := strings.CutPrefix(u.StoredPath, dir); ok && archive.SafePath(name) {
		return "uploads/" + u.client.String() + "/" + u.flow.String() + "/" + name
	}
	return ""
}

// uploadList writes uploads.jsonl: the stored lines, and where the bytes are.
func (z *zipWriter) uploadList(ctx context.Context, s *selection) error {
	var rows int64
	m, err := z.member(ZipMember{Path: uploadsName, Kind: kindUploads}, z.h.Created, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, exportBuffer)
		err := z.eachUpload(ctx, s, func(u *zipUpload, line []byte) error {
			rows++
			member, err := json.Marshal(u.member)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(out, "%s,\"member\":%s}\n", line[:len(line)-1], member)
			return err
		})
		return errors.Join(err, out.Flush())
	})
	if err != nil {
		return err
	}
	faults := s.faults()
	m.Report = &ExportReport{Rows: rows, Bytes: m.Size, Faults: faults}
	z.manifest.Problems = append(z.manifest.Problems, faults.problems(m.Path)...)
	return nil
}

// upload writes the stored bytes of one upload.
func (z *zipWriter) upload(ctx context.Context, u *zipUpload) error {
	at, err := time.Parse(time.RFC3339Nano, u.Finished)
	if err != nil {
		at = z.h.Created
	}
	store := z.r.o.Store
	stored := &archive.Upload{
		Member: u.member, At: at, Size: u.StoredSize, SHA256: u.SHA256, Sparse: u.Sparse, Expand: z.manifest.Options.Expand, Conflict: u.Conflict,
		Open: func(ctx context.Context) (archive.Stored, error) { return store.OpenUpload(ctx, u.StoredPath) },
		Index: func(ctx context.Context) ([]byte, error) {
			return store.ReadFile(ctx, u.StoredPath+archive.IndexEnding, maxIndexSize)
		},
	}
	return stored.Write(ctx, archive.UploadSink{
		Member: func(name, kind string, at time.Time, write func(io.Writer) error) (archive.Sum, error) {
			m, err := z.member(ZipMember{Path: name, Kind: kind}, at, write)
			if err != nil {
				return archive.Sum{}, err
			}
			return archive.Sum{Size: m.Size, SHA256: m.SHA256}, nil
		},
		Trouble: func(format string, args ...any) {
			what := fmt.Sprintf("upload %d: "+format, append([]any{u.Number}, args...)...)
			z.problem(ZipProblem{u.member, u.client.String(), u.flow.String(), what})
		},
	})
}
