package flows

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/internal/jsonlines"
	"raptorpack/internal/micros"
	"raptorpack/proto/buspb"
)

// snapshotLine is one line of flows.jsonl. Lines of kind "spec" come first, then
// "flow", then "deleted".
type snapshotLine struct {
	Kind    string      `json:"kind"`
	Org     string      `json:"org,omitempty"`
	Client  string      `json:"client,omitempty"`
	Flow    string      `json:"flow"`
	Spec    *specLine   `json:"spec,omitempty"`
	Record  *flowRecord `json:"record,omitempty"`
	Deleted int64       `json:"deleted,omitempty"` // unix microseconds
	Index   uint64      `json:"index,omitempty"`   // the entry that deleted it
}

type specLine struct {
	Creator   string     `json:"creator"`
	Artifacts []Artifact `json:"artifacts,omitempty"`
	Names     []Name     `json:"names,omitempty"`
	Limits    Limits     `json:"limits"`
	Urgent    bool       `json:"urgent,omitempty"`
	Hunt      string     `json:"hunt,omitempty"`
	Digest    string     `json:"digest"`
	Origin    *Origin    `json:"origin,omitempty"`
	Request   []byte     `json:"request,omitempty"` // zlib, base64; only while tasks are pending
}

// flowRecord is what of a Flow is written: times in unix microseconds, 0 for
// none; ranges as start, end pairs.
type flowRecord struct {
	Index        uint64         `json:"index"`
	State        State          `json:"state"`
	Error        string         `json:"error,omitempty"`
	Outcome      int32          `json:"outcome,omitempty"`
	CancelledBy  string         `json:"cancelled_by,omitempty"`
	CancelDue    bool           `json:"cancel_due,omitempty"`
	Created      int64          `json:"created"`
	Taken        int64          `json:"taken,omitempty"`
	Ended        int64          `json:"ended,omitempty"`
	WaitingSince int64          `json:"waiting_since,omitempty"`
	CancelledAt  int64          `json:"cancelled_at,omitempty"`
	FirstActive  int64          `json:"first_active,omitempty"`
	DurationNs   int64          `json:"duration_ns,omitempty"`
	CPUNs        *int64         `json:"cpu_ns,omitempty"` // left out: the client told none
	Totals       Totals         `json:"totals"`
	Names        []coverageLine `json:"names,omitempty"`
	Uploads      []int64        `json:"uploads,omitempty"`
	Sizes        []int64        `json:"upload_sizes,omitempty"` // number, bytes pairs
	Parts        []Part         `json:"parts,omitempty"`
	Turn         uint64         `json:"turn,omitempty"` // unless it is index
	Cleared      uint64         `json:"cleared,omitempty"`
	ClearedBy    string         `json:"cleared_by,omitempty"`
	Offered      string         `json:"offered,omitempty"`
	Offers       int            `json:"offers,omitempty"`
	Reopened     bool           `json:"reopened,omitempty"`
}

type coverageLine struct {
	Name string  `json:"name"`
	Rows []int64 `json:"rows"`
}

func record(f *Flow) *flowRecord {
	r := &flowRecord{
		Index: f.Index, State: f.State, Error: f.Error, Outcome: int32(f.Outcome),
		CancelledBy: f.CancelledBy, CancelDue: f.CancelDue,
		Created: micros.Of(f.Created), Taken: micros.Of(f.Taken), Ended: micros.Of(f.Ended),
		WaitingSince: micros.Of(f.WaitingSince), CancelledAt: micros.Of(f.CancelledAt),
		FirstActive: micros.Of(f.FirstActive), DurationNs: int64(f.Duration), CPUNs: f.CPU.Nanoseconds(), Totals: f.Totals,
		Uploads: boundsOf(f.Uploads), Sizes: pairsOf(f.Sizes), Parts: f.Parts,
		Cleared: f.Cleared, ClearedBy: f.ClearedBy, Offered: f.Offered, Offers: f.Offers, Reopened: f.Reopened,
	}
	if f.Turn != f.Index {
		r.Turn = f.Turn
	}
	for _, c := range f.Names {
		r.Names = append(r.Names, coverageLine{c.Name, boundsOf(c.Rows)})
	}
	return r
}

