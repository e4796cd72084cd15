package notebooks

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// maxName bounds names of timelines and columns, in bytes.
const maxName = 250

// validFolder is a name that Files.Begin makes: "~", what Room.Begun said, and chance.
var validFolder = regexp.MustCompile(`^~(0|[1-9][0-9]{0,18})-[0-9a-f]{32}$`)

// begunOf reads from a folder's name what Room.Begun said when it was begun.
func begunOf(folder string) (uint64, bool) {
	if !validFolder.MatchString(folder) {
		return 0, false
	}
	n, err := strconv.ParseUint(folder[1:strings.IndexByte(folder, '-')], 10, 64)
	return n, err == nil
}

// CheckName returns an error that wraps ErrInvalid unless name may name a timeline: 1 to
// 250 bytes of printable text.
func CheckName(name string) error {
	if name == "" || len(name) > maxName || !utf8.ValidString(name) || strings.ContainsFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return fmt.Errorf("name %.100q of a timeline is not 1 to %d bytes of printable text: %w", name, maxName, ErrInvalid)
	}
	return nil
}

// applier is Apply at one entry, under the lock.
type applier struct {
	*Room
	org   ids.Org
	index uint64
	now   time.Time
	by    string
}

func (a *applier) change(change *buspb.NotebookChange) (*Added, error) {
	if c, ok := change.GetChange().(*buspb.NotebookChange_Swept); ok {
		return nil, a.swept(c.Swept)
	}
	id, err := ids.ParseNotebook(change.GetNotebook())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	key := Key{a.org, id}
	switch c := change.GetChange().(type) {
	case *buspb.NotebookChange_Add:
		return a.add(key, c.Add)
	case *buspb.NotebookChange_Remove:
		return nil, a.remove(key, c.Remove)
	case *buspb.NotebookChange_Delete:
		a.deleteAll(key)
		return nil, nil
	}
	return nil, fmt.Errorf("change of an unknown kind: %w", ErrInvalid)
}

// childOf checks what an entry adds.
func (a *applier) childOf(in *buspb.TimelineAdd) (Child, error) {
	c := Child{
		Name: in.GetName(), Key: in.GetKey(), MessageColumn: in.GetMessageColumn(), DescriptionColumn: in.GetDescriptionColumn(),
		Folder: in.GetFolder(), Rows: in.GetRows(), First: micros.Time(in.GetFirst()), Last: micros.Time(in.GetLast()), By: a.by, At: a.now,
	}
	if err := CheckName(in.GetTimeline()); err != nil {
		return c, err
	}
	if err := CheckName(c.Name); err != nil {
		return c, err
	}
	for _, column := range []string{c.Key, c.MessageColumn, c.DescriptionColumn} {
		if len(column) > maxName {
			return c, fmt.Errorf("column %.100q: %w", column, ErrInvalid)
		}
	}
	if c.Rows < 0 || c.Key == "" {
		return c, fmt.Errorf("%d rows by column %.100q: %w", c.Rows, c.Key, ErrInvalid)
	}
	return c, nil
}

// add takes a child in. The same a second time changes nothing.
func (a *applier) add(key Key, in *buspb.TimelineAdd) (*Added, error) {
	c, err := a.childOf(in)
	if err != nil {
		return nil, err
	}
	if err := a.fresh(key, c.Folder); err != nil {
		return nil, err
	}
	books := a.books[key]
	at, there := find(books, in.GetTimeline())
	t := &Timeline{Name: in.GetTimeline()}
	switch {
	case there:
		t.Children = slices.Clone(books[at].Children)
	case len(books) >= MaxTimelines:
		return nil, fmt.Errorf("notebook %s has %d timelines: %w", key.Notebook, len(books), ErrFull)
	}
	known, err := a.put(key, t, c)
	if known || err != nil {
		return nil, err
	}
	next := slices.Clone(books)
	if there {
		next[at] = t
	} else {
		next = slices.Insert(next, at, t)
	}
	a.books[key] = next
	return &Added{Key: key, Index: a.index, At: a.now, Timeline: t.Name, Child: c}, nil
}

