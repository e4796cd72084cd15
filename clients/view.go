package clients

import (
	"bufio"
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
	for _, org := range slices.SortedFunc(maps.Keys(r.orgs), compareOrgs) {
		t := r.orgs[org]
		t.view++
		v = append(v, orgView{org, slices.Clone(t.blocks), t.n})
	}
	return v
}

type (
	view    []orgView
	orgView struct {
		org    ids.Org
		blocks []block
		n      uint32
	}
)

// WriteTo writes one JSON line per client, by org and ordinal. A deleted client
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
