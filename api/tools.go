package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/users"
)

// ToolFiles make files of tools durable: *inventory.Files.
type ToolFiles interface {
	// Receive stores what from gives where every node can serve it.
	Receive(ctx context.Context, org ids.Org, from io.Reader) (inventory.Received, error)

	// Drop removes a file that no tool came to name.
	Drop(ctx context.Context, got inventory.Received)
}

// fetchPatience is how long a collection waits for a tool that has to be fetched
// first. The fetch goes on afterwards.
const fetchPatience = 45 * time.Second

// ToolDefinition is what an operator says of a tool.
type ToolDefinition struct {
	Version          string `json:"version,omitempty" maxLength:"200"`
	URL              string `json:"url,omitempty" doc:"where it can be fetched" maxLength:"4096"`
	GithubProject    string `json:"github_project,omitempty" doc:"OWNER/NAME: its newest release is fetched" maxLength:"200"`
	GithubAssetRegex string `json:"github_asset_regex,omitempty" doc:"which file of the release" maxLength:"1000"`
	ServeLocally     bool   `json:"serve_locally,omitempty" doc:"clients fetch it from this pack, not from url"`
	ExpectedHash     string `json:"expected_hash,omitempty" doc:"SHA-256 in hex; anything else that comes is refused" maxLength:"64"`
	Filename         string `json:"filename,omitempty" doc:"what it is called on clients" maxLength:"200"`
}

// Tool is a tool as operators see it.
type Tool struct {
	Name string `json:"name"`
	ToolDefinition
	Artifact    string     `json:"artifact,omitempty" doc:"that defines it, unless an operator does"`
	Override    bool       `json:"override" doc:"an operator defined it"`
	Setter      string     `json:"setter,omitempty" doc:"who that was"`
	Available   bool       `json:"available" doc:"collections that need it can be started without fetching it first"`
	Hash        string     `json:"hash,omitempty" doc:"SHA-256 in hex"`
	Size        int64      `json:"size,omitempty"`
	Stored      *time.Time `json:"stored,omitempty" doc:"since when this pack has the file"`
	From        string     `json:"from,omitempty" doc:"where the file was fetched"`
	Fetching    bool       `json:"fetching,omitempty"`
	Error       string     `json:"error,omitempty" doc:"why it could not be fetched"`
	InvalidHash string     `json:"invalid_hash,omitempty" doc:"of what came in place of what was expected"`
	URLs        []string   `json:"urls,omitempty" doc:"where clients are sent"`
}

func (s *Server) showTool(t *inventory.Tool) Tool {
	out := Tool{
		Name: t.Name, Artifact: t.Artifact, Override: t.Override, Setter: t.Setter, Hash: t.Hash(), Fetching: t.Fetching,
		ToolDefinition: ToolDefinition{
			Version: t.Version, URL: t.URL, GithubProject: t.GithubProject, GithubAssetRegex: t.GithubAssetRegex,
			ServeLocally: t.ServeLocally, ExpectedHash: t.ExpectedHash, Filename: t.Filename(),
		},
	}
	if t.File != nil {
		out.Size, out.Stored, out.From = t.File.Size, timeOrNil(t.File.At), t.File.From
	}
	if t.Failure != nil {
		out.Error, out.InvalidHash = t.Failure.Text, t.Failure.Hash
	}
	urls, err := t.URLs(s.o.ServerURLs)
	out.URLs, out.Available = urls, err == nil
	return out
}

// ToolPath names a tool in a path; without a version the highest counts.
type ToolPath struct {
	Name    string `path:"name" maxLength:"200"`
	Version string `query:"version" doc:"without it, the highest" maxLength:"200"`
}

func (s *Server) toolRoutes() {
	get(s, "/tools", "listTools", "List the tools that artifacts need", s.listTools)
	get(s, "/tools/{name}", "showTool", "Show one tool", s.showOneTool)
	register(s, http.MethodPut, "/tools/{name}", "setTool", "Define a tool, before what artifacts say of it", s.setTool)
	register(s, http.MethodDelete, "/tools/{name}", "deleteTool", "Forget what operators did with a tool: definition and file", s.deleteTool)
	register(s, http.MethodPost, "/tools/{name}/fetch", "fetchTool", "Have the master fetch a tool now", s.fetchTool)
	s.uploadRoute()
}

