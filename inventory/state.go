package inventory

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "tools"

// KeepReplaced is how long a file that a newer one replaced is still served: for
// tasks that name it and wait for their clients.
const KeepReplaced = 7 * 24 * time.Hour

const (
	maxError = 1000         // bytes of a failure's text in the state
	maxBody  = 4 * maxText  // bytes of a mutation
	maxLine  = 32 * maxText // bytes of a line in the snapshot file: three definitions, escaped
)

// validPath is the name of a file in the public folder: nobody guesses it.
var validPath = regexp.MustCompile(`^[0-9a-f]{32}$`)

// Options wire a Room.
type Options struct {
	// Declared lists the tools that the artifacts of an org define, in the order
	// in which they became known.
	Declared func(ids.Org) []artifacts.DeclaredTool
}

// Room is the replicated part of the inventory. Safe for concurrent use.
type Room struct {
	o Options

	mu      sync.RWMutex
	records map[Key]*record
	unused  map[string]unused // by path
	changed chan struct{}     // closed at the next change
}

// record is what the ledger says of a tool. Records are immutable.
type record struct {
	Definition *artifacts.Tool // an operator's; nil: those of artifacts count
	Setter     string
	Set        time.Time
	File       *File
	Want       *want
	Failure    *Failure
}

// want is a fetch that was asked for and has not ended.
type want struct {
	Index      uint64 // of the entry
	Definition artifacts.Tool
	Setter     string
}

// unused is a file that no tool names any more.
type unused struct {
	Org    ids.Org
	File   *File
	At     time.Time
	Served bool // until KeepReplaced is over: it was replaced, not deleted
}

// New makes an empty room.
func New(o Options) *Room {
	r := &Room{o: o, changed: make(chan struct{})}
	r.reset()
	return r
}

func (r *Room) reset() {
	r.records, r.unused = map[Key]*record{}, map[string]unused{}
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// Apply implements replication.State: the only writer.
func (r *Room) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply tools: %w: %w", ErrInvalid, err)
	}
	var change buspb.ToolChange
	body := e.GetMutation().GetBody()
	if err := proto.Unmarshal(body, &change); err != nil || len(body) > maxBody {
		return fmt.Errorf("apply tools: %w", ErrInvalid)
	}
	a := &applier{Room: r, org: org, index: e.GetIndex(), now: time.UnixMicro(e.GetTime()).UTC()}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := a.change(&change); err != nil {
		return err
	}
	r.tell()
	return nil
}

// tell wakes those who wait for a change; mu is held.
func (r *Room) tell() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// Changed is closed when the state is another one than now.
func (r *Room) Changed() <-chan struct{} {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.changed
}

// applier is Apply at one entry, under the lock.
type applier struct {
	*Room
	org   ids.Org
	index uint64
	now   time.Time
}

func (a *applier) change(change *buspb.ToolChange) error {
	switch c := change.GetChange().(type) {
	case *buspb.ToolChange_Set:
		return a.set(c.Set)
	case *buspb.ToolChange_Delete:
		return a.remove(c.Delete)
	case *buspb.ToolChange_Stored:
		return a.stored(c.Stored)
	case *buspb.ToolChange_Want:
		return a.want(c.Want)
	case *buspb.ToolChange_Failed:
		return a.failed(c.Failed)
	case *buspb.ToolChange_Swept:
		for _, path := range c.Swept.GetPaths() {
			delete(a.unused, path)
		}
		return nil
	}
	return fmt.Errorf("apply tools: change of an unknown kind: %w", ErrInvalid)
}

func (a *applier) key(name, version string) (Key, error) {
	if name == "" || !plain(name) || !plain(version) {
		return Key{}, fmt.Errorf("tool %.60q: %w", name, ErrInvalid)
	}
	return Key{a.org, name, version}, nil
}

// edit is a copy of a tool's record, or a new one.
func (a *applier) edit(key Key) *record {
	if old := a.records[key]; old != nil {
		next := *old
		return &next
	}
	return &record{}
}

func (a *applier) set(s *buspb.ToolSet) error {
	key, err := a.key(s.GetDefinition().GetName(), s.GetDefinition().GetVersion())
	if err != nil {
		return err
	}
	next := a.edit(key)
	next.Definition, next.Setter, next.Set = toolOf(s.Definition), s.GetSetter(), a.now
	next.Want, next.Failure = nil, nil // what is fetched now may be something else
	if next.File != nil && !fits(next.Definition, next.File) {
		a.retire(next.File, true)
		next.File = nil
	}
	a.records[key] = next
	return nil
}