func (r *flowRecord) flow(key Key, spec *Spec) *Flow {
	f := &Flow{
		Key: key, Spec: spec, Index: r.Index, State: r.State, Error: r.Error,
		Outcome: buspb.FlowEnd_Outcome(r.Outcome), CancelledBy: r.CancelledBy, CancelDue: r.CancelDue,
		Created: micros.Time(r.Created), Taken: micros.Time(r.Taken), Ended: micros.Time(r.Ended),
		WaitingSince: micros.Time(r.WaitingSince), CancelledAt: micros.Time(r.CancelledAt),
		FirstActive: micros.Time(r.FirstActive), Duration: time.Duration(r.DurationNs), Totals: r.Totals,
		Sizes: sizesOf(r.Sizes), Parts: r.Parts,
		Turn: max(r.Turn, r.Index), Cleared: r.Cleared, ClearedBy: r.ClearedBy, Offered: r.Offered, Offers: r.Offers, Reopened: r.Reopened,
	}
	f.CPU.grow(r.CPUNs)
	addBounds(&f.Uploads, r.Uploads)
	for _, c := range r.Names {
		var rows filestore.Intervals
		addBounds(&rows, c.Rows)
		f.Names = append(f.Names, Coverage{c.Name, rows})
	}
	return f
}

// view is the table between two entries. Records, packed or not, and specs are
// immutable, so it only holds on to them.
type view struct {
	specs   map[specKey]specEntry
	flows   []kept
	marks   marks
	deleted map[Key]tombstone
}

// kept is one record as the table has it.
type kept struct {
	Key
	index  uint64
	live   *Flow // nil: packed
	packed string
}

// View returns the state as it stands, to be written while Apply goes on.
func (t *Table) View() io.WriterTo {
	t.mu.RLock()
	defer t.mu.RUnlock()
	v := &view{
		specs:   make(map[specKey]specEntry, len(t.specs)),
		flows:   make([]kept, 0, t.records.len()),
		marks:   t.records.marks,
		deleted: maps.Clone(t.deleted),
	}
	for key, s := range t.specs {
		v.specs[key] = *s
	}
	for key, f := range t.records.live {
		v.flows = append(v.flows, kept{key, f.Index, f, ""})
	}
	for key, packed := range t.records.rested {
		v.flows = append(v.flows, kept{key, packedIndex(packed), nil, packed})
	}
	return v
}

// WriteTo writes the sorted JSON lines.
func (v *view) WriteTo(w io.Writer) (int64, error) { return jsonlines.Write(w, v.lines) }

// lines gives the lines in order, each made when it is asked for.
func (v *view) lines(yield func(snapshotLine) bool) {
	specs := slices.SortedFunc(maps.Keys(v.specs), func(x, y specKey) int {
		return cmp.Or(compareText(x.org.String(), y.org.String()), compareText(x.flow.String(), y.flow.String()))
	})
	// By age within a client, so that reading back keeps each client's order.
	slices.SortFunc(v.flows, func(x, y kept) int {
		return cmp.Or(compareText(x.Org.String(), y.Org.String()), compareText(x.Client.String(), y.Client.String()),
			cmp.Compare(x.index, y.index), compareText(x.Flow.String(), y.Flow.String()))
	})
	for _, key := range specs {
		if !yield(v.specs[key].line()) {
			return
		}
	}
	for _, k := range v.flows {
		f := k.live
		if f == nil {
			f = v.marks.unpack(k.packed, k.Key, v.specs[specKey{k.Org, k.Flow}].spec)
		}
		if !yield(f.line()) {
			return
		}
	}
	for _, k := range slices.SortedFunc(maps.Keys(v.deleted), compareKeys) {
		deleted := snapshotLine{
			Kind: "deleted", Org: k.Org.String(), Client: k.Client.String(), Flow: k.Flow.String(),
			Deleted: micros.Of(v.deleted[k].at), Index: v.deleted[k].index,
		}
		if !yield(deleted) {
			return
		}
	}
}

