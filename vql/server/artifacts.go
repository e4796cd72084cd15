package server

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/users"
	"raptorpack/vql"
)

type definitionsArgs struct {
	Names    []string `vql:"names" doc:"The artifacts (all)."`
	Deps     bool     `vql:"deps" doc:"Also those that they call, where they run on clients."`
	Sanitize bool     `vql:"sanitize" doc:"Leave out what only people read: descriptions, authors, notebooks, the file."`
}

var artifactDefinitionsPlugin = vql.NewPlugin(vql.Spec{
	Name: "artifact_definitions", Permission: "READ_RESULTS", Doc: "Lists artifact definitions as dicts.",
	Columns: []string{
		"name", "description", "author", "reference", "aliases", "type", "built_in", "required_permissions", "implied_permissions",
		"impersonate", "precondition", "export", "imports", "parameters", "sources", "tools", "resources", "column_types", "raw",
	},
}, func(ctx context.Context, scope *vql.Scope, args *definitionsArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	repository := h.Artifacts.Repository(h.Org)
	found := repository.List()
	if len(args.Names) > 0 {
		found = named(scope, repository, args)
	}
	for _, d := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := emit(definitionDict(d, args.Sanitize)); err != nil {
			return err
		}
	}
	return nil
})

// named finds the definitions asked for, each once, dependencies behind them.
func named(scope *vql.Scope, repository *artifacts.Repository, args *definitionsArgs) []*artifacts.Definition {
	var out []*artifacts.Definition
	add := func(name string) {
		d, err := repository.Lookup(name)
		if err != nil {
			scope.Log(vql.LevelDefault, "artifact_definitions: %v", err)
			return
		}
		if !slices.Contains(out, d) {
			out = append(out, d)
		}
	}
	for _, name := range args.Names {
		add(name)
	}
	if !args.Deps {
		return out
	}
	for _, d := range slices.Clone(out) {
		// A compiled request carries the artifacts that its queries reach.
		request, err := repository.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: d.Name}}})
		if err != nil {
			scope.Log(vql.LevelDefault, "artifact_definitions: %v", err)
			continue
		}
		for _, query := range request.Queries {
			for _, dependency := range query.GetArtifacts() {
				add(dependency.GetName())
			}
		}
	}
	return out
}

func definitionDict(d *artifacts.Definition, sanitize bool) *vql.Dict {
	out := vql.NewDict().Set("name", d.Name)
	if !sanitize {
		out.Set("description", d.Description).Set("author", d.Author).Set("reference", list(append(slices.Clone(d.Reference), d.References...)))
	}
	out.Set("aliases", list(d.Aliases)).
		Set("type", strings.ToLower(string(d.Type))).
		Set("built_in", d.BuiltIn).
		Set("required_permissions", list(d.RequiredPermissions)).
		Set("implied_permissions", list(d.ImpliedPermissions)).
		Set("impersonate", d.Impersonate).
		Set("precondition", d.Precondition).
		Set("export", d.Export).
		Set("imports", list(d.Imports)).
		Set("parameters", each(d.Parameters, func(p artifacts.Parameter) *vql.Dict { return parameterDict(p, sanitize) })).
		Set("sources", each(d.Sources, func(s artifacts.Source) *vql.Dict { return definedSource(s, sanitize) })).
		Set("tools", each(d.Tools, toolDict)).
		Set("resources", resourcesDict(d.Resources)).
		Set("column_types", each(d.ColumnTypes, func(c artifacts.ColumnType) *vql.Dict {
			return vql.NewDict().Set("name", c.Name).Set("type", c.Type).Set("description", c.Description)
		}))
	if !sanitize {
		out.Set("raw", d.Text)
	}
	return out
}

func each[T any](all []T, show func(T) *vql.Dict) []*vql.Dict {
	out := make([]*vql.Dict, 0, len(all))
	for _, one := range all {
		out = append(out, show(one))
	}
	return out
}

func parameterDict(p artifacts.Parameter, sanitize bool) *vql.Dict {
	out := vql.NewDict().Set("name", p.Name).Set("default", p.Default).Set("type", p.Type).Set("choices", list(p.Choices)).
		Set("validating_regex", p.ValidatingRegex).Set("artifact_type", p.ArtifactType)
	if !sanitize {
		out.Set("friendly_name", p.FriendlyName).Set("description", p.Description)
	}
	return out
}

func definedSource(s artifacts.Source, sanitize bool) *vql.Dict {
	out := vql.NewDict().Set("name", s.Name).Set("precondition", s.Precondition).Set("query", s.Query).Set("queries", list(s.Queries))
	if sanitize {
		return out
	}
	return out.Set("description", s.Description).Set("notebook", each(s.Notebook, func(c artifacts.Cell) *vql.Dict {
		return vql.NewDict().Set("type", c.Type).Set("name", c.Name).Set("template", c.Template)
	}))
}

func toolDict(t artifacts.Tool) *vql.Dict {
	return vql.NewDict().Set("name", t.Name).Set("version", t.Version).Set("url", t.URL).Set("github_project", t.GithubProject).
		Set("github_asset_regex", t.GithubAssetRegex).Set("serve_locally", t.ServeLocally).Set("expected_hash", t.ExpectedHash).
		Set("filename", t.Filename)
}

