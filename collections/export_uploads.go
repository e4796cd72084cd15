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

// upload writes the bytes of one upload.
func (x *export) upload(ctx context.Context, u *flows.Upload) error {
	at, err := time.Parse(time.RFC3339Nano, u.Finished)
	if err != nil {
		at = x.f.Created
	}
	stored := &archive.Upload{
		Member: x.place(u), At: at, Size: u.StoredSize, SHA256: u.SHA256, Sparse: u.Sparse, Expand: x.o.Expand, Conflict: u.Conflict,
		Open:  func(ctx context.Context) (archive.Stored, error) { return x.e.flows.OpenStored(ctx, u) },
		Index: func(ctx context.Context) ([]byte, error) { return x.e.flows.StoredIndex(ctx, u) },
	}
	return stored.Write(ctx, archive.UploadSink{
		Member: func(name, kind string, at time.Time, write func(io.Writer) error) (archive.Sum, error) {
			m, err := x.zip.Member(container.Member{Path: name, Kind: kind}, at, write)
			if err != nil {
				return archive.Sum{}, err
			}
			return archive.Sum{Size: m.Size, SHA256: m.SHA256}, nil
		},
		Trouble: func(format string, args ...any) {
			x.zip.Problem(stored.Member, "upload %d: "+format, append([]any{u.Number}, args...)...)
		},
	})
}