// fits reports whether a file is what a definition speaks of.
func fits(t *artifacts.Tool, f *File) bool {
	return sourceOf(t) == f.From && (t.ExpectedHash == "" || t.ExpectedHash == f.Hash)
}

func (a *applier) remove(d *buspb.ToolDelete) error {
	key := Key{a.org, d.GetName(), d.GetVersion()}
	old := a.records[key]
	if old == nil {
		return fmt.Errorf("delete tool %.60q: nobody changed it: %w", d.GetName(), ErrUnknown)
	}
	if old.File != nil {
		a.retire(old.File, false)
	}
	delete(a.records, key)
	return nil
}

// retire gives up a file that the record in place names, unless another does too.
func (a *applier) retire(f *File, served bool) {
	if a.uses(f.Path) < 2 {
		a.unused[f.Path] = unused{a.org, f, a.now, served}
	}
}

func (a *applier) uses(path string) int {
	n := 0
	for _, r := range a.records {
		if r.File != nil && r.File.Path == path {
			n++
		}
	}
	return n
}

func (a *applier) stored(s *buspb.ToolStored) error {
	key, err := a.key(s.GetName(), s.GetVersion())
	if err != nil {
		return err
	}
	if !validPath.MatchString(s.GetPath()) || !validHash.MatchString(s.GetHash()) || s.GetSize() < 0 {
		return fmt.Errorf("store tool %s: path, hash or size: %w", key.Name, ErrInvalid)
	}
	if _, gone := a.unused[s.GetPath()]; gone || s.GetShared() != (a.uses(s.GetPath()) > 0) {
		return fmt.Errorf("store tool %s: the file it shares with another is gone: %w", key.Name, ErrChanged)
	}
	next := a.edit(key)
	if s.GetWant() != 0 && (next.Want == nil || next.Want.Index != s.GetWant()) {
		return fmt.Errorf("store tool %s: what was fetched is not wanted any more: %w", key.Name, ErrChanged)
	}
	if s.Definition != nil {
		next.Definition, next.Setter, next.Set = toolOf(s.Definition), s.GetSetter(), a.now
	}
	if old := next.File; old != nil && old.Path != s.GetPath() {
		a.retire(old, true)
	}
	next.File = &File{
		Hash: s.GetHash(), Size: s.GetSize(), Path: s.GetPath(), Filename: s.GetFilename(), From: s.GetFrom(), Setter: s.GetSetter(), At: a.now,
	}
	next.Want, next.Failure = nil, nil
	a.records[key] = next
	return nil
}

// want notes that somebody needs a tool fetched. One fetch at a time is enough.
func (a *applier) want(w *buspb.ToolWant) error {
	key, err := a.key(w.GetDefinition().GetName(), w.GetDefinition().GetVersion())
	if err != nil {
		return err
	}
	next := a.edit(key)
	if next.Want != nil {
		return nil
	}
	next.Want, next.Failure = &want{a.index, *toolOf(w.Definition), w.GetSetter()}, nil
	a.records[key] = next
	return nil
}

func (a *applier) failed(f *buspb.ToolFailed) error {
	key := Key{a.org, f.GetName(), f.GetVersion()}
	old := a.records[key]
	if old == nil || old.Want == nil || old.Want.Index != f.GetWant() {
		return fmt.Errorf("tool %.60q: what failed is not wanted any more: %w", f.GetName(), ErrChanged)
	}
	next := *old
	next.Want, next.Failure = nil, &Failure{Text: f.GetError(), Hash: f.GetHash(), At: a.now}
	a.records[key] = &next
	return nil
}

func (r *Room) sortedKeys() []Key {
	return slices.SortedFunc(maps.Keys(r.records), compareKeys)
}

func compareKeys(a, b Key) int {
	return strings.Compare(a.Org.String()+"\x00"+a.Name+"\x00"+a.Version, b.Org.String()+"\x00"+b.Name+"\x00"+b.Version)
}

var _ interface {
	Kind() string
	Apply(*buspb.Entry) error
	View() io.WriterTo
	Restore(io.Reader) error
} = (*Room)(nil)
