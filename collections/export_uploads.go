package collections

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"strings"
	"time"

	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/internal/archive"
)

// uploads writes the list of uploads and the bytes of each.
func (x *export) uploads(ctx context.Context) error {
	all, err := x.e.flows.Uploads(ctx, x.f.Key)
	if err != nil {
		return err
	}
	if err := x.uploadList(all); err != nil {
		return err
	}
	for i := range all {
		if err := x.upload(ctx, &all[i]); err != nil {
			return err
		}
	}
	return nil
}

func (x *export) uploadList(all []flows.Upload) error {
	m := container.Member{Path: container.UploadsName, Kind: container.KindUploads, Rows: int64(len(all))}
	_, err := x.zip.Member(m, x.f.Created, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, exportBuffer)
		enc := json.NewEncoder(out)
		for i := range all {
			if err := enc.Encode(x.line(&all[i])); err != nil {
				return err
			}
		}
		return out.Flush()
	})
	return err
}

func (x *export) line(u *flows.Upload) container.Upload {
	return container.Upload{
		Number: u.Number, Source: u.Source, Accessor: u.Accessor, Components: u.Components, Size: u.Size, StoredSize: u.StoredSize,
		SHA256: u.SHA256, Sparse: u.Sparse, Mode: u.Mode, MTime: u.MTime, ATime: u.ATime, CTime: u.CTime, BTime: u.BTime, Member: x.place(u),
	}
}

// place is where an upload stands in the zip: as it does in the folder of its flow,
// where names are escaped and unique.
func (x *export) place(u *flows.Upload) string {
	dir := filestore.FlowUploadsDir(x.f.Org, x.f.Client, x.f.Flow) + "/"
	if name, ok := strings.CutPrefix(u.StoredPath, dir); ok && archive.SafePath(name) {
		return container.UploadsDir + "/" + name
	}
	return ""
}

// upload writes the bytes of one upload. What cannot be read is a problem, and the zip
// goes on.
func (x *export) upload(ctx context.Context, u *flows.Upload) error {
	member := x.place(u)
	trouble := func(format string, args ...any) {
		x.zip.Problem(member, "upload %d: "+format, append([]any{u.Number}, args...)...)
	}
	if member == "" {
		trouble("its place on the filestore makes no sense")
		return nil
	}
	if u.Conflict {
		trouble("other bytes came for it before; these are the newest")
	}
	file, err := x.e.flows.OpenStored(ctx, u)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		trouble("%v", err)
		return nil
	}
	err = x.bytes(ctx, u, member, file, trouble)
	if closing := file.Close(context.WithoutCancel(ctx)); closing != nil {
		trouble("close: %v", closing)
	}
	return err
}

func (x *export) bytes(ctx context.Context, u *flows.Upload, member string, file *filestore.UploadFile, trouble func(string, ...any)) error {
	in, kind := &archive.FaultReader{R: file.Stored(ctx)}, container.KindFile
	if u.Sparse && x.o.Expand {
		if file.Size() > MaxExpanded {
			trouble("%d bytes with its holes are more than %d: it is as it is stored", file.Size(), int64(MaxExpanded))
		} else {
			in, kind = &archive.FaultReader{R: file.Expanded(ctx)}, container.KindWhole
		}
	}
	at, err := time.Parse(time.RFC3339Nano, u.Finished)
	if err != nil {
		at = x.f.Created
	}
	m, err := x.zip.Member(container.Member{Path: member, Kind: kind}, at, func(w io.Writer) error {
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
		trouble("only %d of %d bytes can be read: %v", m.Size, u.StoredSize, in.Err)
	case kind == container.KindFile && (m.SHA256 != u.SHA256 || m.Size != u.StoredSize):
		trouble("%d bytes with SHA-256 %s, but %d with %s were stored", m.Size, m.SHA256, u.StoredSize, u.SHA256)
	}
	if kind == container.KindWhole || !u.Sparse {
		return nil
	}
	return x.index(ctx, u, member, at, trouble)
}

// index writes which runs of the file the stored bytes of a sparse upload are.
func (x *export) index(ctx context.Context, u *flows.Upload, member string, at time.Time, trouble func(string, ...any)) error {
	index, err := x.e.flows.StoredIndex(ctx, u)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err != nil {
		trouble("the index of its sparse runs: %v", err)
		return nil
	}
	_, err = x.zip.Member(container.Member{Path: member + container.IndexEnding, Kind: container.KindIndex}, at, func(w io.Writer) error {
		_, err := w.Write(index)
		return err
	})
	return err
}
