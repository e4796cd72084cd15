package hunts

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/internal/retry"
)

const (
	// viewsEvery is how often hunts are looked at for their views, and countsEvery how
	// old the counts in a view may be.
	viewsEvery  = 2 * time.Second
	countsEvery = time.Minute
)

// Files is what of the filestore views and removals need.
type Files struct {
	Store interface { // *filestore.Store
		ReplaceFile(ctx context.Context, name string, data []byte) error
		RemoveAll(ctx context.Context, name string) error
	}
	Reader segmentReader
}

// huntView is hunt.json: what people with a shell want to know. Nothing reads it back.
type huntView struct {
	Index       uint64           `json:"index"` // the state is no older than this entry
	Hunt        string           `json:"hunt"`
	State       State            `json:"state"`
	Creator     string           `json:"creator"`
	Description string           `json:"description,omitempty"`
	Tags        []string         `json:"tags,omitempty"`
	Artifacts   []flows.Artifact `json:"artifacts"`
	Limits      flows.Limits     `json:"limits"`
	Conditions  Conditions       `json:"conditions"`
	Rate        int64            `json:"clients_per_minute,omitempty"`
	Limit       int64            `json:"client_limit,omitempty"`
	Created     time.Time        `json:"created"`
	Started     *time.Time       `json:"started,omitempty"`
	Ended       *time.Time       `json:"ended,omitempty"`
	Expires     time.Time        `json:"expires"`
	Clients     map[string]int   `json:"clients"`
	Sums        Sums             `json:"sums"`
	Origin      *Origin          `json:"origin,omitempty"`
}

func viewOf(h *Hunt, index uint64) *huntView {
	v := &huntView{
		Index: index, Hunt: h.Hunt.String(), State: h.State, Creator: h.Creator, Description: h.Description, Tags: h.Tags.List(),
		Artifacts: h.Artifacts, Limits: h.Definition.Limits, Conditions: h.Conditions, Rate: h.Rate, Limit: h.Settings.Limit,
		Created: h.Created, Started: orNil(h.Started), Ended: orNil(h.Ended), Expires: h.Expires,
		Clients: map[string]int{}, Sums: h.Sums, Origin: h.Origin,
	}
	v.Conditions.ConditionRequest = nil // as long as it is unreadable
	for s, n := range h.Counts {
		v.Clients[Set(s).String()] = n
	}
	return v
}

func orNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// written is what stands in a hunt.json that this node wrote.
type written struct {
	settings Settings
	life     Life
	counts   Counts
	sums     Sums
	at       time.Time
}

// due reports whether a hunt's view is to be written again: soon if somebody changed
// the hunt, and now and then while clients do.
func (w *written) due(h *Hunt, now time.Time) bool {
	switch {
	case w == nil, w.settings != h.Settings, w.life != h.Life:
		return true
	default:
		return (w.counts != h.Counts || w.sums != h.Sums) && now.Sub(w.at) >= countsEvery
	}
}

// WriteViews keeps the hunt.json of all hunts until ctx ends. One node at a time
// should run it: the one that leads. index tells how far the applied ledger goes.
func (r *Room) WriteViews(ctx context.Context, f Files, index func() uint64) error {
	done := map[Key]*written{}
	failing := false
	for {
		err := r.writeDue(ctx, f, index, done)
		if err != nil && !failing && ctx.Err() == nil {
			r.log.Warn("views of hunts are not written yet", "err", err)
		}
		failing = err != nil
		if !retry.Sleep(ctx, viewsEvery) {
			return nil
		}
	}
}

func (r *Room) writeDue(ctx context.Context, f Files, index func() uint64, done map[Key]*written) error {
	var errs []error
	at := index() // before looking
	for _, h := range r.all(Draft, Running, Paused, Stopped, Expired, Archived) {
		if !done[h.Key].due(h, time.Now()) {
			continue
		}
		if err := r.writeView(ctx, f, h, at); err != nil {
			errs = append(errs, fmt.Errorf("view of hunt %s: %w", h.Hunt, err))
			continue
		}
		done[h.Key] = &written{h.Settings, h.Life, h.Counts, h.Sums, time.Now()}
	}
	for key := range done {
		if r.Gone(key) {
			delete(done, key)
		}
	}
	return errors.Join(errs...)
}

func (r *Room) writeView(ctx context.Context, f Files, h *Hunt, index uint64) error {
	text, err := json.MarshalIndent(viewOf(h, index), "", " ")
	if err != nil {
		return err
	}
	err = f.Store.ReplaceFile(ctx, path.Join(filestore.HuntDir(h.Org, h.Hunt), "hunt.json"), append(text, '\n'))
	if _, gone := r.forgotten(h.Key); gone { // meanwhile: nobody else would remove what was written now
		err = errors.Join(err, r.RemoveTree(ctx, f, h.Key))
	}
	return err
}

// RemoveTree removes the folder of a hunt that was forgotten. The master calls it once
// all live nodes have closed their files of it; repeating it does no harm. Uploads lie
// with their clients and go with the flows; those of a hunt that ran elsewhere, of
// which there are no flows, go first, as only its own list says which they are.
func (r *Room) RemoveTree(ctx context.Context, f Files, key Key) error {
	gone, forgotten := r.forgotten(key)
	if !forgotten {
		return fmt.Errorf("remove files of hunt %s: %w", key.Hunt, ErrState)
	}
	var err error
	if gone.imported {
		err = removeUploads(ctx, f, key)
	}
	for _, dir := range []string{filestore.HuntDir(key.Org, key.Hunt), filestore.HuntDownloadsDir(key.Org, key.Hunt)} {
		if err == nil {
			err = f.Store.RemoveAll(ctx, dir)
		}
	}
	if err != nil {
		return fmt.Errorf("remove files of hunt %s: %w", key.Hunt, err)
	}
	return nil
}

// removeUploads removes the folders of all uploads that a hunt's list names.
func removeUploads(ctx context.Context, f Files, key Key) error {
	p, _, err := f.Reader.Pin(ctx, uploadSet(key), filestore.RowsFilter{Name: flows.UploadName}, "")
	if err != nil {
		return err
	}
	for i := range p.Streams() {
		of, _ := p.Stream(i)
		err = errors.Join(err, f.Store.RemoveAll(ctx, filestore.FlowUploadsDir(key.Org, of.Client, of.Flow)))
	}
	return err
}

// forgotten reports whether nothing is left of a hunt in the ledger, and what tells of
// it.
func (r *Room) forgotten(key Key) (tombstone, bool) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	o := r.orgs[key.Org]
	if o == nil {
		return tombstone{}, false
	}
	d, gone := o.deleted[key.Hunt]
	return d, gone && o.hunts[key.Hunt] == nil
}
