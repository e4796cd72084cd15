package flows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// maxViews bounds how many flows wait for their flow.json on a node that does
// not lead. Views are for people with a shell; nothing reads them back.
const maxViews = 10_000

// retryPause is how long Run waits after the store refused.
const retryPause = time.Second

// tellPause is the least time between two facts about what this node holds of one
// flow: each tells all of it.
const tellPause = 5 * time.Second

// recoverBatch is how many flows one mutation of RecoverCoverage speaks of.
const recoverBatch = 200

// Run tells the ledger what this node holds of flows that ended elsewhere, asks
// about flows that fell silent, and forgets what is over. It returns nil when
// ctx ends; what was not told by then is read from the segments once this
// incarnation is sealed.
func (r *Room) Run(ctx context.Context) error {
	every := max(r.o.Silence/4, 100*time.Millisecond)
	tick := time.NewTicker(every)
	defer tick.Stop()
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.rouse(time.Now())
			continue
		case <-again:
			again = nil
		case <-r.due.ready:
			if again != nil {
				continue // after the pause
			}
		}
		if err := r.tellDue(ctx); err != nil && ctx.Err() == nil {
			r.log.Warn("coverage of flows not told yet", "err", err)
		}
		if r.due.any() {
			again = time.After(retryPause)
		}
	}
}

