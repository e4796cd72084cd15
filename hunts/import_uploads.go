package hunts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/internal/archive"
)

// uploadLine is a line of uploads.jsonl.
type uploadLine struct {
	flows.Upload
	ClientID string `json:"ClientId"`
	FlowID   string `json:"FlowId"`
	Member   string `json:"member"`
}

// uploads stores the uploads of a zip, and their list.
func (i *importer) uploads(ctx context.Context, m *ZipMember, key Key) error {
	file, err := i.archive.open(m.Path)
	if err != nil {
		return err
	}
	defer file.Close()
	sizes := make(map[string]*ZipMember)
	for at := range i.archive.manifest.Members {
		sizes[i.archive.manifest.Members[at].Path] = &i.archive.manifest.Members[at]
	}
	for lines := newLineReader(file); ; {
		line, err := lines.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		var u uploadLine
		if err == nil {
			err = json.Unmarshal(line, &u)
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrBadArchive, err)
		}
		if err := i.upload(ctx, &u, sizes[u.Member], key); err != nil {
			return fmt.Errorf("upload %d of %.60s: %w", u.Number, u.ClientID, err)
		}
	}
}

// upload stores one upload that the zip has whole.
func (i *importer) upload(ctx context.Context, u *uploadLine, m *ZipMember, key Key) error {
	e, err := i.extent(u.ClientID, u.FlowID, flows.UploadName)
	if err != nil {
		return err
	}
	if u.Number < 0 || u.Number >= filestore.MaxRow {
		return fmt.Errorf("number out of range: %w", ErrBadArchive)
	}
	if m == nil || m.Kind != archive.KindFile || m.Size != u.StoredSize || m.SHA256 != u.SHA256 {
		i.out.Skipped = append(i.out.Skipped, ZipProblem{u.Member, u.ClientID, u.FlowID, fmt.Sprintf("upload %d is not whole in the zip", u.Number)})
		return nil
	}
	end := filestore.UploadFinish{
		Key:      filestore.UploadKey{Org: key.Org, Client: e.Client, Flow: e.Flow, Number: u.Number},
		Accessor: u.Accessor, Components: u.Components, Size: u.Size, StoredSize: u.StoredSize, Whole: true,
	}
	if u.Sparse {
		if end.Index, err = i.ranges(m.Path); err != nil {
			return err
		}
	}
	if owner := (flows.Key{Org: key.Org, Client: e.Client, Flow: e.Flow}); len(i.out.Uploaded) == 0 || i.out.Uploaded[len(i.out.Uploaded)-1] != owner {
		i.out.Uploaded = append(i.out.Uploaded, owner)
	}
	if err := i.bytes(ctx, end.Key, m.Path); err != nil {
		return err
	}
	stored, err := i.target.Writer.FinishUpload(ctx, end)
	if err != nil {
		return err
	}
	if stored.SHA256 != u.SHA256 {
		return fmt.Errorf("is stored with SHA-256 %s: %w", stored.SHA256, filestore.ErrDamaged)
	}
	u.StoredPath = stored.Path
	return i.listed(ctx, u, e, key)
}

// listed puts the upload into the list of the hunt.
func (i *importer) listed(ctx context.Context, u *uploadLine, e filestore.Extent, key Key) error {
	line, err := uploadRow(&u.Upload, e.Client, e.Flow)
	if err != nil {
		return err
	}
	i.out.Uploads++
	e.FirstRow, e.Rows = u.Number, 1
	return i.put(ctx, uploadSet(key), e, line)
}

func (i *importer) bytes(ctx context.Context, key filestore.UploadKey, member string) error {
	file, err := i.archive.open(member)
	if err != nil {
		return err
	}
	defer file.Close()
	read, err := storeBytes(ctx, i.to, key, file)
	if read != nil {
		return fmt.Errorf("%w: %w", ErrBadArchive, read)
	}
	return err
}

// ranges reads the index of a sparse upload.
func (i *importer) ranges(member string) ([]filestore.Range, error) {
	data, err := i.archive.read(member+archive.IndexEnding, maxIndexSize)
	if err != nil {
		return nil, err
	}
	ranges, err := rangesOf(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %w", member+archive.IndexEnding, ErrBadArchive, err)
	}
	return ranges, nil
}
