package hunts

import (
	"cmp"
	"slices"
	"strings"
	"sync"

	"raptorpack/clients"
	"raptorpack/ids"
)

// maxRechecks bounds the clients that wait to be matched again; beyond it the
// foreman looks at all that are connected.
const maxRechecks = 100_000

// rule is a hunt as the foreman sees it, from the moment it runs until it does not.
type rule struct {
	key   Key
	index uint64
	c     *Conditions
	seen  seen // settled on this node: not wanted, nominated, or being asked

	mu      sync.Mutex
	changed map[uint32]uint64 // of hunts that ask: the newest entry that changed a client
}

// change notes that an entry changed a client, so that what it answered before counts
// no more.
func (r *rule) change(ordinal uint32, index uint64) {
	r.seen.remove(ordinal)
	if !r.c.Asks() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = map[uint32]uint64{}
	}
	r.changed[ordinal] = index
}

// stale reports whether a client has changed since it was asked.
func (r *rule) stale(ordinal uint32, asked uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed[ordinal] > asked
}

// rule finds a hunt that recruits; nil: it does not.
func (r *Room) rule(key Key) *rule {
	for _, rule := range (*r.rules.Load())[key.Org] {
		if rule.key == key {
			return rule
		}
	}
	return nil
}

// wants reports whether a client fits by what is known of it.
func (r *rule) wants(c *clients.Record) bool { return r.c.fits(c) }

func (c *Conditions) fits(r *clients.Record) bool {
	if c.OS != "" && !strings.EqualFold(c.OS, r.System) {
		return false
	}
	if slices.ContainsFunc(c.Exclude, r.HasLabel) {
		return false
	}
	return len(c.Include) == 0 || slices.ContainsFunc(c.Include, r.HasLabel)
}

// publish gives the foreman the hunts that recruit. One that did so before keeps
// what was settled. The lock is held.
func (r *Room) publish() {
	rules := map[ids.Org][]*rule{}
	for org, o := range r.orgs {
		for _, h := range o.hunts {
			if h.life.State != Running || h.def.Conditions.OnlyAdded {
				h.rule = nil
				continue
			}
			if h.rule == nil {
				h.rule = &rule{key: h.key, index: h.life.Index, c: &h.def.Conditions}
			}
			rules[org] = append(rules[org], h.rule)
		}
		slices.SortFunc(rules[org], func(a, b *rule) int { return cmp.Or(cmp.Compare(a.index, b.index), compareKeys(a.key, b.key)) })
	}
	r.rules.Store(&rules)
	r.sought.give()
}

// has reports whether a hunt has a client already.
func (r *Room) has(key Key, ordinal uint32) bool {
	r.mu.RLock()
	defer r.mu.RUnlock()
	h := r.find(key)
	return h == nil || h.m.where(ordinal) != nowhere
}

// place is a client by its number.
type place struct {
	org     ids.Org
	ordinal uint32
}

// unsettle makes the foreman look at a client again. What it is looking at right now
// it marked before, so the mark that is taken away here is not set after.
func (r *Room) unsettle(org ids.Org, ordinal uint32, index uint64) {
	rules := (*r.rules.Load())[org]
	if len(rules) == 0 {
		return
	}
	for _, rule := range rules {
		rule.change(ordinal, index)
	}
	r.recheckMu.Lock()
	if len(r.recheck) < maxRechecks {
		r.recheck[place{org, ordinal}] = struct{}{}
		r.recheckMu.Unlock()
		r.rechecks.give()
		return
	}
	clear(r.recheck)
	r.recheckMu.Unlock()
	r.sought.give() // all of them
}

// takeRechecks returns the clients that are to be matched again.
func (r *Room) takeRechecks() []place {
	r.recheckMu.Lock()
	defer r.recheckMu.Unlock()
	out := make([]place, 0, len(r.recheck))
	for p := range r.recheck {
		out = append(out, p)
	}
	clear(r.recheck)
	return out
}
