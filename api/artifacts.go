package api

import (
	"context"
	"net/http"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/users"
)

// Artifact is a definition as operators see it.
type Artifact struct {
	Name        string              `json:"name"`
	Type        string              `json:"type"`
	Description string              `json:"description"`
	BuiltIn     bool                `json:"built_in"`
	Sources     []string            `json:"sources" nullable:"false"`
	Parameters  []ArtifactParameter `json:"parameters" nullable:"false"`
	Permissions []string            `json:"required_permissions,omitempty"`
	Text        string              `json:"text,omitempty" doc:"the file, when one artifact is asked for"`
}

// ArtifactParameter is one parameter.
type ArtifactParameter struct {
	Name        string   `json:"name"`
	Type        string   `json:"type,omitempty"`
	Default     string   `json:"default,omitempty"`
	Description string   `json:"description,omitempty"`
	Choices     []string `json:"choices,omitempty"`
}

func showArtifact(d *artifacts.Definition) Artifact {
	out := Artifact{
		Name: d.Name, Type: string(d.Type), Description: d.Description, BuiltIn: d.BuiltIn,
		Sources: []string{}, Parameters: []ArtifactParameter{}, Permissions: d.RequiredPermissions,
	}
	for i := range d.Sources {
		out.Sources = append(out.Sources, d.ResultName(&d.Sources[i]))
	}
	for _, p := range d.Parameters {
		out.Parameters = append(out.Parameters, ArtifactParameter{p.Name, p.Type, p.Default, p.Description, p.Choices})
	}
	return out
}

// maxArtifact is the maxLength of setArtifact's text. In a request it may take twice
// as many bytes: JSON escapes each line's end and quote.
const maxArtifact = 4 << 20

func (s *Server) artifactRoutes() {
	get(s, "/artifacts", "listArtifacts", "List artifacts", s.listArtifacts)
	get(s, "/artifacts/{name}", "showArtifact", "Show one artifact with its text", s.showArtifact)
	registerLarge(s, 2*maxArtifact+maxBody, http.MethodPut, "/artifacts", "setArtifact", "Store a custom artifact", s.setArtifact)
	register(s, http.MethodDelete, "/artifacts/{name}", "deleteArtifact", "Delete a custom artifact", s.deleteArtifact)
}

func (s *Server) listArtifacts(ctx context.Context, in *struct {
	Query string `query:"q" doc:"a part of the name, case ignored"`
	Type  string `query:"type" doc:"CLIENT, CLIENT_EVENT, SERVER ..."`
},
) (*body[List[Artifact]], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	out := List[Artifact]{Items: []Artifact{}, AsOf: s.asOf()}
	for _, d := range s.o.Artifacts.Repository(ids.RootOrg).List() {
		named := strings.Contains(strings.ToLower(d.Name), strings.ToLower(in.Query))
		if named && (in.Type == "" || strings.EqualFold(in.Type, string(d.Type))) {
			out.Items = append(out.Items, showArtifact(d))
		}
	}
	out.Total = int64(len(out.Items))
	return &body[List[Artifact]]{out}, nil
}

// ArtifactPath names an artifact in a path.
type ArtifactPath struct {
	Name string `path:"name"`
}

func (s *Server) showArtifact(ctx context.Context, in *struct {
	ArtifactPath
},
) (*body[Artifact], error) {
	if _, err := s.may(ctx, users.ReadResults); err != nil {
		return nil, err
	}
	d, err := s.o.Artifacts.Repository(ids.RootOrg).Lookup(in.Name)
	if err != nil {
		return nil, err
	}
	out := showArtifact(d)
	out.Text = d.Text
	return &body[Artifact]{out}, nil
}

func (s *Server) setArtifact(ctx context.Context, in *struct {
	Writing
	Body struct {
		Text string `json:"text" maxLength:"4194304"`
	}
},
) (*body[Done], error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		m, d, err := s.o.Artifacts.PlanSet(ids.RootOrg, in.Body.Text, who.Name)
		if err != nil {
			return nil, err
		}
		if err := s.check(who, s.writerOf(d)); err != nil {
			return nil, err
		}
		if old, err := s.o.Artifacts.Repository(ids.RootOrg).Lookup(d.Name); err == nil {
			if err := s.check(who, s.writerOf(old)); err != nil {
				return nil, err
			}
		}
		return &change{m, "artifact.set", d.Name, nil}, nil
	})
}

// writerOf is the permission to write an artifact: those that run on the server, as
// somebody else, or on all clients without anybody asking are for trusted writers.
func (s *Server) writerOf(d *artifacts.Definition) users.Permission {
	if d.Type == artifacts.Server || d.Type == artifacts.ServerEvent || d.Impersonate != "" || d.StandsFor(s.o.Unasked) {
		return users.ServerArtifactWriter
	}
	return users.ArtifactWriter
}

func (s *Server) deleteArtifact(ctx context.Context, in *struct {
	Writing
	ArtifactPath
},
) (*body[Done], error) {
	who, err := s.may(ctx)
	if err != nil {
		return nil, err
	}
	return s.change(ctx, who, in.Writing, func() (*change, error) {
		d, err := s.o.Artifacts.Repository(ids.RootOrg).Lookup(in.Name)
		if err != nil {
			return nil, err
		}
		if err := s.check(who, s.writerOf(d)); err != nil {
			return nil, err
		}
		m, err := s.o.Artifacts.PlanDelete(ids.RootOrg, in.Name, who.Name)
		return &change{m, "artifact.delete", in.Name, nil}, err
	})
}
