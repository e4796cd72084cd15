package flows

import (
	"encoding/hex"
	"fmt"
	"path"
	"slices"
	"time"
	"unicode/utf8"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// LogName is the name of the extents in a flow's log.
const LogName = logName

const maxSession = 200 // bytes of what a collection was called elsewhere

// Arrival is a collection from elsewhere whose rows, logs and uploads are durable, under
// a flow id that nobody has.
type Arrival struct {
	Key
	Incarnation string // who wrote it
	Creator     string // who brings it in
	Artifacts   []Artifact
	Rows        []ArrivedRows
	Logs        int64
	Uploads     []UploadSize // sorted by number
	Error       string       // how it failed there; empty: it did not
	Started     time.Time    // by the clock there; zero: not known
	Duration    time.Duration
	CPU         *int64 // nanoseconds of processor time on its client; nil: not known
	Origin      Origin
}

// ArrivedRows are the rows of one result, numbered without gaps from 0.
type ArrivedRows struct {
	Name string
	Rows int64
}

// PlanImport returns the mutation that records an imported collection. What its zip
// says of it is a stranger's word and checked like a wish; the error wraps ErrInvalid.
func PlanImport(a Arrival) (*buspb.Mutation, error) {
	if err := a.check(); err != nil {
		return nil, fmt.Errorf("plan import of %.60s for %s: %w", a.Origin.Session, a.Client, err)
	}
	spec := &buspb.FlowSpec{Flow: a.Flow.String(), Creator: a.Creator, Limits: &buspb.FlowLimits{}}
	for _, one := range a.Artifacts {
		out := &buspb.FlowArtifact{Name: one.Name}
		for _, p := range one.Parameters {
			out.Parameters = append(out.Parameters, &buspb.FlowParameter{Name: p.Name, Value: p.Value})
		}
		spec.Artifacts = append(spec.Artifacts, out)
	}
	end := &buspb.FlowEnd{
		Key: a.proto(), Outcome: buspb.FlowEnd_OUTCOME_OK, Duration: int64(a.Duration), CpuNs: a.CPU, Totals: &buspb.FlowTotals{Logs: a.Logs, Uploads: int64(len(a.Uploads))},
		Coverage: &buspb.FlowCoverage{Key: a.proto(), Incarnation: a.Incarnation},
	}
	if a.Error != "" {
		end.Outcome, end.Error = buspb.FlowEnd_OUTCOME_ERROR, shorten(a.Error, maxErrorText)
	}
	if !a.Started.IsZero() {
		end.FirstActive = micros.Of(a.Started)
	}
	addUploads(end, a.Uploads)
	for _, r := range a.Rows {
		spec.Names = append(spec.Names, &buspb.FlowName{Token: r.Name, Name: r.Name})
		end.Totals.Rows += r.Rows
		if r.Rows > 0 {
			end.Coverage.Names = append(end.Coverage.Names, &buspb.FlowExtent{Name: r.Name, Bounds: []int64{0, r.Rows}})
		}
	}
	origin := &buspb.FlowOrigin{Sha256: a.Origin.SHA256, Session: a.Origin.Session, Hostname: a.Origin.Hostname}
	if a.Origin.Created != nil {
		origin.Created = micros.Of(*a.Origin.Created)
	}
	return mutation(a.Org, a.Creator, &buspb.FlowChange{Change: &buspb.FlowChange_Import{Import: &buspb.FlowImport{Spec: spec, End: end, Origin: origin}}})
}

// addUploads says in an end which uploads are whole and stored.
func addUploads(end *buspb.FlowEnd, uploads []UploadSize) {
	var numbers filestore.Intervals
	for _, u := range uploads {
		numbers.Add(u.Number, u.Number+1)
		end.Totals.UploadBytes += u.Bytes
		end.Coverage.UploadBytes += u.Bytes
		end.Coverage.UploadSizes = append(end.Coverage.UploadSizes, u.Number, u.Bytes)
	}
	end.Totals.ExpectedUploadBytes = end.Totals.UploadBytes
	end.Coverage.Uploads = boundsOf(numbers)
}

func (a *Arrival) check() error {
	if a.Flow.IsZero() || a.Client.IsZero() || a.Flow == ids.Monitoring {
		return fmt.Errorf("no flow or no client: %w", ErrInvalid)
	}
	seen := map[string]bool{}
	for _, r := range a.Rows {
		if err := checkResultName(r.Name); err != nil {
			return err
		}
		if seen[r.Name] || r.Rows < 0 || !utf8.ValidString(r.Name) {
			return fmt.Errorf("result %.60q: %w", r.Name, ErrInvalid)
		}
		seen[r.Name] = true
	}
	texts := []string{a.Origin.Session, a.Origin.Hostname, a.Error}
	for _, one := range a.Artifacts {
		texts = append(texts, one.Name)
		for _, p := range one.Parameters {
			texts = append(texts, p.Name, p.Value)
		}
	}
	total := 0
	for _, text := range texts {
		if total += len(text); !utf8.ValidString(text) {
			return fmt.Errorf("%.60q is no text: %w", text, ErrInvalid)
		}
	}
	if total > maxRequest || len(a.Origin.Session) > maxSession || len(a.Origin.Hostname) > maxSession {
		return fmt.Errorf("%d bytes of parameters and names: %w", total, ErrInvalid)
	}
	return nil
}

// ImportedFrom finds the flow of a client that was imported from a zip with this
// SHA-256, in hex.
func (t *Table) ImportedFrom(org ids.Org, client ids.Client, sum string) (*Flow, bool) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.importedFrom(org, client, sum)
}

