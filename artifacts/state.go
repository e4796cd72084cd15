package artifacts

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "artifacts"

// Room is the state of custom definitions, over the built-in ones. Every org sees
// its own, then the root org's, then the built-ins. Safe for concurrent use.
//
// The state is texts by name. Apply parses nothing, since versions may differ
// while a pack is rolling: repositories are made of the texts when they are asked
// for, and a text that this version cannot read is only left out of them.
type Room struct {
	follow []func(Modification)

	mu     sync.RWMutex
	root   *Repository // what came with the program or its folder
	stored map[storedKey]stored
	orgs   map[ids.Org]*Repository // made of stored; dropped by every change
}

type storedKey struct {
	org  ids.Org
	name string
}

type stored struct {
	text   string
	setter string
	at     time.Time
}

// Modification is a change of a custom definition, as the ledger has it.
type Modification struct {
	Index   uint64 // of the entry
	At      time.Time
	Org     ids.Org
	Name    string
	Text    string // the file; empty when it was deleted
	Setter  string
	Deleted bool
}

// Follow tells f of each change, from Apply's goroutine with no lock held, in the order
// of the ledger, also while that is replayed; not by Restore. f must not block. Call
// Follow before the first Apply.
func (r *Room) Follow(f func(Modification)) { r.follow = append(r.follow, f) }

// NewRoom makes a room over the built-in definitions.
func NewRoom(builtIn *Repository) *Room {
	r := &Room{root: builtIn}
	r.reset()
	return r
}

// Rebase puts other definitions in the place of those that came with the program or its
// folder. What is stored stays; of a name that both have, theirs counts.
func (r *Room) Rebase(builtIn *Repository) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.root = builtIn
	r.orgs = map[ids.Org]*Repository{}
}

func (r *Room) reset() {
	r.orgs = map[ids.Org]*Repository{}
	r.stored = map[storedKey]stored{}
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

// Repository returns what an org sees now; a later change makes another one.
func (r *Room) Repository(org ids.Org) *Repository {
	r.mu.RLock()
	repository := r.orgs[org]
	r.mu.RUnlock()
	if repository != nil {
		return repository
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.make(org)
}

// make builds an org's repository from its texts.
func (r *Room) make(org ids.Org) *Repository {
	if repository := r.orgs[org]; repository != nil {
		return repository
	}
	parent := r.root
	if org != ids.RootOrg {
		parent = r.make(ids.RootOrg)
	}
	repository := NewRepository(parent)
	for _, key := range r.byAge(org) {
		// What a newer version wrote may mean nothing here, and what is built in by
		// now wins over a stored text of its name: both stay stored, unlisted.
		d, err := Parse(key.name, []byte(r.stored[key].text))
		if err == nil {
			err = r.claims(org, d)
		}
		if err == nil {
			err = repository.Add(d)
		}
		if err != nil {
			slog.Warn("stored artifact left out", "component", Kind, "org", org.String(), "artifact", key.name, "err", err)
		}
	}
	r.orgs[org] = repository
	return repository
}

// claims refuses an alias that is the name of another stored definition. PlanSet
// refuses it too, but two may be planned at once.
func (r *Room) claims(org ids.Org, d *Definition) error {
	for _, alias := range d.Aliases {
		if _, taken := r.stored[storedKey{org, alias}]; taken && alias != d.Name {
			return fmt.Errorf("set artifact %s: alias %s is the name of another artifact: %w", d.Name, alias, ErrInvalid)
		}
	}
	return nil
}

// byAge lists an org's definitions, those that were set first in front: of two
// that claim one alias the older keeps it.
func (r *Room) byAge(org ids.Org) []storedKey {
	keys := slices.DeleteFunc(r.sortedKeys(), func(key storedKey) bool { return key.org != org })
	slices.SortStableFunc(keys, func(a, b storedKey) int { return r.stored[a].at.Compare(r.stored[b].at) })
	return keys
}

func (r *Room) sortedKeys() []storedKey {
	return slices.SortedFunc(maps.Keys(r.stored), func(a, b storedKey) int {
		return strings.Compare(a.org.String()+"\x00"+a.name, b.org.String()+"\x00"+b.name)
	})
}

// PlanSet checks a definition and returns the mutation that stores it.
func (r *Room) PlanSet(org ids.Org, text, setter string) (*buspb.Mutation, *Definition, error) {
	d, err := Parse("definition", []byte(text))
	if err != nil {
		return nil, nil, err
	}
	if err := r.replaceable(org, d); err != nil {
		return nil, nil, err
	}
	m, err := mutation(org, &buspb.ArtifactChange{Change: &buspb.ArtifactChange_Set{Set: &buspb.ArtifactSet{Name: d.Name, Text: text, Setter: setter}}})
	return m, d, err
}

// replaceable refuses a name or alias that another definition holds: who may
// write the one need not be allowed to write the other.
func (r *Room) replaceable(org ids.Org, d *Definition) error {
	repository := r.Repository(org)
	for _, name := range append([]string{d.Name}, d.Aliases...) {
		if _, err := r.root.Lookup(name); err == nil {
			return fmt.Errorf("set artifact %s: %w", name, ErrBuiltIn)
		}
		if _, err := repository.parent.Lookup(name); err == nil {
			return fmt.Errorf("set artifact %s: %s is defined for all orgs: %w", d.Name, name, ErrInvalid)
		}
		if holder, err := repository.Lookup(name); err == nil && holder.Name != d.Name {
			return fmt.Errorf("set artifact %s: %s is taken by %s: %w", d.Name, name, holder.Name, ErrInvalid)
		}
	}
	r.mu.RLock()
	defer r.mu.RUnlock()
	return r.claims(org, d)
}

// PlanDelete returns the mutation that forgets a custom definition.
func (r *Room) PlanDelete(org ids.Org, name, setter string) (*buspb.Mutation, error) {
	if !r.holds(org, name) { // not by its own name, or not at all
		d, err := r.Repository(org).Lookup(name)
		if err != nil {
			return nil, err
		}
		if d.BuiltIn {
			return nil, fmt.Errorf("delete artifact %s: %w", name, ErrBuiltIn)
		}
		name = d.Name
	}
	return mutation(org, &buspb.ArtifactChange{Change: &buspb.ArtifactChange_Delete{Delete: &buspb.ArtifactDelete{Name: name, Setter: setter}}})
}

// holds reports whether a definition of the name is stored, be it listed or left
// out.
func (r *Room) holds(org ids.Org, name string) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	_, held := r.stored[storedKey{org, name}]
	return held
}

func mutation(org ids.Org, change *buspb.ArtifactChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(change)
	if err != nil {
		return nil, fmt.Errorf("encode artifact change: %w", err)
	}
	return &buspb.Mutation{Kind: Kind, Org: org.String(), Body: body}, nil
}

// Apply implements replication.State: the only writer.
func (r *Room) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply artifacts: %w", errors.Join(err, ErrInvalid))
	}
	var change buspb.ArtifactChange
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &change); err != nil {
		return fmt.Errorf("apply artifacts: %w", ErrInvalid)
	}
	m := Modification{Index: e.GetIndex(), At: time.UnixMicro(e.GetTime()).UTC(), Org: org}
	if err := r.apply(&change, &m); err != nil {
		return err
	}
	for _, follow := range r.follow {
		follow(m)
	}
	return nil
}

