package hunts

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/jsonrow"
)

// ClientLine is a line of clients.jsonl: a flow of the hunt, or a client that has
// none.
type ClientLine struct {
	ClientID    string `json:"ClientId"`
	FlowID      string `json:"FlowId,omitempty"`
	Hostname    string
	State       string
	Attempt     int
	Rows        int64
	Uploads     int64
	UploadBytes int64
	Logs        int64
	Conflicts   int64
	CPU         *int64     `json:"CpuNs,omitempty"` // left out: its agent told none
	Created     *time.Time `json:",omitempty"`
	Taken       *time.Time `json:",omitempty"`
	Ended       *time.Time `json:",omitempty"`
	Error       string
}

// clients writes who took part, and who waits or declined.
func (z *zipWriter) clients(ctx context.Context) error {
	table := jsonrow.NewCSV(jsonrow.NewColumns(clientColumns), z.manifest.Options.Bare)
	_, err := z.member(ZipMember{Path: clientsName, Kind: kindClients}, z.h.Created, func(w io.Writer) error {
		out := bufio.NewWriterSize(w, exportBuffer)
		err := z.eachClient(ctx, func(c *ClientLine) error {
			line, err := json.Marshal(c)
			if err != nil {
				return err
			}
			table.Row(line)
			_, err = out.Write(append(line, '\n'))
			return err
		})
		return errors.Join(err, out.Flush())
	})
	if err != nil {
		return err
	}
	_, err = z.member(ZipMember{Path: "clients.csv", Kind: kindTable}, z.h.Created, func(w io.Writer) error {
		_, err := w.Write(table.Out)
		return err
	})
	return err
}

var clientColumns = []string{
	"ClientId", "FlowId", "Hostname", "State", "Attempt", "Rows", "Uploads", "UploadBytes", "Logs", "Conflicts", "CpuNs", "Created", "Taken", "Ended", "Error",
}

func (z *zipWriter) eachClient(ctx context.Context, found func(*ClientLine) error) error {
	if z.r.o.Hunts.Imported(z.key) {
		return z.eachImported(ctx, found)
	}
	for f := range z.r.o.Flows.HuntFlows(z.key.Org, z.key.Hunt) {
		if _, known := z.r.o.Clients.Ordinal(z.key.Org, f.Client); !known {
			continue
		}
		if err := found(z.flowLine(f)); err != nil {
			return err
		}
	}
	for _, set := range []Set{PendingClients, DeclinedClients} {
		if err := z.eachWithout(ctx, set, found); err != nil {
			return err
		}
	}
	return nil
}

// eachImported goes over what an import noted of flows.
func (z *zipWriter) eachImported(ctx context.Context, found func(*ClientLine) error) error {
	s, _, err := z.r.pin(ctx, z.key, filestore.HuntFlows(z.key.Org, z.key.Hunt), importedFlows, nil, "")
	if err != nil {
		return err
	}
	_, err = s.Walk(ctx, 0, s.take, func(b filestore.Batch) (err error) {
		(&Filter{}).Each(b.Lines, func(_ int64, line []byte) bool {
			var c ClientLine
			if err = json.Unmarshal(line, &c); err == nil {
				err = found(&c)
			}
			return err == nil
		})
		return err
	})
	return err
}

// eachWithout goes over the clients of a set that have no flow.
func (z *zipWriter) eachWithout(ctx context.Context, set Set, found func(*ClientLine) error) error {
	for after, more := uint32(0), true; more; more = after > 0 {
		members, next, err := z.r.o.Hunts.Clients(z.key, set, after, maxLimit)
		if err != nil {
			return err
		}
		after = next
		for _, m := range members {
			if m.Client.IsZero() {
				continue // it was deleted
			}
			line := &ClientLine{ClientID: m.Client.String(), Hostname: z.hostname(m.Client), State: set.String(), Attempt: m.Attempt}
			if err := found(line); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	return nil
}

func (z *zipWriter) flowLine(f *flows.Flow) *ClientLine {
	attempt, _ := f.Flow.Attempt(z.key.Hunt)
	return &ClientLine{
		ClientID: f.Client.String(), FlowID: f.Flow.String(), Hostname: z.hostname(f.Client), State: string(f.State), Attempt: attempt,
		Rows: f.Rows(), Uploads: f.Uploads.Len(), UploadBytes: f.UploadBytes(), Logs: f.Totals.Logs, Conflicts: f.Conflicts(),
		CPU:     f.CPU.Nanoseconds(),
		Created: given(f.Created), Taken: given(f.Taken), Ended: given(f.Ended), Error: f.Error,
	}
}

func (z *zipWriter) hostname(c ids.Client) string {
	record, err := z.r.o.Clients.Lookup(z.key.Org, c)
	if err != nil {
		return ""
	}
	return record.Hostname
}