func (t *Table) importedFrom(org ids.Org, client ids.Client, sum string) (*Flow, bool) {
	c := t.clients[owner{org, client}]
	if c == nil {
		return nil, false
	}
	for _, id := range c.order {
		if from := t.specs[specKey{org, id}].spec.Origin; from != nil && from.SHA256 == sum && sum != "" {
			return t.flow(Key{org, client, id}), true
		}
	}
	return nil, false
}

func (t *Table) checkImport(org ids.Org, in *buspb.FlowImport) error {
	key, err := parseKey(org, in.GetEnd().GetKey())
	if err != nil {
		return fmt.Errorf("import flow: %w", err)
	}
	if in.GetSpec().GetFlow() != key.Flow.String() || len(in.Spec.Request) > 0 {
		return fmt.Errorf("import flow %s of %s: %w", key.Flow, key.Client, ErrInvalid)
	}
	_, gone := t.deleted[key]
	if t.records.has(key) || gone || t.specs[specKey{org, key.Flow}] != nil {
		return fmt.Errorf("import flow %s of %s: %w", key.Flow, key.Client, ErrExists)
	}
	if in.Spec.Hunt != "" {
		return t.checkCopy(key, in)
	}
	if sum, err := hex.DecodeString(in.GetOrigin().GetSha256()); err != nil || len(sum) != 32 {
		return fmt.Errorf("import flow %s of %s: %w", key.Flow, key.Client, ErrInvalid)
	}
	if f, known := t.importedFrom(org, key.Client, in.Origin.Sha256); known {
		return fmt.Errorf("import flow %s of %s: the same zip is there as %s: %w", key.Flow, key.Client, f.Flow, ErrExists)
	}
	return nil
}

// bring lets an imported flow in: it has ended, and nothing more is taken of it.
func (a *applier) bring(in *buspb.FlowImport) {
	key, err := parseKey(a.org, in.GetEnd().GetKey())
	if err != nil || a.records.has(key) {
		return // checked before
	}
	entry := a.spec(in.Spec)
	if entry.spec.Origin == nil {
		o := in.GetOrigin()
		entry.spec.Origin = &Origin{SHA256: o.GetSha256(), Session: o.GetSession(), Hostname: o.GetHostname(), Flow: o.GetFlow()}
		if o.GetCreated() != 0 {
			created := micros.Time(o.GetCreated())
			entry.spec.Origin.Created = &created
		}
	}
	entry.request = nil
	entry.flows++
	f := &Flow{Key: key, Spec: entry.spec, Index: a.entry.Index, State: Pending, Created: a.now, Turn: a.entry.Index}
	a.end(f, in.End)
	f.judge(a.now)
	a.put(f)
}

// Lines is a run of whole rows that fits into one extent.
type Lines struct {
	Rows int64
	Text []byte // each line ends with \n
}

// ReadLines reads rows from elsewhere as it reads those of a client: each line has to
// be one object within bounds, and names that only the server may use get a prefix.
// The error wraps ErrBadLine. The text belongs to the result.
func ReadLines(text []byte) ([]Lines, int64, error) {
	chunks, rows, err := checkLines(text, nil, false)
	out := make([]Lines, len(chunks))
	for i, c := range chunks {
		out[i] = Lines{c.rows, c.lines}
	}
	return out, rows, err
}

// UploadSet is where the finished uploads of a direct collection are listed.
func UploadSet(key Key) filestore.Set {
	return filestore.Set(path.Join(filestore.FlowDir(key.Org, key.Client, key.Flow), UploadName))
}

// Dirs are the folders that belong to a flow alone.
func Dirs(key Key) []string { return slices.Clone(flowDirs(key)) }