func (s *Server) listTools(ctx context.Context, _ *struct{}) (*body[List[Tool]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	out := List[Tool]{Items: []Tool{}, AsOf: s.asOf()}
	for _, t := range s.o.Tools.Tools(ids.RootOrg) {
		out.Items = append(out.Items, s.showTool(t))
	}
	out.Total = int64(len(out.Items))
	return &body[List[Tool]]{out}, nil
}

func (s *Server) showOneTool(ctx context.Context, in *struct{ ToolPath }) (*body[Tool], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	t, err := s.o.Tools.Lookup(ids.RootOrg, in.Name, in.Version)
	if err != nil {
		return nil, err
	}
	return &body[Tool]{s.showTool(t)}, nil
}

func (s *Server) setTool(ctx context.Context, in *struct {
	Writing
	Name string `path:"name" maxLength:"200"`
	Body ToolDefinition
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	d := in.Body
	return s.defineTool(ctx, who, in.Writing, artifacts.Tool{
		Name: in.Name, Version: d.Version, URL: d.URL, GithubProject: d.GithubProject, GithubAssetRegex: d.GithubAssetRegex,
		ServeLocally: d.ServeLocally, ExpectedHash: d.ExpectedHash, Filename: d.Filename,
	})
}

func (s *Server) defineTool(ctx context.Context, who *Principal, w Writing, t artifacts.Tool) (*body[Done], error) {
	return s.change(ctx, who, w, func() (*change, error) {
		m, err := s.o.Tools.PlanSet(ids.RootOrg, t, who.Name)
		return &change{m, "tool.set", t.Name, map[string]string{"version": t.Version, "url": t.URL, "expected_hash": t.ExpectedHash}}, err
	})
}

// SetTool makes a definition in the name of who; queries use it.
func (s *Server) SetTool(ctx context.Context, who *Principal, t artifacts.Tool) error {
	_, err := s.defineTool(ctx, who, Writing{}, t)
	return err
}

func (s *Server) deleteTool(ctx context.Context, in *struct {
	Writing
	ToolPath
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, err := s.o.Tools.PlanDelete(ids.RootOrg, in.Name, in.Version, who.Name)
		return &change{m, "tool.delete", in.Name, map[string]string{"version": in.Version}}, err
	})
}

func (s *Server) fetchTool(ctx context.Context, in *struct {
	Writing
	ToolPath
},
) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) { return s.planFetch(who, in.Name, in.Version) })
}

func (s *Server) planFetch(who *Principal, name, version string) (*change, error) {
	m, err := s.o.Tools.PlanWant(ids.RootOrg, name, version, who.Name)
	return &change{m, "tool.fetch", name, map[string]string{"version": version}}, err
}

// fetchTools has the master fetch what a collection needs and nobody has, and waits
// for a while until it is there.
func (s *Server) fetchTools(ctx context.Context, who *Principal, missing []artifacts.Tool) error {
	for _, t := range missing {
		_, err := s.change(ctx, who, Writing{}, func() (*change, error) { return s.planFetch(who, t.Name, t.Version) })
		if err != nil {
			return err
		}
	}
	patience, cancel := context.WithTimeout(ctx, fetchPatience)
	defer cancel()
	for _, t := range missing {
		if err := s.awaitTool(patience, t); err != nil {
			return err
		}
	}
	return nil
}

// awaitTool returns when a tool is not fetched any more, whatever came of it, or
// says that it still is.
func (s *Server) awaitTool(ctx context.Context, t artifacts.Tool) error {
	for {
		changed := s.o.Tools.Changed()
		_, err := s.o.ToolVariables(t)
		if !errors.Is(err, inventory.ErrFetching) {
			return err
		}
		select {
		case <-changed:
		case <-s.leaving:
			return errLeaving
		case <-ctx.Done():
			return err
		}
	}
}

// FetchTool has the master fetch a tool that this pack has no file of, in the name of
// who, and waits for a while until it is there; queries use it.
func (s *Server) FetchTool(ctx context.Context, who *Principal, t artifacts.Tool) error {
	return s.fetchTools(ctx, who, []artifacts.Tool{t})
}

