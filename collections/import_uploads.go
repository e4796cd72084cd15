package collections

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
)

// Bounds of what a container may say of an upload.
const (
	maxComponents    = 256
	maxComponentText = 16 << 10
	maxAccessor      = 100
)

// upload stores one upload that the container has whole.
func (a *arriving) upload(ctx context.Context, u *container.Upload) error {
	if err := checkUpload(u); err != nil {
		return err
	}
	size, has := a.from.Size(u.Member)
	if u.Member == "" || !has || u.Error != "" || !a.from.Stock && size != u.StoredSize {
		why := u.Error
		if why == "" {
			why = "it is not in the zip as it was stored"
		}
		a.out.Skipped = append(a.out.Skipped, container.Problem{Path: u.Member, Problem: fmt.Sprintf("upload %d, %.200s: %.200s", u.Number, u.Source, why)})
		return nil
	}
	key := a.out.Arrival.Key
	end := filestore.UploadFinish{
		Key:      filestore.UploadKey{Org: key.Org, Client: key.Client, Flow: key.Flow, Number: u.Number},
		Accessor: u.Accessor, Components: u.Components, Size: u.Size, StoredSize: size, Whole: true,
	}
	if u.Sparse {
		var err error
		if end.Index, err = a.ranges(u); err != nil {
			return err
		}
		end.Size = u.Size
	} else {
		end.Size = size
	}
	stored, err := a.bytes(ctx, u, end)
	if err != nil {
		return fmt.Errorf("upload %d: %w", u.Number, err)
	}
	a.out.Arrival.Uploads = append(a.out.Arrival.Uploads, flows.UploadSize{Number: u.Number, Bytes: stored.StoredSize})
	return a.listed(ctx, u, stored)
}

func checkUpload(u *container.Upload) error {
	total := 0
	for _, c := range u.Components {
		total += len(c)
	}
	if u.Number < 0 || u.Number >= filestore.MaxRow || len(u.Components) > maxComponents || total > maxComponentText ||
		len(u.Accessor) > maxAccessor || len(u.Source) > maxComponentText || u.Size < 0 {
		return fmt.Errorf("upload %d makes no sense: %w", u.Number, container.ErrUnsound)
	}
	if u.Accessor == "" {
		u.Accessor = "auto"
	}
	return nil
}

func (a *arriving) bytes(ctx context.Context, u *container.Upload, end filestore.UploadFinish) (*filestore.StoredUpload, error) {
	in, err := a.from.File(u.Member)
	if err != nil {
		return nil, err
	}
	defer in.Close() // only read
	err = copyUpload(in, func(offset int64, piece []byte) error {
		write := filestore.UploadWrite{Key: end.Key, Offset: offset, Data: piece}
		return a.writer.Submit(ctx, &filestore.Commit{Uploads: []filestore.UploadWrite{write}})
	})
	if err != nil {
		return nil, err
	}
	stored, err := a.writer.FinishUpload(ctx, end)
	if err != nil {
		return nil, err
	}
	if u.SHA256 != "" && stored.SHA256 != u.SHA256 {
		return nil, fmt.Errorf("its SHA-256 is %s, not %.64s: %w", stored.SHA256, u.SHA256, container.ErrUnsound)
	}
	return stored, nil
}

// listed puts an upload into the list of the flow.
func (a *arriving) listed(ctx context.Context, u *container.Upload, stored *filestore.StoredUpload) error {
	line, err := json.Marshal(flows.Upload{
		Number: u.Number, Source: u.Source, Accessor: u.Accessor, Components: u.Components, Size: stored.Size, StoredSize: stored.StoredSize,
		SHA256: stored.SHA256, StoredPath: stored.Path, Sparse: stored.Sparse, Mode: u.Mode, MTime: u.MTime, ATime: u.ATime, CTime: u.CTime, BTime: u.BTime,
		Finished: time.Now().UTC().Format(time.RFC3339Nano),
	})
	if err != nil {
		return err
	}
	key := a.out.Arrival.Key
	return a.add(ctx, filestore.Append{
		Set: flows.UploadSet(key), Lines: append(line, '\n'),
		Extent: filestore.Extent{Client: key.Client, Flow: key.Flow, Name: flows.UploadName, FirstRow: u.Number, Rows: 1},
	})
}

// ranges reads the index of a sparse upload.
func (a *arriving) ranges(u *container.Upload) ([]filestore.Range, error) {
	data, err := a.from.Index(u)
	if err != nil {
		return nil, err
	}
	var index struct {
		Ranges []anyRange `json:"ranges"`
	}
	if err := json.Unmarshal(data, &index); err != nil {
		return nil, fmt.Errorf("index of upload %d: %w: %w", u.Number, container.ErrUnsound, err)
	}
	out := make([]filestore.Range, len(index.Ranges))
	for i, r := range index.Ranges {
		out[i] = filestore.Range{
			FileOffset: r.FileOffset + r.FileAt, OriginalOffset: r.OriginalOffset + r.At, FileLength: r.FileLength + r.Stored, Length: r.Length,
		}
		u.Size = max(u.Size, out[i].OriginalOffset+out[i].Length)
	}
	return out, nil
}

// anyRange is a run by the names that the filestore gives its parts, or by those of
// collectors. Only one of each two is there.
type anyRange struct {
	FileOffset, OriginalOffset, FileLength, Length int64

	FileAt int64 `json:"file_offset"`
	At     int64 `json:"original_offset"`
	Stored int64 `json:"file_length"`
}
