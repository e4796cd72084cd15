package queues

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

const (
	// gather is how long rows wait for company: a commit costs some file operations,
	// however many rows it holds.
	gather = 250 * time.Millisecond

	maxBatch    = 2000    // rows of a commit
	maxRowBytes = 1 << 20 // a longer record is left out of its row
)

// committer makes rows durable, and then what is told of them: *filestore.Committer.
type committer interface {
	Submit(ctx context.Context, c *filestore.Commit) error
}

// WriterOptions wire a Writer. All but the last two are required.
type WriterOptions struct {
	Room      *Room
	Committer committer
	Flows     *flows.Room // whose followers are woken

	// AppendRecord adds the JSON object that a flow is shown as; nothing: there is none
	// any more.
	AppendRecord func(dst []byte, key flows.Key) []byte

	// Uploads lists what a flow has uploaded; flows.ErrNotFound: it is gone.
	Uploads func(context.Context, flows.Key) ([]flows.Upload, error)

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Writer stores what waits, while its node leads.
type Writer struct {
	o       WriterOptions
	log     *slog.Logger
	metrics *metrics
}

// NewWriter wires a Writer; Run starts it, once or again and again.
func NewWriter(o WriterOptions) *Writer {
	w := &Writer{o: o, log: o.Logger, metrics: newMetrics(o.Registerer, o.Room)}
	if w.log == nil {
		w.log = slog.Default()
	}
	return w
}

// Run stores what waits until ctx ends. What the leader before has stored, and the
// ledger does not know yet, is stored again: it is the same to readers.
func (w *Writer) Run(ctx context.Context) error {
	told, lost := place{}, int64(0)
	for {
		if _, n := w.o.Room.Waiting(); n > lost {
			lost = n
			w.log.Error("rows of internal queues are lost: too many wait to be written", "rows", n)
		}
		batch := w.o.Room.behind(told, maxBatch)
		if len(batch) == 0 {
			select {
			case <-ctx.Done():
				return nil
			case <-w.o.Room.changed:
			}
			if !retry.Sleep(ctx, gather) {
				return nil
			}
			continue
		}
		if err := w.store(ctx, batch); err != nil {
			return nil // ctx has ended: whoever leads next stores it
		}
		told = batch[len(batch)-1].place()
	}
}

// store makes a batch durable, and then the fact that it is, trying until ctx ends.
func (w *Writer) store(ctx context.Context, batch []*Item) error {
	fact, err := written(batch[len(batch)-1].place())
	if err != nil {
		return err
	}
	warned := false
	again := func(err error) bool {
		w.metrics.retries.Inc()
		if !warned && ctx.Err() == nil && !errors.Is(err, filestore.ErrBusy) {
			warned = true
			w.log.Warn("rows of internal queues cannot be stored yet", "rows", len(batch), "err", err)
		}
		return true
	}
	err = retry.Do(ctx, retry.Policy{Tries: -1, First: 50 * time.Millisecond, Cap: 5 * time.Second}, again, func() error {
		return w.o.Committer.Submit(ctx, w.commit(ctx, batch, fact))
	})
	if err != nil {
		return err
	}
	w.metrics.commits.Inc()
	w.metrics.rows.Add(float64(len(batch)))
	type name struct {
		org   ids.Org
		queue string
	}
	grown := map[name]bool{}
	for _, i := range batch {
		if key := (name{i.Org, i.Queue}); !grown[key] {
			grown[key] = true
			w.o.Flows.StoredEvents(i.Org, i.Queue)
		}
	}
	return nil
}

func (w *Writer) commit(ctx context.Context, batch []*Item, fact *buspb.Mutation) *filestore.Commit {
	c := &filestore.Commit{Class: filestore.Bulk, Facts: []*buspb.Mutation{fact}, Appends: make([]filestore.Append, 0, len(batch))}
	var text []byte // all rows, one behind the other
	for _, i := range batch {
		if i.Queue == UploadCompletion {
			c.Appends = append(c.Appends, w.uploads(ctx, i)...)
			continue
		}
		begin := len(text)
		text = w.appendLine(text, i)
		c.Appends = append(c.Appends, i.append(text[begin:len(text):len(text)], 1, 0))
	}
	return c
}

// append is a part of what is stored for an item.
func (i *Item) append(lines []byte, rows int64, part uint32) filestore.Append {
	client := i.Client
	if client.IsZero() {
		client = ids.Server
	}
	return filestore.Append{
		Set: filestore.Events(i.Org, i.Queue, i.at), Lines: lines,
		Extent: filestore.Extent{Client: client, Name: i.Queue, Rows: rows, Digest: i.digest(part)},
	}
}

// digest is what a part of an item is known by, whoever writes it.
func (i *Item) digest(part uint32) filestore.Digest {
	text := fmt.Appendf(nil, "queue\x00%s\x00%s\x00", i.Org, i.Queue)
	text = binary.BigEndian.AppendUint64(text, i.index)
	text = binary.BigEndian.AppendUint32(text, i.n)
	hash := sha256.Sum256(binary.BigEndian.AppendUint32(text, part))
	return filestore.Digest(hash[:16])
}

// appendLine adds a row as it is stored: the client and the entry's time in front, as
// in the rows that clients send.
func (w *Writer) appendLine(out []byte, i *Item) []byte {
	out = i.appendHead(out)
	switch {
	case i.Row != nil:
		out = appendMembers(out, i.Row)
	case !i.Flow.IsZero():
		out = w.appendRecord(append(out, `,"Flow":`...), i)
	}
	return append(out, '}', '\n')
}

// appendHead begins a row.
func (i *Item) appendHead(out []byte) []byte {
	out = append(out, '{')
	if !i.Client.IsZero() {
		out = append(append(append(out, `"ClientId":"`...), i.Client.String()...), `",`...)
	}
	at := i.at.Unix()
	out = strconv.AppendInt(append(out, `"_ts":`...), at, 10)
	out = strconv.AppendInt(append(out, `,"Timestamp":`...), at, 10)
	if !i.Flow.IsZero() {
		out = append(append(append(out, `,"FlowId":"`...), i.Flow.String()...), '"')
	}
	return out
}

// appendMembers adds those of a JSON object.
func appendMembers(out []byte, object json.RawMessage) []byte {
	if len(object) > len(`{}`) {
		out = append(append(out, ','), object[1:len(object)-1]...)
	}
	return out
}

func (w *Writer) appendRecord(out []byte, i *Item) []byte {
	begin := len(out)
	out = w.o.AppendRecord(out, flows.Key{Org: i.Org, Client: i.Client, Flow: i.Flow})
	switch size := len(out) - begin; {
	case size > maxRowBytes:
		w.metrics.large.Inc()
		out = out[:begin]
	case size > 0:
		return out
	}
	return append(out, "null"...)
}
