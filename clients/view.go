package clients

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"

	"raptorpack/ids"
)

// View implements replication.State. It keeps the blocks as they are: from now on
// Apply changes copies of them.
func (r *Room) View() io.WriterTo {
	r.mu.Lock()
	defer r.mu.Unlock()
	v := view{}
	for _, org := range r.kept() {
		o := orgView{org: org, server: r.server[org]}
		if t := r.orgs[org]; t != nil {
			t.view++
			o.blocks, o.n = slices.Clone(t.blocks), t.n
		}
		v = append(v, o)
	}
	return v
}

// kept lists the orgs of which anything is kept, sorted; the caller holds the lock.
func (r *Room) kept() []ids.Org {
	all := slices.AppendSeq(slices.Collect(maps.Keys(r.orgs)), maps.Keys(r.server))
	slices.SortFunc(all, compareOrgs)
	return slices.Compact(all)
}

type (
	view    []orgView
	orgView struct {
		org    ids.Org
		server metadata
		blocks []block
		n      uint32
	}
)

// WriteTo writes one JSON line per client, by org and ordinal, in each org behind
// what is kept of the server itself. A deleted client
// at the end leaves a line with its ordinal alone, so that it is not used again.
func (v view) WriteTo(w io.Writer) (int64, error) {
	out := &lineWriter{w: bufio.NewWriterSize(w, 1<<16)}
	for _, o := range v {
		if err := o.writeTo(out); err != nil {
			return out.written, err
		}
	}
	return out.written, out.w.Flush()
}

func (o *orgView) writeTo(out *lineWriter) error {
	if len(o.server) > 0 {
		raw, err := json.Marshal(o.server)
		if err != nil {
			return fmt.Errorf("write metadata of the server: %w", err)
		}
		out.scratch = fmt.Appendf(out.scratch[:0], `{"org":%q,"server_metadata":%s}`, o.org.String(), raw)
		if err := out.emit(); err != nil {
			return err
		}
	}
	for ordinal := range o.n {
		b, i := &o.blocks[ordinal/blockSize], ordinal%blockSize
		c := &b.cells[i]
		switch {
		case c.text != "":
			raw, err := appendLine(out.scratch[:0], o.org, ordinal, b.born[i], c, &b.keys[i])
			if err != nil {
				return fmt.Errorf("write client %s: %w", b.born[i].id.client(), err)
			}
			out.scratch = raw
		case ordinal == o.n-1:
			out.scratch = fmt.Appendf(out.scratch[:0], `{"org":%q,"ordinal":%d,"deleted":true}`, o.org.String(), ordinal)
		default:
			continue
		}
		if err := out.emit(); err != nil {
			return err
		}
	}
	return nil
}

// lineWriter writes the lines that are made in its scratch.
type lineWriter struct {
	w       *bufio.Writer
	scratch []byte
	written int64
}

func (l *lineWriter) emit() error {
	l.scratch = append(l.scratch, '\n')
	n, err := l.w.Write(l.scratch)
	l.written += int64(n)
	return err
}
