package flows

import (
	"cmp"
	"fmt"
	"slices"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// Copy is a collection that was copied for a hunt: what of it the hunt takes is durable
// in the hunt's files, under a flow id that nobody has.
type Copy struct {
	Key         // of the copy; its Flow is one of Hunt.NewCopy
	Hunt        ids.Hunt
	From        *Flow      // of the same client; it has ended
	Incarnation string     // who wrote it
	Artifacts   []Artifact // of those of From
	Names       []Coverage // rows of those results that the hunt takes
	Logs        int64
	Uploads     []UploadSize // sorted by number
	Again       bool         // also if the client erred in the hunt
}

// PlanCopy returns the mutation that makes a copied collection one of its hunt. When it
// is applied it is refused if the collection has gone, or if the hunt does not take it.
func PlanCopy(c Copy, principal string) (*buspb.Mutation, error) {
	if err := c.check(); err != nil {
		return nil, fmt.Errorf("plan copy: %w", err)
	}
	spec := &buspb.FlowSpec{Flow: c.Flow.String(), Hunt: c.Hunt.String(), Creator: c.From.Spec.Creator, Limits: &buspb.FlowLimits{}}
	for _, one := range c.Artifacts {
		out := &buspb.FlowArtifact{Name: one.Name}
		for _, p := range one.Parameters {
			out.Parameters = append(out.Parameters, &buspb.FlowParameter{Name: p.Name, Value: p.Value})
		}
		spec.Artifacts = append(spec.Artifacts, out)
	}
	for _, n := range c.Names {
		spec.Names = append(spec.Names, &buspb.FlowName{Token: n.Name, Name: n.Name})
	}
	return mutation(c.Org, principal, &buspb.FlowChange{Change: &buspb.FlowChange_Import{Import: &buspb.FlowImport{
		Spec: spec, End: c.end(), Origin: &buspb.FlowOrigin{Flow: c.From.Flow.String()}, Again: c.Again,
	}}})
}

func (c *Copy) check() error {
	if _, ours := c.Flow.Copied(c.Hunt); !ours || c.Client != c.From.Client || c.Org != c.From.Org || len(c.Names) == 0 {
		return fmt.Errorf("as flow %q with %d results: %w", c.Flow, len(c.Names), ErrInvalid)
	}
	return copyable(c.From)
}

// copyable says why a collection cannot be copied for a hunt.
func copyable(f *Flow) error {
	switch {
	case f.Flow == ids.Monitoring:
		return fmt.Errorf("flow %s is no collection: %w", f.Flow, ErrInvalid)
	case !f.Spec.Hunt.IsZero():
		return fmt.Errorf("flow %s is of hunt %s: %w", f.Flow, f.Spec.Hunt, ErrInvalid)
	case !f.State.Final():
		return fmt.Errorf("flow %s is %s: %w", f.Flow, f.State, ErrUnfinished)
	}
	return nil
}

// end is how the copy ended: as the collection did, with what of it is copied.
func (c *Copy) end() *buspb.FlowEnd {
	end := &buspb.FlowEnd{
		Key: c.proto(), Outcome: buspb.FlowEnd_OUTCOME_OK, Duration: int64(c.From.Duration), CpuNs: c.From.CPU.Nanoseconds(), FirstActive: micros.Of(c.From.FirstActive),
		Totals:   &buspb.FlowTotals{Logs: c.Logs, Uploads: int64(len(c.Uploads))},
		Coverage: &buspb.FlowCoverage{Key: c.proto(), Incarnation: c.Incarnation, Conflicts: c.From.Conflicts()},
	}
	if c.From.State != Completed {
		end.Outcome = buspb.FlowEnd_OUTCOME_ERROR
		end.Error = shorten(cmp.Or(c.From.Error, "it is "+string(c.From.State)), maxErrorText)
	}
	addUploads(end, c.Uploads)
	for _, n := range c.Names {
		if end.Totals.Rows += n.Rows.Len(); len(n.Rows) > 0 {
			end.Coverage.Names = append(end.Coverage.Names, &buspb.FlowExtent{Name: n.Name, Bounds: boundsOf(n.Rows)})
		}
	}
	return end
}

// checkCopy says whether an import into a hunt is refused here; whether the hunt takes
// the client is asked of the hunts.
func (t *Table) checkCopy(key Key, in *buspb.FlowImport) error {
	hunt, err := ids.ParseHunt(in.Spec.Hunt)
	if err != nil {
		return fmt.Errorf("copy flow: %w", err)
	}
	if _, ours := key.Flow.Copied(hunt); !ours || t.hunts == nil {
		return fmt.Errorf("copy flow as %s of hunt %s: %w", key.Flow, hunt, ErrInvalid)
	}
	f, err := t.find(key.Org, &buspb.FlowKey{Client: key.Client.String(), Flow: in.GetOrigin().GetFlow()})
	if err == nil {
		err = copyable(f)
	}
	if err == nil {
		if there := t.copied(f.Key, hunt); there != nil {
			err = fmt.Errorf("flow %s is there as %s: %w", f.Flow, there.Flow, ErrExists)
		}
	}
	if err != nil {
		return fmt.Errorf("copy flow for hunt %s: %w", hunt, err)
	}
	return nil
}

// CopiedTo finds the copy of a collection that a hunt has: with a second one its rows
// would be there twice.
func (t *Table) CopiedTo(key Key, hunt ids.Hunt) (*Flow, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.copied(key, hunt)
	return f, f != nil
}

func (t *Table) copied(key Key, hunt ids.Hunt) *Flow {
	c := t.clients[key.owner()]
	if c == nil {
		return nil
	}
	for _, id := range c.order {
		spec := t.specs[specKey{key.Org, id}].spec
		if from := spec.Origin; from != nil && from.Flow == key.Flow.String() && spec.Hunt == hunt {
			return t.flow(Key{key.Org, key.Client, id})
		}
	}
	return nil
}

// SplicedLines reads stored rows of a direct collection as rows that stand among those
// of many clients: client and flow come first in each, and names that only the server
// may use get a prefix. The error wraps ErrBadLine. The text belongs to the result.
func SplicedLines(text []byte, client ids.Client, flow ids.Flow) ([]Lines, error) {
	chunks, _, err := checkLines(text, spliceOf(client, flow), false)
	out := make([]Lines, len(chunks))
	for i, c := range chunks {
		out[i] = Lines{c.rows, c.lines}
	}
	return out, err
}

func spliceOf(client ids.Client, flow ids.Flow) []byte {
	return []byte(`"ClientId":"` + client.String() + `","FlowId":"` + flow.String() + `"`)
}

// LogSet is where the log of a direct collection lies.
func LogSet(key Key) filestore.Set { return filestore.FlowLogs(key.Org, key.Client, key.Flow) }

// Covers returns which rows of a result the nodes hold.
func (f *Flow) Covers(name string) filestore.Intervals {
	at := slices.IndexFunc(f.Names, func(c Coverage) bool { return c.Name == name })
	if at < 0 {
		return nil
	}
	return f.Names[at].Rows
}