func (s specEntry) line() snapshotLine {
	p := s.spec
	return snapshotLine{Kind: "spec", Org: p.Org.String(), Flow: p.Flow.String(), Spec: &specLine{
		Creator: p.Creator, Artifacts: p.Artifacts, Names: p.Names, Limits: p.Limits, Urgent: p.Urgent,
		Hunt: p.Hunt.String(), Origin: p.Origin, Digest: hex.EncodeToString(p.digest[:]), Request: s.request,
	}}
}

func (f *Flow) line() snapshotLine {
	return snapshotLine{
		Kind: "flow", Org: f.Org.String(), Client: f.Client.String(), Flow: f.Flow.String(), Record: record(f),
	}
}

// Restore replaces the state by what a View wrote.
func (t *Table) Restore(r io.Reader) error {
	fresh := newTable(nil, nil)
	lines := bufio.NewReaderSize(r, 1<<16)
	for n := 1; ; n++ {
		text, err := lines.ReadBytes('\n')
		if err != nil && err != io.EOF {
			return fmt.Errorf("restore flows: %w", err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			if err := fresh.restoreLine(text); err != nil {
				return fmt.Errorf("restore flows, line %d: %w", n, err)
			}
		}
		if err == io.EOF {
			break
		}
	}
	t.replace(fresh)
	t.restored()
	return nil
}

func (t *Table) replace(fresh *Table) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.index, t.specs, t.records = fresh.index, fresh.specs, fresh.records
	t.clients, t.unfinished, t.deleted = fresh.clients, fresh.unfinished, fresh.deleted
}

func (t *Table) restoreLine(text []byte) error {
	var line snapshotLine
	if err := json.Unmarshal(text, &line); err != nil {
		return err
	}
	org, err := ids.ParseOrg(line.Org)
	if err != nil {
		return err
	}
	flow, err := ids.ParseFlow(line.Flow)
	if err != nil {
		return err
	}
	if line.Kind == "spec" && line.Spec != nil {
		return t.restoreSpec(specKey{org, flow}, line.Spec)
	}
	client, err := ids.ParseClient(line.Client)
	if err != nil {
		return err
	}
	key := Key{org, client, flow}
	switch {
	case line.Kind == "flow" && line.Record != nil:
		entry := t.specs[specKey{org, flow}]
		if entry == nil {
			return fmt.Errorf("flow %s of %s has no spec: %w", flow, client, ErrInvalid)
		}
		entry.flows++
		a := applier{Table: t, org: org}
		key.Org, key.Flow = entry.spec.Org, entry.spec.Flow // one text for all its clients
		f := line.Record.flow(key, entry.spec)
		a.put(f)
		t.index = max(t.index, f.Turn, f.Cleared)
		return nil
	case line.Kind == "deleted":
		t.deleted[key] = tombstone{micros.Time(line.Deleted), line.Index}
		t.index = max(t.index, line.Index)
		return nil
	}
	return fmt.Errorf("line of kind %.20q: %w", line.Kind, ErrInvalid)
}

func (t *Table) restoreSpec(key specKey, s *specLine) error {
	spec := &Spec{
		Org: key.org, Flow: key.flow, Creator: s.Creator, Artifacts: s.Artifacts, Names: s.Names,
		Limits: s.Limits, Urgent: s.Urgent, Origin: s.Origin,
	}
	if s.Hunt != "" {
		hunt, err := ids.ParseHunt(s.Hunt)
		if err != nil {
			return err
		}
		spec.Hunt = hunt
	}
	if n, err := hex.Decode(spec.digest[:], []byte(s.Digest)); err != nil || n != len(spec.digest) {
		return fmt.Errorf("digest of flow %s: %w", key.flow, ErrInvalid)
	}
	t.specs[key] = &specEntry{spec: spec, request: s.Request}
	return nil
}
