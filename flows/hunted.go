package flows

import (
	"fmt"
	"iter"
	"slices"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// hunts is the room that keeps hunts. Its state follows from that of flows: both
// are restored from one index, so they agree from then on. It is called from
// Apply's goroutine with no lock held, in the order of the ledger, also while that
// is replayed; not by Restore. Neither method waits.
type hunts interface {
	// MayStart refuses an entry that starts flows of hunts, to the letter alike on
	// every node; nil lets it pass. It changes nothing: the entry may still be
	// refused for another reason.
	MayStart(at time.Time, org ids.Org, starts []HuntStart) error

	// FlowsChanged tells what an entry did to flows of hunts, step by step.
	FlowsChanged(at time.Time, org ids.Org, changes []HuntChange)
}

// HuntStart is the part of an entry that starts a flow of a hunt on clients.
type HuntStart struct {
	Hunt    ids.Hunt
	Flow    ids.Flow
	Clients []string // ids, not checked
	Again   bool     // of a copied collection, see Copy: also for a client that erred
}

// HuntChange is one step of a flow of a hunt.
type HuntChange struct {
	Before *Flow // nil: it was started
	After  *Flow // nil: it was deleted
}

// mayStart asks the hunts about those starts of an entry that are theirs.
func (t *Table) mayStart(at time.Time, org ids.Org, body *buspb.FlowsBody) error {
	if t.hunts == nil {
		return nil
	}
	var starts []HuntStart
	for _, c := range body.Changes {
		spec, clients := c.GetStart().GetSpec(), c.GetStart().GetClients()
		if in := c.GetImport(); in != nil {
			spec, clients = in.GetSpec(), []string{in.GetEnd().GetKey().GetClient()}
		}
		if spec.GetHunt() == "" {
			continue
		}
		hunt, err := ids.ParseHunt(spec.Hunt)
		if err != nil {
			return fmt.Errorf("start flow %.60q: %w", spec.Flow, err)
		}
		flow, err := ids.ParseFlow(spec.Flow)
		if err != nil {
			return fmt.Errorf("start flow of hunt %s: %w", hunt, err)
		}
		starts = append(starts, HuntStart{hunt, flow, clients, c.GetImport().GetAgain()})
	}
	if len(starts) == 0 {
		return nil
	}
	return t.hunts.MayStart(at, org, starts)
}

// hunt notes a step of a flow for the hunts.
func (a *applier) hunt(before, after *Flow) {
	f := before
	if f == nil {
		f = after
	}
	if a.hunts != nil && !f.Spec.Hunt.IsZero() {
		a.hunted = append(a.hunted, HuntChange{before, after})
	}
}

// PlanSpec checks what a hunt is to run and compiles it once: all its starts carry
// the same. Clients and Flow of the wish do not count, its Hunt must be set. The
// error wraps ErrInvalid.
func PlanSpec(s Start) (*buspb.FlowSpec, error) {
	spec, err := planSpec(&s)
	if err == nil && s.Hunt.IsZero() {
		err = fmt.Errorf("no hunt: %w", ErrInvalid)
	}
	if err != nil {
		return nil, fmt.Errorf("plan flows of hunt %s: %w", s.Hunt, err)
	}
	spec.Flow = ""
	return spec, nil
}

// PlanAdmit returns the mutation that starts flow with a spec of PlanSpec, which
// stays as it is, on each client. The error wraps ErrInvalid.
func PlanAdmit(org ids.Org, spec *buspb.FlowSpec, flow ids.Flow, clients []ids.Client) (*buspb.Mutation, error) {
	if err := checkClients(clients); err != nil {
		return nil, fmt.Errorf("plan flow %s: %w", flow, err)
	}
	if flow.IsZero() || flow == ids.Monitoring {
		return nil, fmt.Errorf("plan flow %q: %w", flow, ErrInvalid)
	}
	filled := &buspb.FlowSpec{
		Flow: flow.String(), Creator: spec.Creator, Artifacts: spec.Artifacts, Request: spec.Request, Names: spec.Names,
		Limits: spec.Limits, Urgent: spec.Urgent, Hunt: spec.Hunt,
	}
	return startMutation(org, filled, clients)
}

// HuntFlows goes over the flows of a hunt, by client and flow: those there are when it
// begins, each as it is when it is given, without those deleted since. Only their keys
// are held meanwhile.
func (t *Table) HuntFlows(org ids.Org, hunt ids.Hunt) iter.Seq[*Flow] {
	return func(yield func(*Flow) bool) {
		for _, key := range t.huntKeys(org, hunt) {
			f, err := t.Flow(key)
			if err == nil && !yield(f) {
				return
			}
		}
	}
}

// huntKeys looks at all flows there are, and sorts what it found: 0.2 s for a hunt of
// 100,000 clients.
func (t *Table) huntKeys(org ids.Org, hunt ids.Hunt) []Key {
	t.mu.RLock()
	var out []Key
	for key := range t.records.keys() {
		if key.Org == org && t.huntOf(key) == hunt {
			out = append(out, key)
		}
	}
	t.mu.RUnlock()
	slices.SortFunc(out, compareKeys)
	return out
}

// Used reports whether the id of a flow cannot be given to its client again: the
// flow is there, or was deleted not long ago.
func (t *Table) Used(key Key) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	_, gone := t.deleted[key]
	return gone || t.records.has(key)
}

// PlanCancelOpen returns the mutation that cancels those of one org's flows that
// have not ended when it is applied. Unlike that of PlanCancel it is not refused.
func PlanCancelOpen(org ids.Org, keys []Key, principal string) (*buspb.Mutation, error) {
	changes := make([]*buspb.FlowChange, len(keys))
	for i, key := range keys {
		changes[i] = &buspb.FlowChange{Change: &buspb.FlowChange_Cancel{Cancel: &buspb.FlowCancel{Key: key.proto(), IfOpen: true}}}
	}
	return mutation(org, principal, changes...)
}

// PlanDeleteAll returns the mutation that forgets flows of one org. It is refused
// whole if one of them has not ended or is gone when it is applied.
func PlanDeleteAll(org ids.Org, keys []Key, principal string) (*buspb.Mutation, error) {
	changes := make([]*buspb.FlowChange, len(keys))
	for i, key := range keys {
		changes[i] = &buspb.FlowChange{Change: &buspb.FlowChange_Delete{Delete: &buspb.FlowDelete{Key: key.proto()}}}
	}
	return mutation(org, principal, changes...)
}
