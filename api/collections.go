package api

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/users"
)

// CollectionImports bring collections in from elsewhere: *collections.Importer.
type CollectionImports interface {
	// Import stores what a zip has; a *collections.KnownError says that the client has it.
	Import(ctx context.Context, wish collections.Wish, from io.Reader) (*collections.Imported, error)

	// Drop removes what was stored and will not be recorded.
	Drop(ctx context.Context, in *collections.Imported) error
}

// CollectionImported is the answer to an import.
type CollectionImported struct {
	Client   string              `json:"client_id"`
	Flow     string              `json:"flow_id"`
	Index    uint64              `json:"index"`
	Known    bool                `json:"known,omitempty" doc:"the same zip was brought in before: nothing was changed"`
	Added    bool                `json:"client_added,omitempty" doc:"the client was made for it"`
	Rows     int64               `json:"rows"`
	Logs     int64               `json:"logs"`
	Uploads  int64               `json:"uploads"`
	Skipped  []CollectionProblem `json:"skipped,omitempty" doc:"uploads that the zip does not have whole"`
	Problems []CollectionProblem `json:"problems,omitempty" doc:"what the zip says itself that was missing where it was made, and files that nobody understands"`
}

// CollectionProblem is something that a zip lacks.
type CollectionProblem struct {
	Path    string `json:"path,omitempty"`
	Problem string `json:"problem"`
}

func collectionProblems(all []container.Problem) (out []CollectionProblem) {
	for _, p := range all {
		out = append(out, CollectionProblem(p))
	}
	return out
}

// collectionIn is an import under way: its body is read by the handler, piece by piece.
type collectionIn struct {
	Writing
	Client   string `query:"client" doc:"the client that gets it; auto or left out: one made from the name of the host"`
	Hostname string `query:"hostname" maxLength:"200" doc:"of the host, for auto; left out: as the zip says"`
	Password string `header:"X-Raptorpack-Password" maxLength:"256" doc:"of a sealed zip"`

	part func() (io.Reader, string, error) // the zip
}

// Resolve implements huma.Resolver.
func (in *collectionIn) Resolve(ctx huma.Context) []error {
	in.part = func() (io.Reader, string, error) { return filePart(ctx) }
	return nil
}

func (s *Server) collectionImportRoute() {
	s.formRoute(&huma.Operation{
		Method: http.MethodPost, Path: prefix + "/collections/import", OperationID: "importCollection",
		Summary: "Bring in the zip of an offline collector or of a collection, as a finished collection of a client",
	}, func(o huma.Operation) {
		huma.Register(s.api, o, func(ctx context.Context, in *collectionIn) (*body[CollectionImported], error) {
			out, err := s.importCollection(ctx, in)
			if err != nil {
				return nil, s.fail(err)
			}
			return &body[CollectionImported]{*out}, nil
		})
	})
}

func (s *Server) importCollection(ctx context.Context, in *collectionIn) (*CollectionImported, error) {
	who, err := s.may(ctx, users.CollectServer)
	if err != nil {
		return nil, err
	}
	from, _, err := in.part()
	if err != nil {
		return nil, err
	}
	return s.ImportCollection(ctx, who, collections.Wish{Client: in.Client, Hostname: in.Hostname, Password: in.Password}, from)
}

