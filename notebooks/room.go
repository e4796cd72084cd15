package notebooks

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "notebooks"

var (
	// ErrNotFound means that there is no such notebook, super timeline or child.
	// Trying again does not help.
	ErrNotFound = errors.New("no such timeline")

	// ErrInvalid means that a wish is not well formed. Trying again does not help.
	ErrInvalid = errors.New("invalid timeline")

	// ErrDeleted means that the notebook was deleted, or too much time went by, after
	// the rows were begun. Beginning anew helps.
	ErrDeleted = errors.New("the notebook was deleted meanwhile")

	// ErrFull means that the notebook or super timeline has as much as it may have.
	// Deleting some of it helps.
	ErrFull = errors.New("too many timelines")
)

const (
	// MaxTimelines bounds the super timelines of a notebook, MaxChildren the children
	// of one: a merge holds a piece of each in memory.
	MaxTimelines = 1000
	MaxChildren  = 100

	// keepDeleted is how long a deletion is remembered: rows that were begun before
	// it cannot be added then.
	keepDeleted = 48 * time.Hour

	maxBody = 1 << 20 // bytes of a mutation
)

// Key names a notebook.
type Key struct {
	Org      ids.Org
	Notebook ids.Notebook
}

func (k Key) compare(l Key) int {
	return cmp.Or(cmp.Compare(k.Org.String(), l.Org.String()), cmp.Compare(k.Notebook.String(), l.Notebook.String()))
}

// Timeline is a super timeline. It is immutable.
type Timeline struct {
	Name     string
	Children []Child // by name
}

// Child is a timeline that a super timeline is made of: rows sorted by time.
type Child struct {
	Name              string
	Key               string // the column that rows are sorted by
	MessageColumn     string
	DescriptionColumn string
	Folder            string // where the rows lie
	Rows              int64
	First, Last       time.Time // of the rows; zero if there are none
	By                string    // who added it
	At                time.Time
}

// Added tells that a child was added.
type Added struct {
	Key
	Index    uint64
	At       time.Time
	Timeline string
	Child    Child
}

// Options wire a Room.
type Options struct {
	// Added is told of each child that an entry adds, while that is applied; nil:
	// nobody is.
	Added func(Added)
}

// Room is the replicated state of notebooks. Safe for concurrent use.
type Room struct {
	o Options

	mu      sync.RWMutex
	books   map[Key][]*Timeline // by name
	deleted map[Key]deletion    // of the last keepDeleted
	unused  []Unused            // in the order in which they came to be
	last    uint64              // the newest entry that changed anything
	floor   uint64              // the newest deletion that is not remembered any more
}

// deletion is the newest of a notebook.
type deletion struct {
	index uint64
	at    time.Time
}

// Unused is what lies on the filestore and no timeline names any more.
type Unused struct {
	Key
	Timeline string
	Folder   string // empty: all of the notebook that was begun before Index
	Index    uint64 // of the entry that gave it up
}

// New makes an empty room.
func New(o Options) *Room {
	r := &Room{o: o}
	r.reset()
	return r
}

func (r *Room) reset() {
	r.books, r.deleted, r.unused, r.last, r.floor = map[Key][]*Timeline{}, map[Key]deletion{}, nil, 0, 0
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// Apply implements replication.State: the only writer.
func (r *Room) Apply(e *buspb.Entry) error {
	added, err := r.apply(e)
	if err != nil {
		return fmt.Errorf("apply notebooks: %w", err)
	}
	if added != nil && r.o.Added != nil {
		r.o.Added(*added)
	}
	return nil
}

func (r *Room) apply(e *buspb.Entry) (*Added, error) {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var change buspb.NotebookChange
	body := e.GetMutation().GetBody()
	if err := proto.Unmarshal(body, &change); err != nil || len(body) > maxBody {
		return nil, fmt.Errorf("change does not read: %w", ErrInvalid)
	}
	a := &applier{Room: r, org: org, index: e.GetIndex(), now: time.UnixMicro(e.GetTime()).UTC(), by: e.GetMutation().GetPrincipal()}
	r.mu.Lock()
	defer r.mu.Unlock()
	added, err := a.change(&change)
	if err != nil {
		return nil, err
	}
	r.forget(a.now)
	r.last = a.index
	return added, nil
}

// forget drops deletions that are long over; what was begun before the newest of them
// is refused from now on, whatever it is.
func (r *Room) forget(now time.Time) {
	for key, d := range r.deleted {
		if now.Sub(d.at) > keepDeleted {
			r.floor = max(r.floor, d.index)
			delete(r.deleted, key)
		}
	}
}

// Begun is what rows that are begun now have to carry (Files.Begin): the newest entry of
// this room.
func (r *Room) Begun() uint64 {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.last
}

// Timelines lists the super timelines of a notebook, by name. It must not be changed.
func (r *Room) Timelines(key Key) []*Timeline {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.books[key]
}

// Timeline returns one super timeline.
func (r *Room) Timeline(key Key, name string) (*Timeline, error) {
	all := r.Timelines(key)
	if at, there := find(all, name); there {
		return all[at], nil
	}
	return nil, fmt.Errorf("timeline %.100q of notebook %s: %w", name, key.Notebook, ErrNotFound)
}

// Unused lists what can be removed, oldest first.
func (r *Room) Unused() []Unused {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.Clone(r.unused)
}

func find(all []*Timeline, name string) (int, bool) {
	return slices.BinarySearchFunc(all, name, func(t *Timeline, name string) int { return cmp.Compare(t.Name, name) })
}

func (t *Timeline) find(name string) (int, bool) {
	return slices.BinarySearchFunc(t.Children, name, func(c Child, name string) int { return cmp.Compare(c.Name, name) })
}

var _ interface {
	Kind() string
	Apply(*buspb.Entry) error
	View() io.WriterTo
	Restore(io.Reader) error
} = (*Room)(nil)
