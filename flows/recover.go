package flows

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// recoverBatch is how many flows one mutation of RecoverCoverage speaks of.
const recoverBatch = 200

// RecoverCoverage reads from the segments of dead incarnations what they hold of
// flows that are not complete, and returns the mutations that tell the ledger. The
// master calls it once they are sealed and synced: what they knew in memory only
// is on the filestore still. What the living hold is theirs to tell, since it may
// not be durable yet.
func (r *Room) RecoverCoverage(ctx context.Context, dead ...string) ([]*buspb.Mutation, error) {
	if len(dead) == 0 {
		return nil, nil
	}
	owner := func(incarnation string) bool { return slices.Contains(dead, incarnation) }
	find := recovery{r: r, owner: owner, sets: map[filestore.Set]*filestore.Coverage{}}
	byOrg := map[ids.Org][]*buspb.FlowChange{}
	for _, f := range r.Unfinished() {
		coverage, err := find.of(ctx, f)
		if err != nil {
			return nil, err
		}
		if len(coverage.Names)+len(coverage.Uploads) > 0 {
			coverage.Incarnation = dead[len(dead)-1]
			byOrg[f.Org] = append(byOrg[f.Org], &buspb.FlowChange{Change: &buspb.FlowChange_Coverage{Coverage: coverage}})
		}
	}
	var out []*buspb.Mutation
	for _, org := range slices.SortedFunc(maps.Keys(byOrg), func(a, b ids.Org) int { return compareText(a.String(), b.String()) }) {
		for some := range slices.Chunk(byOrg[org], recoverBatch) {
			m, err := mutation(org, "", some...)
			if err != nil {
				return nil, err
			}
			out = append(out, m)
		}
	}
	return out, nil
}

// recovery reads each set once, however many clients' rows lie in it.
type recovery struct {
	r     *Room
	owner func(incarnation string) bool
	sets  map[filestore.Set]*filestore.Coverage
}

// CoverageOf reads from the segments which rows and uploads of a flow some
// incarnations hold together.
func (r *Room) CoverageOf(ctx context.Context, f *Flow, owner func(incarnation string) bool) (*buspb.FlowCoverage, error) {
	find := recovery{r: r, owner: owner, sets: map[filestore.Set]*filestore.Coverage{}}
	return find.of(ctx, f)
}

func (c *recovery) of(ctx context.Context, f *Flow) (*buspb.FlowCoverage, error) {
	out := &buspb.FlowCoverage{Key: f.Key.proto()}
	for _, name := range f.Spec.Results() {
		rows, err := c.rows(ctx, f, f.results(name), name)
		if err != nil {
			return nil, err
		}
		if len(rows) > 0 {
			out.Names = append(out.Names, &buspb.FlowExtent{Name: name, Bounds: boundsOf(rows)})
		}
	}
	uploads, err := c.rows(ctx, f, f.uploadList(), UploadName)
	if err != nil || len(uploads) == 0 {
		return out, err
	}
	out.Uploads = boundsOf(uploads)
	list, err := c.r.list(ctx, f)
	for _, u := range list {
		if uploads.Has(u.Number, u.Number+1) {
			out.UploadBytes += u.StoredSize
			out.UploadSizes = append(out.UploadSizes, u.Number, u.StoredSize)
		}
	}
	return out, err
}

// rows are those of one result of one flow.
func (c *recovery) rows(ctx context.Context, f *Flow, set filestore.Set, name string) (filestore.Intervals, error) {
	have := c.sets[set]
	if have == nil {
		var err error
		if have, err = c.r.o.Reader.CoverageBy(ctx, set, filestore.RowsFilter{}, c.owner); err != nil {
			return nil, fmt.Errorf("coverage of %s in flow %s of %s: %w", name, f.Flow, f.Client, err)
		}
		if !f.Spec.Hunt.IsZero() { // nobody else looks into the files of a collection
			c.sets[set] = have
		}
	}
	return have.Streams[filestore.Stream{Client: f.Client, Flow: f.Flow, Name: name}].Rows, nil
}