// ImportCollection brings in the zip of a collection in the name of who; queries use it,
// too. The zip's SHA-256 keeps a client from having it twice, so that a call may be
// repeated.
func (s *Server) ImportCollection(ctx context.Context, who *Principal, wish collections.Wish, from io.Reader) (*CollectionImported, error) {
	wish.Org, wish.Creator = ids.RootOrg, who.Name
	in, err := s.o.Imports.Import(ctx, wish, from)
	var known *collections.KnownError
	if errors.As(err, &known) {
		return knownCollection(known.Flow), nil
	}
	if err != nil {
		return nil, err
	}
	added, err := s.addClientOf(ctx, who, in)
	var index uint64
	if err == nil {
		index, err = s.recordCollection(ctx, who, in)
	}
	if errors.Is(err, ErrUnsure) || errors.Is(err, context.DeadlineExceeded) {
		return nil, err // it may yet be recorded, and then its files have to be there
	}
	if err == nil {
		return &CollectionImported{
			Client: in.Arrival.Client.String(), Flow: in.Arrival.Flow.String(), Index: index, Added: added, Rows: in.Rows(), Logs: in.Arrival.Logs,
			Uploads: int64(len(in.Arrival.Uploads)), Skipped: collectionProblems(in.Skipped), Problems: collectionProblems(in.Problems),
		}, nil
	}
	if gone := s.o.Imports.Drop(ctx, in); gone != nil {
		s.log.Warn("files of an import that is not recorded are still there", "err", gone)
	}
	if f, there := s.o.Flows.ImportedFrom(ids.RootOrg, in.Arrival.Client, in.Arrival.Origin.SHA256); there && errors.Is(err, flows.ErrExists) {
		return knownCollection(f), nil // the same zip came at the same time, and was first
	}
	return nil, err
}

func knownCollection(f *flows.Flow) *CollectionImported {
	return &CollectionImported{
		Client: f.Client.String(), Flow: f.Flow.String(), Index: f.Index, Known: true, Rows: f.Rows(), Logs: f.Totals.Logs, Uploads: f.Uploads.Len(),
	}
}

// addClientOf makes the client of an import, unless it is there. What a zip says of a
// client that is known changes nothing.
func (s *Server) addClientOf(ctx context.Context, who *Principal, in *collections.Imported) (bool, error) {
	client := in.Arrival.Client
	if _, known := s.o.Clients.Ordinal(ids.RootOrg, client); known {
		return false, nil
	}
	m, err := s.o.Clients.PlanAdd(ids.RootOrg, client)
	if err != nil {
		return false, err
	}
	host := in.Arrival.Origin.Hostname
	if _, err := s.propose(ctx, who, Writing{}, &change{m, "client.add", client.String(), map[string]string{"hostname": host}}); err != nil {
		return false, err
	}
	s.Audit(ctx, who, "client.add", client.String(), map[string]string{"hostname": host})
	name, err := json.Marshal(map[string]string{"hostname": host})
	if err != nil {
		return true, err
	}
	for _, row := range [][]byte{in.Info, name} { // the name that it was imported under comes last
		if row == nil {
			continue
		}
		if m, err = s.o.Clients.PlanInfo(ids.RootOrg, client, row, ids.Flow{}, nil); err != nil || m == nil {
			s.log.Warn("what a zip says of its host is of no use", "client", client.String(), "err", err)
			continue
		}
		if err := s.tell(ctx, who, m); err != nil {
			return true, err
		}
	}
	return true, nil
}

func (s *Server) tell(ctx context.Context, who *Principal, m *buspb.Mutation) error {
	_, err := s.propose(ctx, who, Writing{}, &change{m: m, operation: "client.info", object: "import"})
	return err
}

func (s *Server) recordCollection(ctx context.Context, who *Principal, in *collections.Imported) (uint64, error) {
	m, err := flows.PlanImport(in.Arrival)
	if err != nil {
		return 0, err
	}
	details := map[string]string{
		"flow": in.Arrival.Flow.String(), "from": in.Arrival.Origin.Session, "sha256": in.Arrival.Origin.SHA256,
		"rows": strconv.FormatInt(in.Rows(), 10), "uploads": strconv.Itoa(len(in.Arrival.Uploads)),
	}
	c := &change{m, "flow.import", in.Arrival.Client.String(), details}
	index, err := s.propose(ctx, who, Writing{}, c)
	if err == nil {
		s.Audit(ctx, who, c.operation, c.object, c.details)
	}
	return index, err
}
