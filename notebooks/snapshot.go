package notebooks

import (
	"bufio"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/internal/micros"
)

// ErrSnapshot means that a snapshot of this room does not read.
var ErrSnapshot = errors.New("snapshot of notebooks is damaged")

// maxLine bounds a line of the snapshot file: six texts, escaped.
const maxLine = 1 << 16

// line is a child, a deletion that is remembered, or something unused, in the snapshot
// file; or, once and in front, where the room stands.
type line struct {
	Org      string     `json:"org,omitempty"`
	Notebook string     `json:"notebook,omitempty"`
	Timeline string     `json:"timeline,omitempty"`
	Child    *childLine `json:"child,omitempty"`
	Folder   string     `json:"folder,omitempty"`

	Deleted uint64 `json:"deleted,omitempty"` // the entry
	At      int64  `json:"deleted_us,omitempty"`
	Unused  uint64 `json:"unused,omitempty"` // the entry

	Last  uint64 `json:"last,omitempty"`
	Floor uint64 `json:"floor,omitempty"`
}

type childLine struct {
	Name              string `json:"name"`
	Key               string `json:"key"`
	MessageColumn     string `json:"message_column,omitempty"`
	DescriptionColumn string `json:"ts_desc_column,omitempty"`
	Folder            string `json:"folder"`
	Rows              int64  `json:"rows"`
	First             int64  `json:"first_us,omitempty"`
	Last              int64  `json:"last_us,omitempty"`
	By                string `json:"by,omitempty"`
	At                int64  `json:"added_us"`
}

func childLineOf(c *Child) *childLine {
	return &childLine{
		c.Name, c.Key, c.MessageColumn, c.DescriptionColumn, c.Folder, c.Rows, micros.Of(c.First), micros.Of(c.Last), c.By, micros.Of(c.At),
	}
}

func (l *childLine) child() Child {
	return Child{
		l.Name, l.Key, l.MessageColumn, l.DescriptionColumn, l.Folder, l.Rows, micros.Time(l.First), micros.Time(l.Last), l.By, micros.Time(l.At),
	}
}

// view is the state between two entries: what it holds never changes.
type view struct {
	last, floor uint64
	books       map[Key][]*Timeline
	deleted     map[Key]deletion
	unused      []Unused
}

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return &view{r.last, r.floor, maps.Clone(r.books), maps.Clone(r.deleted), slices.Clone(r.unused)}
}

// WriteTo writes where the room stands, children by org, notebook, timeline and name,
// deletions by org and notebook, then what is unused, in its order.
func (v *view) WriteTo(w io.Writer) (int64, error) {
	return jsonlines.Write(w, func(yield func(line) bool) {
		if v.last > 0 && !yield(line{Last: v.last, Floor: v.floor}) {
			return
		}
		for _, key := range slices.SortedFunc(maps.Keys(v.books), Key.compare) {
			for _, t := range v.books[key] {
				for i := range t.Children {
					if !yield(line{Org: key.Org.String(), Notebook: key.Notebook.String(), Timeline: t.Name, Child: childLineOf(&t.Children[i])}) {
						return
					}
				}
			}
		}
		for _, key := range slices.SortedFunc(maps.Keys(v.deleted), Key.compare) {
			d := v.deleted[key]
			if !yield(line{Org: key.Org.String(), Notebook: key.Notebook.String(), Deleted: d.index, At: micros.Of(d.at)}) {
				return
			}
		}
		for _, u := range v.unused {
			if !yield(line{Org: u.Org.String(), Notebook: u.Notebook.String(), Timeline: u.Timeline, Folder: u.Folder, Unused: u.Index}) {
				return
			}
		}
	})
}

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := New(r.o)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, maxLine)
	for n := 1; lines.Scan(); n++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			// A line may be cut because reading on failed.
			return fmt.Errorf("restore notebooks: line %d: %w: %w", n, ErrSnapshot, cmp.Or(lines.Err(), err))
		}
		if err := fresh.take(&l); err != nil {
			return fmt.Errorf("restore notebooks: line %d: %w: %w", n, ErrSnapshot, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("restore notebooks: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.books, r.deleted, r.unused, r.last, r.floor = fresh.books, fresh.deleted, fresh.unused, fresh.last, fresh.floor
	return nil
}

// take adds a line to a room that nobody else sees yet.
func (r *Room) take(l *line) error {
	if l.Notebook == "" {
		r.last, r.floor = l.Last, l.Floor
		return nil
	}
	org, err := ids.ParseOrg(l.Org)
	if err != nil {
		return err
	}
	id, err := ids.ParseNotebook(l.Notebook)
	if err != nil {
		return err
	}
	key := Key{org, id}
	switch {
	case l.Child != nil:
		return r.takeChild(key, l.Timeline, l.Child.child())
	case l.Deleted > 0:
		r.deleted[key] = deletion{l.Deleted, micros.Time(l.At)}
	case l.Unused > 0 && (l.Folder == "" || validFolder.MatchString(l.Folder)):
		r.unused = append(r.unused, Unused{key, l.Timeline, l.Folder, l.Unused})
	default:
		return fmt.Errorf("it says nothing of notebook %s: %w", id, ErrInvalid)
	}
	return nil
}

// takeChild adds a child; they come in their order.
func (r *Room) takeChild(key Key, timeline string, c Child) error {
	if err := cmp.Or(CheckName(timeline), CheckName(c.Name)); err != nil {
		return err
	}
	if !validFolder.MatchString(c.Folder) || c.Rows < 0 {
		return fmt.Errorf("%d rows in %.60q: %w", c.Rows, c.Folder, ErrInvalid)
	}
	all := r.books[key]
	if n := len(all); n == 0 || all[n-1].Name < timeline {
		all = append(all, &Timeline{Name: timeline})
	}
	t := all[len(all)-1]
	if n := len(t.Children); t.Name != timeline || n > 0 && t.Children[n-1].Name >= c.Name {
		return fmt.Errorf("child %.100q of %.100q is out of order: %w", c.Name, timeline, ErrInvalid)
	}
	t.Children = append(t.Children, c)
	r.books[key] = all
	return nil
}
