package api

import (
	"context"
	"errors"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/users"
)

// HuntImports bring hunts in from elsewhere: *hunts.Importer.
type HuntImports interface {
	// Import stores what a zip has, and returns the zip's SHA-256.
	Import(ctx context.Context, org ids.Org, from io.Reader) (*hunts.Imported, string, error)

	// Drop removes what was stored and will not be recorded.
	Drop(ctx context.Context, org ids.Org, in *hunts.Imported) error
}

// HuntOrigin is where a hunt ran before it was brought here.
type HuntOrigin struct {
	Org      string    `json:"org,omitempty"`
	Hunt     string    `json:"hunt_id"`
	Creator  string    `json:"creator"`
	Created  time.Time `json:"created"`
	Exported time.Time `json:"exported"`
	SHA256   string    `json:"sha256" doc:"of the zip"`
}

func originOf(o *hunts.Origin) *HuntOrigin {
	if o == nil {
		return nil
	}
	return &HuntOrigin{o.Org, o.Hunt, o.Creator, o.Created, o.Exported, o.SHA256}
}

// HuntImported is the answer to an import.
type HuntImported struct {
	Hunted
	Rows     int64            `json:"rows"`
	Logs     int64            `json:"logs"`
	Uploads  int64            `json:"uploads"`
	Skipped  []HuntZipProblem `json:"skipped,omitempty" doc:"uploads that the zip does not have whole"`
	Problems []HuntZipProblem `json:"problems,omitempty" doc:"what the zip says itself that was missing where it was made"`
}

// HuntZipProblem is something that a zip lacks.
type HuntZipProblem struct {
	Path    string `json:"path,omitempty"`
	Client  string `json:"client_id,omitempty"`
	Flow    string `json:"flow_id,omitempty"`
	Problem string `json:"problem"`
}

func zipProblems(all []hunts.ZipProblem) []HuntZipProblem {
	var out []HuntZipProblem
	for _, p := range all {
		out = append(out, HuntZipProblem(p))
	}
	return out
}

// importIn is an import under way: its body is read by the handler, piece by piece.
type importIn struct {
	Writing
	Description string `query:"description" doc:"left out: the one it had" maxLength:"4096"`

	part func() (io.Reader, string, error) // the zip
}

// Resolve implements huma.Resolver.
func (in *importIn) Resolve(ctx huma.Context) []error {
	in.part = func() (io.Reader, string, error) { return filePart(ctx) }
	return nil
}

func (s *Server) huntImportRoute() {
	s.formRoute(&huma.Operation{
		Method: http.MethodPost, Path: prefix + "/hunts/import", OperationID: "importHunt",
		Summary: "Bring in the zip of a hunt, from here or another pack",
	}, func(o huma.Operation) {
		huma.Register(s.api, o, func(ctx context.Context, in *importIn) (*body[HuntImported], error) {
			out, err := s.importHunt(ctx, in)
			if err != nil {
				return nil, s.fail(err)
			}
			return out, nil
		})
	})
}

func (s *Server) importHunt(ctx context.Context, in *importIn) (*body[HuntImported], error) {
	who, err := s.may(ctx, users.CollectServer)
	if err != nil {
		return nil, err
	}
	if index, known, err := s.earlier(ctx, who, in.Writing); known {
		var was *Hunted
		if err == nil {
			was, err = s.huntedBy(index)
		}
		if err != nil {
			return nil, err
		}
		return &body[HuntImported]{HuntImported{Hunted: *was}}, nil
	}
	from, _, err := in.part()
	if err != nil {
		return nil, err
	}
	out, err := s.ImportHunt(ctx, who, from, in.Description, in.Writing)
	if err != nil {
		return nil, err
	}
	return &body[HuntImported]{*out}, nil
}

// ImportHunt brings in the zip of a hunt in the name of who; queries use it, too.
func (s *Server) ImportHunt(ctx context.Context, who *Principal, from io.Reader, description string, w Writing) (*HuntImported, error) {
	in, sum, err := s.o.HuntImports.Import(ctx, ids.RootOrg, from)
	if err != nil {
		return nil, err
	}
	c, err := s.planImport(hunts.Arrival{Org: ids.RootOrg, Imported: in, Creator: who.Name, Description: description, SHA256: sum})
	var index uint64
	if err == nil {
		index, err = s.propose(ctx, who, w, c)
	}
	if errors.Is(err, ErrUnsure) || errors.Is(err, context.DeadlineExceeded) {
		return nil, err // it may yet be recorded, and then its files have to be there
	}
	if h, unknown := s.o.Hunts.Hunt(hunts.Key{Org: ids.RootOrg, Hunt: in.Hunt}); err == nil && unknown == nil && h.Index == index {
		s.Audit(ctx, who, c.operation, c.object, c.details)
		return importedAs(in, index), nil
	}
	if gone := s.o.HuntImports.Drop(ctx, ids.RootOrg, in); gone != nil {
		s.log.Warn("files of an import that is not recorded are still there", "err", gone)
	}
	if err != nil {
		return nil, err
	}
	was, err := s.huntedBy(index) // the same request came at the same time, and was first
	if err != nil {
		return nil, err
	}
	return &HuntImported{Hunted: *was}, nil
}

func importedAs(in *hunts.Imported, index uint64) *HuntImported {
	return &HuntImported{
		Hunted: Hunted{Hunt: in.Hunt.String(), Index: index}, Rows: in.Rows, Logs: in.Logs, Uploads: in.Uploads,
		Skipped: zipProblems(in.Skipped), Problems: zipProblems(in.Manifest.Problems),
	}
}

func (s *Server) planImport(a hunts.Arrival) (*change, error) {
	m, err := s.o.Hunts.PlanImport(a, time.Now())
	return &change{m, "hunt.import", a.Imported.Hunt.String(), map[string]string{
		"from": a.Imported.Origin.Hunt, "sha256": a.SHA256,
		"rows": strconv.FormatInt(a.Imported.Rows, 10), "uploads": strconv.FormatInt(a.Imported.Uploads, 10),
	}}, err
}

// clientsThere are the clients of a hunt that ran elsewhere.
func (s *Server) clientsThere(ctx context.Context, h *hunts.Hunt, set, cursor string, limit int) (*body[List[HuntClient]], error) {
	out := List[HuntClient]{Items: []HuntClient{}, AsOf: s.asOf(), Total: h.Sums.Flows}
	for {
		lines, next, err := s.o.HuntTables.ClientsThere(ctx, h.Key, cursor, limit-len(out.Items))
		if err != nil {
			return nil, err
		}
		for i := range lines {
			if one := clientThere(&lines[i]); set == "" || one.Set == set {
				out.Items = append(out.Items, one)
			}
		}
		if cursor = next; cursor == "" || len(out.Items) >= limit {
			out.Next = cursor
			return &body[List[HuntClient]]{out}, nil
		}
	}
}

func clientThere(l *hunts.ClientLine) HuntClient {
	return HuntClient{
		Client: l.ClientID, Hostname: l.Hostname, Set: hunts.SetOf(flows.State(l.State)).String(), Attempt: l.Attempt, Flow: l.FlowID,
		State: l.State, Error: l.Error, Rows: l.Rows, Uploads: l.Uploads, Bytes: l.UploadBytes, CPU: l.CPU, Created: l.Created, Ended: l.Ended,
	}
}
