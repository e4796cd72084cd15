package flows

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"raptorpack/filestore"
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

// Run tells the ledger what this node holds of flows that ended elsewhere, asks
// about flows that fell silent, hands out again what clients do not know, closes
// the files of what was deleted, and forgets what is over. It returns nil when ctx
// ends; what was not told by then is read from the segments once this incarnation
// is sealed.
func (r *Room) Run(ctx context.Context) error {
	var parts sync.WaitGroup
	defer parts.Wait()
	if r.o.Fresh != nil {
		parts.Go(func() { r.fresh.run(ctx) })
		parts.Go(func() { r.keepFences(ctx) })
	}
	parts.Go(func() { r.offers.work(ctx, r.makeOffers, r.complainOnce("tasks are not handed out yet")) })
	parts.Go(func() { r.due.work(ctx, r.tellDue, r.complainOnce("coverage of flows not told yet")) })
	parts.Go(func() { r.closeDeleted(ctx) })
	tick := time.NewTicker(max(r.o.Silence/4, 100*time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
			r.rouse(time.Now())
		}
	}
}

// complainOnce logs what goes wrong in one of Run's parts when it begins.
func (r *Room) complainOnce(what string) func(error) {
	told := false
	return func(err error) {
		if err != nil && !told {
			r.log.Warn(what, "err", err)
		}
		told = err != nil
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

// tell writes the fact that is due about one flow: what this node holds of it.
func (r *Room) tell(ctx context.Context, key Key) error {
	s := r.shard(key.owner())
	s.mu.Lock()
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
			if f == nil {
				continue
			}
			err := r.tidy(ctx, f)
			if r.Deleted(key) { // meanwhile: nobody else would remove what was written now
				err = errors.Join(err, r.RemoveTree(ctx, key))
			}
			if err != nil && ctx.Err() == nil {
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

// viewed reports whether there is something to tidy once a flow stands where it does.
// That of a hunt has no view of its own: there may be a hundred thousand of them.
func (f *Flow) viewed() bool {
	over := f.State.Final() || f.State == Waiting
	return over && (f.Spec.Hunt.IsZero() || f.Uploads.Len() > 0)
}

// tidy writes the view of a flow and, when nothing of it can come any more,
// removes what its uploads left behind.
func (r *Room) tidy(ctx context.Context, f *Flow) error {
	if f.State == Completed && f.Uploads.Len() > 0 {
		if err := r.o.Committer.CleanUploads(ctx, f.Org, f.Client, f.Flow); err != nil {
			return err
		}
	}
	if !f.Spec.Hunt.IsZero() {
		return nil
	}
	return r.writeView(ctx, f)
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
