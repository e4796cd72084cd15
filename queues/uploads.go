package queues

import (
	"context"
	"errors"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/internal/retry"
)

// partBytes is how much text one batch of a flow's uploads holds.
const partBytes = 256 << 10

// looking is how patiently a list of uploads that does not read is tried again.
var looking = retry.Policy{Tries: 5, First: 50 * time.Millisecond, Cap: time.Second}

// upload is a row of System.Upload.Completion, behind client, time and flow.
type upload struct {
	Path         string `json:"VFSPath"` // as uploads() has it
	Name         string `json:"UploadName"`
	Accessor     string `json:"Accessor"`
	Size         int64  `json:"Size"`
	UploadedSize int64  `json:"UploadedSize"`
	SHA256       string `json:"sha256"`
}

// uploads are the rows of what a flow has uploaded, in parts. A list that does not read
// is told and passed over: what comes behind it must not wait for ever.
func (w *Writer) uploads(ctx context.Context, i *Item) []filestore.Append {
	var all []flows.Upload
	key := flows.Key{Org: i.Org, Client: i.Client, Flow: i.Flow}
	err := retry.Do(ctx, looking, func(err error) bool { return !errors.Is(err, flows.ErrNotFound) }, func() (err error) {
		all, err = w.o.Uploads(ctx, key)
		return err
	})
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, flows.ErrNotFound) {
			w.metrics.unread.Inc()
			w.log.Error("uploads of a flow are not told of, as they cannot be listed", "client", key.Client.String(), "flow", key.Flow.String(), "err", err)
		}
		return nil
	}
	var out []filestore.Append
	var text []byte
	rows := int64(0)
	cut := func() {
		if rows > 0 {
			out = append(out, i.append(text, rows, uint32(len(out))))
			text, rows = nil, 0
		}
	}
	for _, u := range all {
		text = i.appendHead(text)
		text = appendMembers(text, object(upload{u.StoredPath, u.Source, u.Accessor, u.Size, u.StoredSize, u.SHA256}))
		text = append(text, '}', '\n')
		if rows++; len(text) >= partBytes {
			cut()
		}
	}
	cut()
	return out
}