// tellDue writes the facts that are due. What fails, or was told just now, stays
// due.
func (r *Room) tellDue(ctx context.Context) error {
	var errs []error
	for _, key := range r.due.take() {
		if err := r.tell(ctx, key); err != nil {
			r.due.keep(key)
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// tell writes the fact that is due about one flow: that it cannot be delivered,
// or what this node holds of it.
func (r *Room) tell(ctx context.Context, key Key) error {
	s := r.shard(key.owner())
	s.mu.Lock()
	if v := s.visits[key.owner()]; v != nil && v.errands[key.Flow] != nil && v.errands[key.Flow].hopeless {
		s.mu.Unlock()
		return r.submitFacts(ctx, key, &buspb.FlowChange{Change: &buspb.FlowChange_End{End: &buspb.FlowEnd{
			Key: key.proto(), Outcome: buspb.FlowEnd_OUTCOME_UNKNOWN,
			Error: "delivered " + plural(maxDeliveries, "time") + ", but the client says each time that it does not know the flow",
		}}})
	}
	l := s.locals[key]
	if l == nil || l.version <= l.reported {
		s.mu.Unlock()
		return nil
	}
	now := time.Now()
	if now.Sub(l.told) < tellPause {
		s.mu.Unlock()
		r.due.keep(key)
		return nil
	}
	version := l.version
	coverage := l.coverage(key, r.o.Incarnation, nil)
	s.mu.Unlock()
	err := r.submitFacts(ctx, key, &buspb.FlowChange{Change: &buspb.FlowChange_Coverage{Coverage: coverage}})
	if err == nil {
		s.mu.Lock()
		l.reported, l.told = max(l.reported, version), now
		s.mu.Unlock()
	}
	return err
}

func (r *Room) submitFacts(ctx context.Context, key Key, changes ...*buspb.FlowChange) error {
	m, err := mutation(key.Org, "", changes...)
	if err != nil {
		return err
	}
	c := &filestore.Commit{Class: filestore.Interactive, Facts: []*buspb.Mutation{m}}
	if err := r.o.Committer.Submit(ctx, c); err != nil {
		return fmt.Errorf("tell about flow %s of %s: %w", key.Flow, key.Client, err)
	}
	return nil
}

// RecoverCoverage reads from the segments of dead incarnations what they hold of
// flows that have not ended completely, and returns the mutations that tell the
// ledger. The master calls it once they are sealed and synced: what they knew in
// memory only is on the filestore still. What the living hold is theirs to tell,
// since it may not be durable yet.
func (r *Room) RecoverCoverage(ctx context.Context, dead ...string) ([]*buspb.Mutation, error) {
	if len(dead) == 0 {
		return nil, nil
	}
	owner := func(incarnation string) bool { return slices.Contains(dead, incarnation) }
	byOrg := map[ids.Org][]*buspb.FlowChange{}
	for _, f := range r.Unfinished() {
		coverage, err := r.CoverageOf(ctx, f, owner)
		if err != nil {
			return nil, err
		}
		if len(coverage.Names)+len(coverage.Uploads) > 0 {
			coverage.Incarnation = dead[len(dead)-1]
			byOrg[f.Org] = append(byOrg[f.Org], &buspb.FlowChange{Change: &buspb.FlowChange_Coverage{Coverage: coverage}})
		}
	}
	var out []*buspb.Mutation
	for org, changes := range byOrg {
		for some := range slices.Chunk(changes, recoverBatch) {
			m, err := mutation(org, "", some...)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// WriteViews keeps flow.json of flows that end or change after their end, until
// ctx ends. One node at a time should run it: the one that leads.
func (r *Room) WriteViews(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-r.views.ready:
		}
		for _, key := range r.views.take() {
			f, _ := r.lookup(key)
			if f == nil || !f.Spec.Hunt.IsZero() {
				continue
			}
			if err := r.tidy(ctx, f); err != nil && ctx.Err() == nil {
				r.log.Warn("view of flow not written yet", "client", key.Client.String(), "flow", key.Flow.String(), "err", err)
				r.views.add(key)
				pause(ctx, retryPause)
			}
		}
	}
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// tidy writes the view of a flow and, when nothing of it can come any more,
// removes what its uploads left behind.
func (r *Room) tidy(ctx context.Context, f *Flow) error {
	if f.State == Completed && f.Uploads.Len() > 0 {
		if err := r.o.Committer.CleanUploads(ctx, f.Org, f.Client, f.Flow); err != nil {
			return err
		}
	}
	return r.writeView(ctx, f)
}

// RemoveTree removes what the filestore holds of a deleted flow. The master
// calls it once all live nodes have applied the deletion; repeating it does no
// harm. Rows in the shared files of a hunt stay until those are compacted.
func (r *Room) RemoveTree(ctx context.Context, key Key) error {
	if !r.Deleted(key) {
		return fmt.Errorf("remove files of flow %s of %s: %w", key.Flow, key.Client, ErrUnfinished)
	}
	for _, dir := range []string{
		filestore.FlowDir(key.Org, key.Client, key.Flow), filestore.FlowUploadsDir(key.Org, key.Client, key.Flow),
	} {
		if err := r.o.Store.RemoveAll(ctx, dir); err != nil {
			return fmt.Errorf("remove files of flow %s of %s: %w", key.Flow, key.Client, err)
		}
	}
	return nil
}

// flowView is flow.json: what people with a shell want to know.
type flowView struct {
	Client    string     `json:"client"`
	Flow      string     `json:"flow"`
	Creator   string     `json:"creator"`
	Artifacts []Artifact `json:"artifacts"`
	Results   []string   `json:"results"`
	*flowRecord
}

func (r *Room) writeView(ctx context.Context, f *Flow) error {
	text, err := json.MarshalIndent(flowView{
		Client: f.Client.String(), Flow: f.Flow.String(), Creator: f.Spec.Creator, Artifacts: f.Spec.Artifacts,
		Results: f.Spec.Results(), flowRecord: record(f),
	}, "", " ")
	if err != nil {
		return fmt.Errorf("view of flow %s of %s: %w", f.Flow, f.Client, err)
	}
	dir := filestore.FlowDir(f.Org, f.Client, f.Flow)
	if err := r.o.Store.MkdirAll(ctx, dir); err != nil {
		return err
	}
	if err := r.o.Store.ReplaceFile(ctx, path.Join(dir, "flow.json"), append(text, '\n')); err != nil {
		return err
	}
	r.metrics.views.Inc()
	return nil
}

// any reports whether keys wait.
func (d *dirtySet) any() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.keys) > 0
}

// keep puts a key back without a signal: its taker will look again by itself.
func (d *dirtySet) keep(k Key) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.keys[k] = struct{}{}
}
