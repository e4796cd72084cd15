package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"raptorpack/artifacts"
	"raptorpack/inventory"
	"raptorpack/vql"
)

// Inventory is what tools are changed by, in the name of the Host's principal: the
// same as at the doors, permissions and audit lines included.
type Inventory interface {
	// Variables are what artifacts are told of a tool.
	Variables(t artifacts.Tool) ([]artifacts.Value, error)

	// Fetch has the master fetch a tool and waits for a while until it is there.
	Fetch(ctx context.Context, t artifacts.Tool) error

	// Open reads a tool's stored file, which it must have.
	Open(ctx context.Context, t *inventory.Tool) (io.ReadCloser, error)

	// Set makes the principal's definition count.
	Set(ctx context.Context, t artifacts.Tool) error

	// Upload makes what from gives the file of a tool; an empty hash takes anything.
	Upload(ctx context.Context, from io.Reader, t artifacts.Tool, hash string) error
}

var inventoryPlugin = vql.NewPlugin(vql.Spec{
	Name: "inventory", Permission: "READ_RESULTS", Doc: "Lists the tools that artifacts need.",
	Columns: []string{"name", "version", "url", "github_project", "github_asset_regex", "serve_locally", "filename", "hash", "expected_hash", "invalid_hash", "admin_override", "artifact", "size", "stored", "error"},
}, func(_ context.Context, scope *vql.Scope, _ *struct{}, emit vql.Emit) error {
	h, err := toolsOf(scope)
	if err != nil {
		return err
	}
	for _, t := range h.Tools.Tools(h.Org) {
		if err := emit(toolRow(t)); err != nil {
			return err
		}
	}
	return nil
})

// toolsOf returns the Host of a session that knows tools.
func toolsOf(scope *vql.Scope) (*Host, error) {
	h, err := hostOf(scope)
	if err == nil && (h.Tools == nil || h.Inventory == nil) {
		err = fmt.Errorf("tools: %w", ErrUnsupported)
	}
	return h, err
}

func toolRow(t *inventory.Tool) *vql.Dict {
	row := vql.NewDict().Set("name", t.Name).Set("version", t.Version).Set("url", t.URL).
		Set("github_project", t.GithubProject).Set("github_asset_regex", t.GithubAssetRegex).Set("serve_locally", t.Local()).
		Set("filename", t.Filename()).Set("hash", t.Hash()).Set("expected_hash", t.ExpectedHash)
	failure, invalid := vql.Value(nil), ""
	if t.Failure != nil {
		failure, invalid = t.Failure.Text, t.Failure.Hash
	}
	row.Set("invalid_hash", invalid).Set("admin_override", t.Override).Set("artifact", t.Artifact)
	if t.File != nil {
		return row.Set("size", t.File.Size).Set("stored", t.File.At).Set("error", failure)
	}
	return row.Set("size", nil).Set("stored", nil).Set("error", failure)
}

type inventoryGetArgs struct {
	Tool    string `vql:"tool,required" doc:"The tool."`
	Version string `vql:"version" doc:"Its version (the highest)."`
	Probe   bool   `vql:"probe" doc:"Fetch nothing: only tell what is known."`
}

var inventoryGetFunction = vql.NewFunction(vql.Spec{
	Name: "inventory_get", Permission: "SERVER_ADMIN", Doc: "Gives what artifacts are told of a tool, fetched first if nobody has it.",
}, func(ctx context.Context, scope *vql.Scope, args *inventoryGetArgs) (vql.Value, error) {
	h, err := toolsOf(scope)
	if err != nil {
		return nil, err
	}
	wanted := artifacts.Tool{Name: args.Tool, Version: args.Version}
	values, err := h.Inventory.Variables(wanted)
	missing := errors.Is(err, inventory.ErrMissing) || errors.Is(err, inventory.ErrFetching)
	if missing && !args.Probe {
		if err := h.Inventory.Fetch(ctx, wanted); err != nil {
			return nil, err
		}
		values, err = h.Inventory.Variables(wanted)
	}
	if err != nil && (!args.Probe || !missing) {
		return nil, err
	}
	out := vql.NewDict()
	for _, v := range values {
		out.Set(v.Name, v.Value)
	}
	t, err := h.Tools.Lookup(h.Org, args.Tool, args.Version)
	if err != nil {
		return nil, err
	}
	return out.Set("Definition", toolRow(t)), nil
})

type inventoryAddArgs struct {
	Tool         string    `vql:"tool,required" doc:"The tool."`
	ServeLocally bool      `vql:"serve_locally" doc:"Clients fetch it from this pack, not from url."`
	URL          string    `vql:"url" doc:"Where it can be fetched."`
	Hash         string    `vql:"hash" doc:"The SHA-256 that is expected; anything else is refused."`
	Filename     string    `vql:"filename" doc:"What it is called on clients."`
	Version      string    `vql:"version" doc:"Its version."`
	File         *vql.Path `vql:"file" doc:"A file to upload as the tool."`
	Accessor     string    `vql:"accessor" doc:"The accessor of file."`
}

var inventoryAddFunction = vql.NewFunction(vql.Spec{
	Name: "inventory_add", Permission: "SERVER_ADMIN", Doc: "Defines a tool before what artifacts say of it, or uploads its file, and gives its record.",
}, func(ctx context.Context, scope *vql.Scope, args *inventoryAddArgs) (vql.Value, error) {
	h, err := toolsOf(scope)
	if err != nil {
		return nil, err
	}
	t := artifacts.Tool{
		Name: args.Tool, Version: args.Version, URL: args.URL, ServeLocally: args.ServeLocally, ExpectedHash: args.Hash, Filename: args.Filename,
	}
	if args.File == nil {
		err = h.Inventory.Set(ctx, t)
	} else {
		err = h.uploadTool(ctx, scope, args, t)
	}
	if err != nil {
		return nil, err
	}
	known, err := h.Tools.Lookup(h.Org, args.Tool, args.Version)
	if err != nil {
		return nil, err
	}
	return toolRow(known), nil
})

func (h *Host) uploadTool(ctx context.Context, scope *vql.Scope, args *inventoryAddArgs, t artifacts.Tool) error {
	if args.URL != "" {
		return fmt.Errorf("url beside file: an uploaded tool comes from nowhere else: %w", ErrArgument)
	}
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return err
	}
	file, err := accessor.Open(ctx, scope, args.File)
	if err != nil {
		return err
	}
	defer file.Close()
	if t.Filename == "" {
		t.Filename = args.File.Basename()
	}
	return h.Inventory.Upload(ctx, file, t, strings.ToLower(args.Hash))
}
