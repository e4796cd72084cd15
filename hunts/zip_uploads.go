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

	indexEnding  = ".idx"
	maxIndexSize = 128 << 20

	// MaxExpanded bounds a sparse upload that a zip has with its holes, in bytes: a
	// client may claim terabytes of them.
	MaxExpanded = 64 << 30
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

// upload writes the stored bytes of one upload. What cannot be read is a problem, and
// the zip goes on.
func (z *zipWriter) upload(ctx context.Context, u *zipUpload) error {
	trouble := func(what string) {
		z.problem(ZipProblem{u.member, u.client.String(), u.flow.String(), fmt.Sprintf("upload %d: %s", u.Number, what)})
	}
	if u.member == "" {
		trouble("its line or its place on the filestore makes no sense")
		return nil
	}
	if u.Conflict {
		trouble("other bytes came for it before; these are the newest")
	}
	file, err := z.r.o.Store.OpenUpload(ctx, u.StoredPath)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		trouble(err.Error())
		return nil
	}
	err = z.stored(ctx, u, file, trouble)
	if closing := file.Close(ctx); closing != nil && ctx.Err() == nil {
		trouble("close: " + closing.Error())
	}
	return err
}

func (z *zipWriter) stored(ctx context.Context, u *zipUpload, file *filestore.UploadFile, trouble func(string)) error {
	at, err := time.Parse(time.RFC3339Nano, u.Finished)
	if err != nil {
		at = z.h.Created
	}
	in, kind := &archive.FaultReader{R: file.Stored(ctx)}, kindFile
	if u.Sparse && z.manifest.Options.Expand {
		if file.Size() > MaxExpanded {
			trouble(fmt.Sprintf("%d bytes with its holes are more than %d: it is as it is stored", file.Size(), int64(MaxExpanded)))
		} else {
			in, kind = &archive.FaultReader{R: file.Expanded(ctx)}, kindWhole
		}
	}
	m, err := z.member(ZipMember{Path: u.member, Kind: kind}, at, func(w io.Writer) error {
		_, err := io.CopyBuffer(w, in, make([]byte, exportBuffer))
		if in.Err != nil && ctx.Err() == nil {
			return nil // told below; the writer is fine
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case in.Err != nil:
		trouble(fmt.Sprintf("only %d of %d bytes can be read: %s", m.Size, u.StoredSize, in.Err.Error()))
	case kind == kindWhole:
		return nil
	case m.SHA256 != u.SHA256 || m.Size != u.StoredSize:
		trouble(fmt.Sprintf("%d bytes with SHA-256 %s, but %d with %s were stored", m.Size, m.SHA256, u.StoredSize, u.SHA256))
	}
	if !u.Sparse {
		return nil
	}
	index, err := z.r.o.Store.ReadFile(ctx, u.StoredPath+indexEnding, maxIndexSize)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		trouble("the index of its sparse runs: " + err.Error())
		return nil
	}
	_, err = z.member(ZipMember{Path: u.member + indexEnding, Kind: kindIndex}, at, func(w io.Writer) error {
		_, err := w.Write(index)
		return err
	})
	return err
}
