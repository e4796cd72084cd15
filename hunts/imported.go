package hunts

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// Arrival is a wish to record a hunt whose files Import has written.
type Arrival struct {
	Org         ids.Org
	Imported    *Imported
	Creator     string // who brings it in
	Description string // empty: the one it had
	SHA256      string // of the zip, in hex
}

// PlanImport returns the mutation that records an imported hunt. What its zip says of
// the hunt is a stranger's word and checked like a wish; the error wraps ErrInvalid.
func (r *Room) PlanImport(a Arrival, now time.Time) (*buspb.Mutation, error) {
	from := a.Imported.Origin
	tags, err := ParseTags(from.Tags)
	if err != nil {
		return nil, fmt.Errorf("plan import of hunt %s: %w", from.Hunt, err)
	}
	description := cmp.Or(a.Description, from.Description)
	if len(description) > maxDescription || !utf8.ValidString(description) {
		return nil, fmt.Errorf("plan import of hunt %s: description is no text of at most %d bytes: %w", from.Hunt, maxDescription, ErrInvalid)
	}
	spec, err := proto.MarshalOptions{Deterministic: true}.Marshal(specOf(from))
	if err != nil {
		return nil, fmt.Errorf("plan import of hunt %s: %w: %w", from.Hunt, ErrInvalid, err)
	}
	from.Conditions.ConditionRequest = nil // it never runs here
	return r.plan(Key{a.Org, a.Imported.Hunt}, a.Creator, now, &buspb.HuntChange{Change: &buspb.HuntChange_Import{Import: &buspb.HuntImport{
		Creator: a.Creator, Description: description, Tags: tags.List(), Spec: spec, Conditions: from.Conditions.pack(), Origin: &buspb.HuntOrigin{
			Org: from.Org, Hunt: from.Hunt, Creator: from.Creator, Created: micros.Of(from.Created), Expires: micros.Of(from.Expires),
			Started: microsOr(from.Started), Ended: microsOr(from.Ended), Exported: micros.Of(a.Imported.Manifest.Exported),
			Counts: countsIn(from.Counts), Sums: from.Sums.pack(), Sha256: a.SHA256,
		},
	}}})
}

// specOf is what a zip says that ran, without a request: it does not run here.
func specOf(from *HuntFile) *buspb.FlowSpec {
	spec := &buspb.FlowSpec{Creator: from.Creator, Urgent: from.Urgent, Limits: &buspb.FlowLimits{
		Rows: from.Limits.Rows, RowBytes: from.Limits.RowBytes, Uploads: from.Limits.Uploads,
		UploadBytes: from.Limits.UploadBytes, Logs: from.Limits.Logs,
	}}
	for _, a := range from.Artifacts {
		one := &buspb.FlowArtifact{Name: a.Name}
		for _, p := range a.Parameters {
			one.Parameters = append(one.Parameters, &buspb.FlowParameter{Name: p.Name, Value: p.Value})
		}
		spec.Artifacts = append(spec.Artifacts, one)
	}
	for _, name := range from.Results {
		spec.Names = append(spec.Names, &buspb.FlowName{Name: name})
	}
	return spec
}

func microsOr(t *time.Time) int64 {
	if t == nil {
		return 0
	}
	return micros.Of(*t)
}

func countsIn(by map[string]int) []int64 {
	out := make([]int64, sets)
	for i := range out {
		out[i] = int64(by[setNames[i]])
	}
	return out
}

func (s *Sums) pack() *buspb.HuntSums {
	return &buspb.HuntSums{
		Flows: s.Flows, Rows: s.Rows, Uploads: s.Uploads, UploadBytes: s.UploadBytes, Logs: s.Logs, DurationNs: int64(s.Duration),
		CpuNs: int64(s.CPU), CpuTold: s.CPUTold,
	}
}

