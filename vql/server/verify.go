package server

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/vql"
)

type verifyArgs struct {
	Artifact        string `vql:"artifact,required" doc:"The name of an artifact, or the text of one, YAML."`
	Repository      string `vql:"repository" doc:"global, the only one there is."`
	DisableOverride bool   `vql:"disable_override" doc:"A text is not to take the place of an artifact that is there: that is an error."`
}

// newVerifyFunction is no variable, as the function asks for the list that it is in.
func newVerifyFunction() *vql.Function {
	return vql.NewFunction(vql.Spec{
		Name: "verify",
		Doc:  "Checks an artifact without running it. Gives Artifact (its name), Permissions that its queries need, Errors and Warnings as texts, Definitions (what its queries LET) and Suppressions (rules that it silences).",
	}, verify)
}

func verify(_ context.Context, scope *vql.Scope, args *verifyArgs) (vql.Value, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, err
	}
	if args.Repository != "" && args.Repository != "global" {
		return nil, fmt.Errorf("repository %.40q: %w", args.Repository, ErrUnsupported)
	}
	repository := h.Artifacts.Repository(h.Org)
	d, errs, err := definitionOf(repository, args)
	if err != nil {
		return nil, err
	}
	report, name := &artifacts.Verdict{}, ""
	if d != nil {
		name = d.Name
		report = repository.Judge(name, d, known(scope.Engine(), d.Type))
	}
	warnings := []string{}
	for _, p := range report.Problems {
		if p.Warning {
			warnings = append(warnings, p.String())
		} else {
			errs = append(errs, p.String())
		}
	}
	return vql.NewDict().Set("Artifact", name).Set("Permissions", list(report.Permissions)).Set("Errors", list(errs)).
		Set("Warnings", warnings).Set("Definitions", list(report.Definitions)).Set("Suppressions", list(report.Suppressions)), nil
}

// definitionOf finds or reads the artifact. What is wrong with a text is for the
// report, and there may be no definition then.
func definitionOf(repository *artifacts.Repository, args *verifyArgs) (d *artifacts.Definition, errs []string, err error) {
	if !strings.Contains(args.Artifact, ":") { // a text has name: at least
		d, err = repository.Lookup(args.Artifact)
		return d, nil, err
	}
	d, err = artifacts.Parse("definition", []byte(args.Artifact))
	if err != nil {
		var invalid *artifacts.Invalid
		if !errors.As(err, &invalid) {
			return nil, nil, err
		}
		for _, p := range invalid.Problems {
			errs = append(errs, p.String())
		}
		return nil, errs, nil
	}
	if other, err := repository.Lookup(d.Name); err == nil && args.DisableOverride {
		errs = append(errs, fmt.Sprintf("definition:1: there is an artifact %s already (yaml_error)", other.Name))
	}
	return d, errs, nil
}

// known lists what queries of an artifact may call: those on clients nothing of this
// package.
func known(engine *vql.Engine, kind artifacts.Type) artifacts.Primitives {
	out := artifacts.Primitives{Functions: map[string]artifacts.Primitive{}, Plugins: map[string]artifacts.Primitive{}}
	for _, entry := range engine.Reference() {
		one := artifacts.Primitive{AnyArgs: entry.FreeForm, Permission: entry.Permission}
		for _, arg := range entry.Args {
			one.Args = append(one.Args, arg.Name)
			if arg.Required {
				one.Required = append(one.Required, arg.Name)
			}
		}
		if entry.Kind == "plugin" {
			out.Plugins[entry.Name] = one
		} else {
			out.Functions[entry.Name] = one
		}
	}
	if kind == artifacts.Client || kind == artifacts.ClientEvent {
		for _, f := range Functions() {
			delete(out.Functions, f.Spec.Name)
		}
		for _, p := range Plugins() {
			delete(out.Plugins, p.Spec.Name)
		}
	}
	return out
}