func resourcesDict(r artifacts.Resources) *vql.Dict {
	return vql.NewDict().Set("timeout", r.Timeout).Set("ops_per_second", r.OpsPerSecond).Set("cpu_limit", r.CPULimit).
		Set("iops_limit", r.IOPSLimit).Set("max_rows", r.MaxRows).Set("max_upload_bytes", r.MaxUploadBytes)
}

type artifactSetArgs struct {
	Definition string   `vql:"definition,required" doc:"The file, YAML."`
	Prefix     string   `vql:"prefix" doc:"What the name gets in front, unless it begins so."`
	Tags       []string `vql:"tags" doc:"Tags; this version keeps none, and the log says so."`
	Repository string   `vql:"repository" doc:"global, the only one there is."`
}

var artifactSetFunction = vql.NewFunction(vql.Spec{
	Name: "artifact_set",
	Doc:  "Checks and stores a custom artifact, for all nodes at once, and gives its definition. Needs ARTIFACT_WRITER, or SERVER_ARTIFACT_WRITER for what runs on the server, as somebody else, or on clients by the server's own wish.",
}, func(ctx context.Context, scope *vql.Scope, args *artifactSetArgs) (vql.Value, error) {
	if needsWriter(scope) != nil {
		return nil, needsWriter(scope)
	}
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if args.Repository != "" && args.Repository != "global" {
		return nil, fmt.Errorf("repository %.40q: %w", args.Repository, ErrUnsupported)
	}
	if len(args.Tags) > 0 { // what imports artifacts tags them: that is no reason to refuse
		scope.Log(vql.LevelWarn, "artifact_set: tags are not kept in this version: %s", strings.Join(args.Tags, ", "))
	}
	text, err := prefixed(args.Definition, args.Prefix)
	if err != nil {
		return nil, err
	}
	m, d, err := h.Artifacts.PlanSet(h.Org, text, h.Principal)
	if err != nil {
		return nil, err
	}
	if err := need(scope, h.writerOf(d)); err != nil {
		return nil, err
	}
	// Replacing asks for the permission of what was there before, too: a CLIENT
	// text must not take the place of a trusted server artifact.
	if old, err := h.Artifacts.Repository(h.Org).Lookup(d.Name); err == nil {
		if err := need(scope, h.writerOf(old)); err != nil {
			return nil, err
		}
	}
	if err := h.change(ctx, m, "artifact.set", d.Name, nil); err != nil {
		return nil, err
	}
	return definitionDict(d, false), nil
})

// needsWriter refuses those who may write no artifact at all before anything is
// looked at.
func needsWriter(scope *vql.Scope) error {
	if need(scope, users.ServerArtifactWriter) == nil {
		return nil
	}
	return need(scope, users.ArtifactWriter)
}

// writerOf is the permission to write an artifact: those that run on the server, as
// somebody else, or on all clients without anybody asking are for trusted writers.
func (h *Host) writerOf(d *artifacts.Definition) users.Permission {
	if d.Type == artifacts.Server || d.Type == artifacts.ServerEvent || d.Impersonate != "" || d.StandsFor(h.Unasked) {
		return users.ServerArtifactWriter
	}
	return users.ArtifactWriter
}

var nameLine = regexp.MustCompile(`(?m)^name:[ \t]*(\S+)`)

// prefixed puts prefix before an artifact's name in its text.
func prefixed(text, prefix string) (string, error) {
	if prefix == "" {
		return text, nil
	}
	d, err := artifacts.Parse("definition", []byte(text))
	if err != nil || strings.HasPrefix(d.Name, prefix) {
		return text, err
	}
	at := nameLine.FindStringSubmatchIndex(text)
	if at == nil {
		return "", fmt.Errorf("no line of its own names the artifact, so that no prefix can be put there: %w", ErrArgument)
	}
	out := text[:at[2]] + prefix + d.Name + text[at[3]:]
	again, err := artifacts.Parse("definition", []byte(out))
	if err != nil {
		return "", err
	}
	if again.Name != prefix+d.Name {
		return "", fmt.Errorf("prefix %.40q cannot be put before the name %s: %w", prefix, d.Name, ErrArgument)
	}
	return out, nil
}

type artifactDeleteArgs struct {
	Name string `vql:"name,required" doc:"The artifact."`
}

var artifactDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "artifact_delete",
	Doc:  "Deletes a custom artifact and gives its name. Needs the permission to write it.",
}, func(ctx context.Context, scope *vql.Scope, args *artifactDeleteArgs) (vql.Value, error) {
	if needsWriter(scope) != nil {
		return nil, needsWriter(scope)
	}
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	d, err := h.Artifacts.Repository(h.Org).Lookup(args.Name)
	if err != nil {
		return nil, err
	}
	if err := need(scope, h.writerOf(d)); err != nil {
		return nil, err
	}
	m, err := h.Artifacts.PlanDelete(h.Org, args.Name, h.Principal)
	if err != nil {
		return nil, err
	}
	if err := h.change(ctx, m, "artifact.delete", d.Name, nil); err != nil {
		return nil, err
	}
	return d.Name, nil
})
