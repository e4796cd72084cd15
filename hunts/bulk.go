package hunts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

const (
	bulkBytes = 8 << 20 // of a commit: as much as the bulk lane does not wait with
	bulkParts = 500

	// uploadPiece is how much of an upload is written at once.
	uploadPiece = 4 << 20
)

// bulk gathers rows that somebody brings into a hunt's files.
type bulk struct {
	to     importWriter
	commit filestore.Commit // not submitted yet
	size   int
}

// put adds lines to what is submitted next. They must not be changed any more.
func (b *bulk) put(ctx context.Context, set filestore.Set, e filestore.Extent, lines []byte) error {
	b.commit.Appends = append(b.commit.Appends, filestore.Append{Set: set, Extent: e, Lines: lines})
	if b.size += len(lines); b.size < bulkBytes && len(b.commit.Appends) < bulkParts {
		return nil
	}
	return b.flush(ctx)
}

func (b *bulk) flush(ctx context.Context) error {
	if len(b.commit.Appends) == 0 {
		return nil
	}
	b.commit.Class = filestore.Bulk
	err := b.to.Submit(ctx, &b.commit)
	b.commit, b.size = filestore.Commit{}, 0
	return err
}

// storeBytes writes what from has as the bytes of an upload, and tells of reading and
// of writing why it could not.
func storeBytes(ctx context.Context, to importWriter, key filestore.UploadKey, from io.Reader) (read, write error) {
	piece := make([]byte, uploadPiece)
	for offset := int64(0); ; {
		n, err := io.ReadFull(from, piece)
		if n > 0 {
			some := filestore.UploadWrite{Key: key, Offset: offset, Data: piece[:n]}
			if err := to.Submit(ctx, &filestore.Commit{Uploads: []filestore.UploadWrite{some}}); err != nil {
				return nil, err
			}
			offset += int64(n)
		}
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil, nil
		case err != nil:
			return err, nil
		}
	}
}

// uploadRow is the line of an upload in a hunt's list.
func uploadRow(u *flows.Upload, client ids.Client, flow ids.Flow) ([]byte, error) {
	text, err := json.Marshal(u)
	if err != nil {
		return nil, err
	}
	return fmt.Appendf(nil, "{\"ClientId\":%q,\"FlowId\":%q,%s\n", client, flow, text[1:]), nil
}

// rangesOf reads the index of a sparse upload.
func rangesOf(data []byte) ([]filestore.Range, error) {
	var index struct {
		Ranges []filestore.Range `json:"ranges"`
	}
	err := json.Unmarshal(data, &index)
	return index.Ranges, err
}