// errHash means that an upload is not what its sender says it is.
var errHash = fmt.Errorf("the file that came has another SHA-256: %w", inventory.ErrInvalid)

// uploadIn is an upload under way: its body is read by the handler, piece by piece.
type uploadIn struct {
	Writing
	ToolPath
	Filename string `query:"filename" doc:"what it is called on clients; without it, as the part says" maxLength:"200"`
	Hash     string `query:"sha256" doc:"refuse the file if it is another one" pattern:"^[0-9a-fA-F]{64}$"`

	part func() (io.Reader, string, error) // the file and its name
}

// Resolve implements huma.Resolver.
func (in *uploadIn) Resolve(ctx huma.Context) []error {
	in.part = func() (io.Reader, string, error) { return filePart(ctx) }
	return nil
}

func (s *Server) uploadRoute() {
	s.formRoute(&huma.Operation{
		Method: http.MethodPut, Path: prefix + "/tools/{name}/file", OperationID: "uploadTool",
		Summary: "Upload a tool's file, which this pack serves from then on",
	}, func(o huma.Operation) {
		huma.Register(s.api, o, func(ctx context.Context, in *uploadIn) (*body[Done], error) {
			out, err := s.uploadTool(ctx, in)
			if err != nil {
				return nil, s.fail(err)
			}
			return out, nil
		})
	})
}

// formRoute registers an operation whose body is a form with a file.
func (s *Server) formRoute(o *huma.Operation, register func(huma.Operation)) {
	register(*o)
	// Told afterwards: of a body that it knows, huma would read and check all.
	operation := s.api.OpenAPI().Paths[o.Path].Put
	if o.Method == http.MethodPost {
		operation = s.api.OpenAPI().Paths[o.Path].Post
	}
	operation.RequestBody = &huma.RequestBody{
		Required: true, Content: map[string]*huma.MediaType{"multipart/form-data": {Schema: &huma.Schema{
			Type: "object", Required: []string{"file"}, Properties: map[string]*huma.Schema{"file": {Type: "string", Format: "binary"}},
		}}},
	}
}

func (s *Server) uploadTool(ctx context.Context, in *uploadIn) (*body[Done], error) {
	who, err := s.may(ctx, users.ServerAdmin)
	if err != nil {
		return nil, err
	}
	from, filename, err := in.part()
	if err != nil {
		return nil, err
	}
	if in.Filename != "" {
		filename = in.Filename
	}
	got, err := s.o.ToolFiles.Receive(ctx, ids.RootOrg, from)
	if err != nil {
		return nil, err
	}
	wish := inventory.Upload{Name: in.Name, Version: in.Version, Filename: filename, File: got, Setter: who.Name}
	return s.storeTool(ctx, who, in.Writing, wish, in.Hash)
}

// storeTool makes a file that is durable a tool's, or drops it.
func (s *Server) storeTool(ctx context.Context, who *Principal, w Writing, wish inventory.Upload, hash string) (*body[Done], error) {
	named := false
	done, err := s.change(ctx, who, w, func() (*change, error) {
		if !sameHash(hash, wish.File.Hash) {
			return nil, fmt.Errorf("upload tool %s: %s: %w", wish.Name, wish.File.Hash, errHash)
		}
		m, uses, err := s.o.Tools.PlanUpload(ids.RootOrg, wish)
		named = uses && err == nil
		return &change{m, "tool.upload", wish.Name, map[string]string{
			"version": wish.Version, "sha256": wish.File.Hash, "filename": wish.Filename,
		}}, err
	})
	if err != nil && named && (errors.Is(err, ErrUnsure) || errors.Is(err, context.DeadlineExceeded)) {
		return nil, err // it may yet be named: a file too many takes space, one too few fails clients
	}
	if err != nil || !named {
		s.o.ToolFiles.Drop(ctx, wish.File)
	}
	return done, err
}

// StoreTool makes a file that is durable a tool's, in the name of who; queries use it.
func (s *Server) StoreTool(ctx context.Context, who *Principal, wish inventory.Upload, hash string) error {
	_, err := s.storeTool(ctx, who, Writing{}, wish, hash)
	return err
}