func (r *Room) apply(change *buspb.ArtifactChange, m *Modification) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch c := change.GetChange().(type) {
	case *buspb.ArtifactChange_Set:
		if !validName.MatchString(c.Set.GetName()) {
			return fmt.Errorf("set artifact %.80q: %w", c.Set.GetName(), ErrInvalid)
		}
		m.Name, m.Text, m.Setter = c.Set.GetName(), c.Set.GetText(), c.Set.GetSetter()
		r.stored[storedKey{m.Org, m.Name}] = stored{m.Text, m.Setter, m.At}
	case *buspb.ArtifactChange_Delete:
		key := storedKey{m.Org, c.Delete.GetName()}
		if _, known := r.stored[key]; !known {
			return fmt.Errorf("delete artifact %.80q: %w", c.Delete.GetName(), ErrUnknown)
		}
		m.Name, m.Setter, m.Deleted = c.Delete.GetName(), c.Delete.GetSetter(), true
		delete(r.stored, key)
	default:
		return fmt.Errorf("apply artifacts: change of an unknown kind: %w", ErrInvalid)
	}
	r.orgs = map[ids.Org]*Repository{}
	return nil
}

type line struct {
	Org    string `json:"org,omitempty"`
	Name   string `json:"name"`
	Setter string `json:"setter,omitempty"`
	At     int64  `json:"set_us"`
	Text   string `json:"text"`
}

type view []line

// View implements replication.State.
func (r *Room) View() io.WriterTo {
	r.mu.RLock()
	defer r.mu.RUnlock()
	keys := r.sortedKeys()
	lines := make(view, len(keys))
	for i, key := range keys {
		s := r.stored[key]
		lines[i] = line{key.org.String(), key.name, s.setter, s.at.UnixMicro(), s.text}
	}
	return lines
}

// WriteTo writes one definition per line, by org and name.
func (v view) WriteTo(w io.Writer) (int64, error) { return jsonlines.Write(w, slices.Values(v)) }

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	fresh := NewRoom(r.root)
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 6*maxFileBytes)
	for n := 1; lines.Scan(); n++ {
		var l line
		if err := json.Unmarshal(lines.Bytes(), &l); err != nil {
			return fmt.Errorf("restore artifacts: line %d: %w", n, err)
		}
		org, err := ids.ParseOrg(l.Org)
		if err != nil {
			return fmt.Errorf("restore artifacts: line %d: %w", n, err)
		}
		fresh.stored[storedKey{org, l.Name}] = stored{l.Text, l.Setter, time.UnixMicro(l.At).UTC()}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("restore artifacts: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orgs, r.stored = fresh.orgs, fresh.stored
	return nil
}
