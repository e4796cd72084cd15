package hunts

import (
	"fmt"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
)

// Names in the zip of a hunt.
const (
	manifestName = "manifest.json"
	huntName     = "hunt.json"
	clientsName  = "clients.jsonl"
	uploadsName  = "uploads.jsonl"

	zipVersion = 1
)

// Kinds of members.
const (
	kindHunt    = "hunt"
	kindClients = "clients"
	kindRows    = "rows"    // of a result, as they are stored
	kindBatches = "batches" // whose rows those are: {"client", "flow", "name", "first", "rows"}, in their order
	kindTable   = "table"   // the same rows as CSV
	kindLogs    = "logs"
	kindUploads = "uploads" // the list of uploads, with the members that have their bytes
	kindAbout   = "uploads_about"
)

// Manifest is the last member of a hunt's zip: what is in it, and what is not.
type Manifest struct {
	Version  int            `json:"version"`
	Hunt     string         `json:"hunt"`
	Org      string         `json:"org,omitempty"`
	Exported time.Time      `json:"exported"`
	Whole    bool           `json:"whole"` // no problem is known
	Members  []ZipMember    `json:"members"`
	Problems []ZipProblem   `json:"problems"`
	Counts   map[string]int `json:"counts"` // of members, by kind
	Options  ZipOptions     `json:"options"`
}

// ZipMember is one file of a hunt's zip.
type ZipMember struct {
	Path   string        `json:"path"`
	Kind   string        `json:"kind"`
	Size   int64         `json:"size"`
	SHA256 string        `json:"sha256"`
	Result string        `json:"result,omitempty"` // whose rows it has
	Report *ExportReport `json:"report,omitempty"`
}

// ZipProblem is something that is missing, doubtful or damaged.
type ZipProblem struct {
	Path    string `json:"path,omitempty"` // of the member that it concerns
	Client  string `json:"client,omitempty"`
	Flow    string `json:"flow,omitempty"`
	Problem string `json:"problem"`
}

// ZipOptions choose what of a hunt is put into a zip.
type ZipOptions struct {
	RowsOnly bool `json:"rows_only,omitempty"` // neither logs nor uploads
	Bare     bool `json:"bare,omitempty"`      // CSV without the guard against formulas

	// Format leaves one of the two forms of rows out; empty: both are there. Without
	// JSON lines a zip cannot be brought in again.
	Format string `json:"format,omitempty"`

	// Expand writes sparse uploads with their holes, up to a bound; others stay as they
	// are stored.
	Expand bool `json:"expand_sparse,omitempty"`
}

// Formats of ZipOptions.
const (
	FormatJSON    = "json"
	FormatCSVOnly = "csv_only"
)

// HuntFile is hunt.json: a hunt as it stood when its zip was made.
type HuntFile struct {
	Hunt        string           `json:"hunt"`
	Org         string           `json:"org,omitempty"`
	Description string           `json:"description,omitempty"`
	Tags        []string         `json:"tags,omitempty"`
	Creator     string           `json:"creator"`
	State       State            `json:"state"`
	Created     time.Time        `json:"created"`
	Started     *time.Time       `json:"started,omitempty"`
	Ended       *time.Time       `json:"ended,omitempty"`
	Expires     time.Time        `json:"expires"`
	Artifacts   []flows.Artifact `json:"artifacts"`
	Results     []string         `json:"results"`
	Limits      flows.Limits     `json:"limits"`
	Rate        int64            `json:"clients_per_minute,omitempty"`
	Limit       int64            `json:"client_limit,omitempty"`
	Urgent      bool             `json:"urgent,omitempty"`
	Conditions  Conditions       `json:"conditions"`
	Counts      map[string]int   `json:"counts"`
	Sums        Sums             `json:"sums"`
	Origin      *Origin          `json:"origin,omitempty"` // where it ran before it was imported
}

func fileOf(h *Hunt) *HuntFile {
	f := &HuntFile{
		Hunt: h.Key.Hunt.String(), Org: h.Org.String(), Description: h.Description, Tags: h.Tags.List(), Creator: h.Creator, State: h.State,
		Created: h.Created, Started: given(h.Started), Ended: given(h.Ended), Expires: h.Expires, Artifacts: h.Artifacts, Results: h.Results,
		Limits: h.Limits, Rate: h.Rate, Limit: h.Limit, Urgent: h.Urgent, Conditions: h.Conditions, Counts: map[string]int{}, Sums: h.Sums, Origin: h.Origin,
	}
	for s := range sets {
		f.Counts[Set(s).String()] = h.Counts[s]
	}
	return f
}

func given(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}

// problems tells of faults of a member's rows.
func (f *Faults) problems(path string) (out []ZipProblem) {
	for _, h := range f.Holes {
		out = append(out, ZipProblem{path, h.Stream.Client.String(), h.Stream.Flow.String(), fmt.Sprintf("rows %d to %d of %s are missing", h.Rows.Start, h.Rows.End-1, h.Stream.Name)})
	}
	for _, c := range f.Conflicts {
		out = append(out, ZipProblem{path, c.Stream.Client.String(), c.Stream.Flow.String(), fmt.Sprintf("rows %d to %d of %s came twice with different bytes", c.FirstRow, c.FirstRow+c.Rows-1, c.Stream.Name)})
	}
	for _, d := range f.Damage {
		if d.Kind != filestore.DamageTorn { // a node writes just now, or was killed: nobody was told of those rows
			out = append(out, ZipProblem{Path: path, Problem: fmt.Sprintf("%d bytes of %s at %d cannot be used: %s", d.Bytes, d.Path, d.Offset, d.Kind)})
		}
	}
	return out
}
