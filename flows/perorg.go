package flows

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/proto/buspb"
)

// perOrg is replicated memory that has one value for each org. A value never changes:
// an entry makes a new one. In snapshots it is a line, of type L, for each org.
type perOrg[T, L any] struct {
	what  string // for errors
	write func(org string, v *T) L
	read  func(line *L) (org string, v *T)

	mu   sync.RWMutex
	orgs map[ids.Org]*T
}

func newPerOrg[T, L any](what string, write func(string, *T) L, read func(*L) (string, *T)) *perOrg[T, L] {
	return &perOrg[T, L]{what: what, write: write, read: read, orgs: map[ids.Org]*T{}}
}

// of returns an org's value, nil when it has none.
func (p *perOrg[T, L]) of(org ids.Org) *T {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.orgs[org]
}

// put is for Apply, which is the only writer but Restore.
func (p *perOrg[T, L]) put(org ids.Org, v *T) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orgs[org] = v
}

// all lists the orgs, sorted.
func (p *perOrg[T, L]) all() []ids.Org {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return sortedOrgs(p.orgs)
}

func sortedOrgs[T any](orgs map[ids.Org]*T) []ids.Org {
	return slices.SortedFunc(maps.Keys(orgs), func(a, b ids.Org) int { return compareText(a.String(), b.String()) })
}

// body reads the org and the body of an entry.
func (p *perOrg[T, L]) body(e *buspb.Entry, body proto.Message) (ids.Org, error) {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err == nil {
		err = proto.Unmarshal(e.GetMutation().GetBody(), body)
	}
	if err != nil {
		return ids.Org{}, p.refused(e, err)
	}
	return org, nil
}

func (p *perOrg[T, L]) refused(e *buspb.Entry, err error) error {
	return fmt.Errorf("apply %s entry %d: %w", p.what, e.GetIndex(), err)
}

// perOrgView is a snapshot.
type perOrgView[T, L any] struct {
	orgs  map[ids.Org]*T
	write func(string, *T) L
}

// View returns the state as it stands.
func (p *perOrg[T, L]) View() io.WriterTo {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return perOrgView[T, L]{maps.Clone(p.orgs), p.write}
}

// WriteTo writes a line per org.
func (v perOrgView[T, L]) WriteTo(w io.Writer) (int64, error) {
	return jsonlines.Write(w, func(yield func(L) bool) {
		for _, org := range sortedOrgs(v.orgs) {
			if !yield(v.write(org.String(), v.orgs[org])) {
				return
			}
		}
	})
}

// restore replaces the state by what a View wrote, and returns the orgs that it has.
func (p *perOrg[T, L]) restore(r io.Reader) ([]ids.Org, error) {
	fresh := map[ids.Org]*T{}
	dec := json.NewDecoder(bufio.NewReader(r))
	for {
		var line L
		err := dec.Decode(&line)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("restore %s: %w", p.what, err)
		}
		name, v := p.read(&line)
		org, err := ids.ParseOrg(name)
		if err != nil {
			return nil, fmt.Errorf("restore %s: %w", p.what, err)
		}
		fresh[org] = v
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.orgs = fresh
	return sortedOrgs(fresh), nil
}
