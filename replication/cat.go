package replication

import (
	"bufio"
	"context"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// catLine is one entry as people and jq read it.
type catLine struct {
	Index       uint64          `json:"index"`
	Epoch       uint64          `json:"epoch"`
	Time        time.Time       `json:"time"`
	Incarnation string          `json:"incarnation,omitempty"`
	Stream      string          `json:"stream,omitempty"`
	Seq         uint64          `json:"seq,omitempty"`
	Kind        string          `json:"kind"`
	Org         string          `json:"org,omitempty"`
	Principal   string          `json:"principal,omitempty"`
	RequestID   string          `json:"request_id,omitempty"`
	Blob        string          `json:"blob,omitempty"` // hash; the body follows all the same
	Body        json.RawMessage `json:"body,omitempty"`
	Bytes       []byte          `json:"bytes,omitempty"` // the body, if its message is not known
	Chain       string          `json:"chain"`           // after this entry
}

// Cat writes what is left of the ledger as JSON lines, up to the seals and to
// the valid end of the newest epoch. bodies, which may be nil, says which
// message a kind's body is; a body of another kind, or one that does not
// parse, is printed as base64. It stops at the first break with Verify's
// errors, after the lines before it.
func Cat(ctx context.Context, store *filestore.Store, w io.Writer, bodies map[string]proto.Message) error {
	known := map[string]proto.Message{kindEpoch: &buspb.EpochStart{}, kindRetire: &buspb.OriginsRetired{}, kindLevel: &buspb.LedgerLevel{}}
	for kind, m := range bodies {
		known[kind] = m
	}
	large := newBlobs(Options{Store: store, MaxBodyBytes: maxFileBytes})
	out := bufio.NewWriterSize(w, 64<<10)
	encode := json.NewEncoder(out)
	encode.SetEscapeHTML(false)
	_, err := eachEntry(ctx, store, nil, func(ctx context.Context, e *buspb.Entry, at place) error {
		whole, err := large.whole(ctx, e.Mutation)
		if err != nil {
			return fmt.Errorf("entry %d: %w", e.Index, err)
		}
		return encode.Encode(lineOf(e, whole, at, known))
	})
	if flushed := out.Flush(); err == nil {
		err = flushed
	}
	if err != nil {
		return fmt.Errorf("print ledger: %w", err)
	}
	return nil
}

func lineOf(e *buspb.Entry, whole *buspb.Mutation, at place, known map[string]proto.Message) catLine {
	l := catLine{
		Index: e.Index, Epoch: e.Epoch, Time: time.UnixMicro(e.Time).UTC(),
		Kind: whole.Kind, Org: whole.Org, Principal: whole.Principal, RequestID: whole.RequestId,
		Blob: hex.EncodeToString(e.Mutation.Blob), Chain: hex.EncodeToString(at.chain[:]),
	}
	if e.Origin != nil {
		l.Incarnation, l.Stream, l.Seq = e.Origin.Incarnation, e.Origin.Stream.String(), e.Origin.Seq
	}
	if l.Body = bodyOf(whole, known); l.Body == nil {
		l.Bytes = whole.Body
	}
	return l
}

// bodyOf is the body as JSON, nil if its message is not known.
func bodyOf(m *buspb.Mutation, known map[string]proto.Message) json.RawMessage {
	example := known[m.Kind]
	if example == nil {
		return nil
	}
	body := example.ProtoReflect().New().Interface()
	if err := proto.Unmarshal(m.Body, body); err != nil {
		return nil
	}
	text, err := protojson.Marshal(body)
	if err != nil {
		return nil
	}
	return text
}