// put sets a child of a timeline that nobody else sees yet, unless it is known.
func (a *applier) put(key Key, t *Timeline, c Child) (known bool, err error) {
	at, there := t.find(c.Name)
	switch {
	case there && t.Children[at].Folder == c.Folder:
		return true, nil
	case there:
		a.retire(key, t.Name, t.Children[at].Folder)
		t.Children[at] = c
		return false, nil
	case len(t.Children) >= MaxChildren:
		return false, fmt.Errorf("timeline %.100q has %d children: %w", t.Name, len(t.Children), ErrFull)
	}
	t.Children = slices.Insert(t.Children, at, c)
	return false, nil
}

// fresh refuses rows that were begun before the notebook was deleted: whoever leads
// removes them, or has done so.
func (a *applier) fresh(key Key, folder string) error {
	begun, ok := begunOf(folder)
	if !ok || begun >= a.index {
		return fmt.Errorf("rows in %.60q: %w", folder, ErrInvalid)
	}
	if begun < a.deleted[key].index || begun < a.floor || a.given(key, folder) {
		return fmt.Errorf("notebook %s: %w", key.Notebook, ErrDeleted)
	}
	return nil
}

// given tells whether a folder is to be removed.
func (a *applier) given(key Key, folder string) bool {
	return slices.ContainsFunc(a.unused, func(u Unused) bool { return u.Key == key && u.Folder == folder })
}

// retire gives up the rows of a child.
func (a *applier) retire(key Key, timeline, folder string) {
	a.unused = append(a.unused, Unused{key, timeline, folder, a.index})
}

func (a *applier) remove(key Key, in *buspb.TimelineDelete) error {
	books := a.books[key]
	at, there := find(books, in.GetTimeline())
	if !there {
		return fmt.Errorf("timeline %.100q of notebook %s: %w", in.GetTimeline(), key.Notebook, ErrNotFound)
	}
	t := &Timeline{Name: in.GetTimeline()}
	for _, c := range books[at].Children {
		if in.GetName() == "" || in.GetName() == c.Name {
			a.retire(key, t.Name, c.Folder)
			continue
		}
		t.Children = append(t.Children, c)
	}
	if len(t.Children) == len(books[at].Children) {
		return fmt.Errorf("timeline %.100q has no child %.100q: %w", t.Name, in.GetName(), ErrNotFound)
	}
	next := slices.Clone(books)
	if len(t.Children) > 0 {
		next[at] = t
	} else {
		next = slices.Delete(next, at, at+1)
	}
	if a.books[key] = next; len(next) == 0 {
		delete(a.books, key)
	}
	return nil
}

// deleteAll gives up a notebook, and what was begun for it and never added. One that is
// not known may have such rows, so it is deleted like any other.
func (a *applier) deleteAll(key Key) {
	delete(a.books, key)
	a.deleted[key] = deletion{a.index, a.now}
	a.unused = slices.DeleteFunc(slices.Clone(a.unused), func(u Unused) bool { return u.Key == key }) // all of it goes now
	a.unused = append(a.unused, Unused{Key: key, Index: a.index})
}

func (a *applier) swept(in *buspb.NotebookSwept) error {
	gone := map[Unused]bool{}
	for _, f := range in.GetFolders() {
		id, err := ids.ParseNotebook(f.GetNotebook())
		if err != nil {
			return fmt.Errorf("%w: %w", ErrInvalid, err)
		}
		gone[Unused{Key{a.org, id}, f.GetTimeline(), f.GetFolder(), f.GetIndex()}] = true
	}
	a.unused = slices.DeleteFunc(slices.Clone(a.unused), func(u Unused) bool { return gone[u] })
	return nil
}