func (a *applier) checkImport(key Key, in *buspb.HuntImport) error {
	if a.used(key) {
		return fmt.Errorf("import hunt %s: %w", key.Hunt, ErrExists)
	}
	o := in.GetOrigin()
	if sum, err := hex.DecodeString(o.GetSha256()); !key.Hunt.Plain() || err != nil || len(sum) != 32 || len(o.GetCounts()) != sets {
		return fmt.Errorf("import hunt %s: %w", key.Hunt, ErrInvalid)
	}
	for _, n := range o.GetCounts() {
		if n < 0 {
			return fmt.Errorf("import hunt %s: set of %d clients: %w", key.Hunt, n, ErrInvalid)
		}
	}
	if _, err := parseSpec(in.Spec); err != nil {
		return fmt.Errorf("import hunt %s: %w", key.Hunt, err)
	}
	return nil
}

// bring lets an imported hunt in: put away from the start, with the counts it had and
// nobody in its sets.
func (a *applier) bring(key Key, in *buspb.HuntImport) {
	spec, err := parseSpec(in.Spec)
	o := a.r.org(a.org)
	if err != nil || o.hunts[key.Hunt] != nil { // twice in one entry
		return
	}
	from, sums := in.GetOrigin(), in.GetOrigin().GetSums()
	def := defineBy(in.Creator, spec, in.Spec, conditionsOf(in.Conditions))
	def.Origin = &Origin{
		Org: from.Org, Hunt: from.Hunt, Creator: from.Creator, SHA256: from.Sha256,
		Created: micros.Time(from.Created), Expires: micros.Time(from.Expires), Exported: micros.Time(from.Exported),
		sums: Sums{
			Flows: sums.GetFlows(), Rows: sums.GetRows(), Uploads: sums.GetUploads(), UploadBytes: sums.GetUploadBytes(),
			Logs: sums.GetLogs(), Duration: time.Duration(sums.GetDurationNs()),
			CPU: time.Duration(sums.GetCpuNs()), CPUTold: sums.GetCpuTold(),
		},
	}
	for i, n := range from.GetCounts() {
		def.Origin.counts[i] = int(n)
	}
	a.enter(o, &hunt{
		key: key, def: def, m: newMembers(), set: Settings{Description: in.Description, Expires: def.Origin.Expires, Tags: tagsOf(in.Tags)},
		life: Life{
			State: Archived, Index: a.index, Created: a.at, MovedBy: a.by,
			Started: micros.Time(from.Started), Ended: micros.Time(from.Ended),
		},
	})
}

// discard removes what an import wrote. Its files must be closed.
func discard(ctx context.Context, f Files, org ids.Org, in *Imported) error {
	var errs []error
	for _, of := range in.Uploaded {
		errs = append(errs, f.Store.RemoveAll(ctx, filestore.FlowUploadsDir(of.Org, of.Client, of.Flow)))
	}
	errs = append(errs, f.Store.RemoveAll(ctx, filestore.HuntDir(org, in.Hunt)))
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove a half import under hunt %s: %w", in.Hunt, err)
	}
	return nil
}

// ClientsThere returns a page of what an imported hunt's flows were where it ran, and
// where the next begins: empty after the last.
func (r *Results) ClientsThere(ctx context.Context, key Key, cursor string, limit int) (lines []ClientLine, next string, err error) {
	t, err := r.Page(ctx, key, Query{Source: FlowRows, Limit: limit, Cursor: cursor})
	if err != nil {
		return nil, "", err
	}
	for _, row := range t.Rows {
		var line ClientLine
		if err := json.Unmarshal(row.Line, &line); err != nil {
			return nil, "", fmt.Errorf("flows of imported hunt %s: %w", key.Hunt, err)
		}
		lines = append(lines, line)
	}
	return lines, t.Next, nil
}

// SetOf says in which set a flow's client belongs that ended in a state.
func SetOf(state flows.State) Set {
	switch {
	case !state.Final():
		return RunningClients
	case state == flows.Completed:
		return CompletedClients
	}
	return ErroredClients
}
