package server

import (
	"context"
	"slices"

	"raptorpack/users"
	"raptorpack/vql"
)

// pure lists the endpoint's primitives that work on their arguments alone and
// need no permission. Whatever else declares none is taken to look at the
// machine.
var pure = []string{
	"basename", "crypto_rc4", "dirname", "entropy", "grok", "gunzip", "lru", "parse_json", "parse_json_array", "parse_pkcs7",
	"parse_string_with_regex", "parse_x509", "path_join", "path_split", "pathspec", "regex_replace", "regex_transform",
	"relpath", "rot13",
}

// Guard returns primitives of the endpoint for an engine that people with
// different permissions share. Those that declare a permission keep it; the pure
// ones need none; all others, which on a client tell of the client's own machine,
// need MACHINE_STATE here. A primitive that is added without a permission is
// therefore closed until somebody decides about it.
func Guard(functions []*vql.Function, plugins []*vql.Plugin) ([]*vql.Function, []*vql.Plugin) {
	guarded := make([]*vql.Function, 0, len(functions))
	for _, f := range functions {
		c := *f
		c.Spec = closed(f.Spec)
		guarded = append(guarded, &c)
	}
	rows := make([]*vql.Plugin, 0, len(plugins))
	for _, p := range plugins {
		c := *p
		c.Spec = closed(p.Spec)
		rows = append(rows, &c)
	}
	return guarded, rows
}

func closed(s vql.Spec) vql.Spec {
	if s.Permission == "" && !slices.Contains(pure, s.Name) {
		s.Permission = string(users.MachineState)
	}
	return s
}

// accessorNeeds is the permission to open something with an accessor. Accessors
// of texts need none; containers open what they lie in through the session, and
// need none themselves. Any other accessor reads the machine's files.
var accessorNeeds = map[string]users.Permission{
	"data": "", "scope": "",
	"zip": "", "collector": "", "gzip": "", "bzip2": "", "offset": "", "sparse": "",
	"process": users.MachineState,
	"s3":      users.Network,
}

// Accessors returns a server session's accessors: those of the endpoint, each
// with the permission it needs whichever primitive opens it, fs for what clients
// sent, and vfs for what listings brought of their files.
func Accessors(endpoint map[string]vql.Accessor) map[string]vql.Accessor {
	out := map[string]vql.Accessor{}
	for name, accessor := range endpoint {
		permission, known := accessorNeeds[name]
		if !known {
			permission = users.FilesystemRead
		}
		if permission == "" {
			out[name] = accessor
			continue
		}
		out[name] = &guardedAccessor{accessor, permission}
	}
	out["fs"] = &guardedAccessor{storeAccessor{}, users.ServerAdmin}
	out["vfs"] = &guardedAccessor{vfsAccessor{}, users.ReadResults}
	return out
}

// guardedAccessor asks for a permission before anything is looked at. It does not
// tell the operating system's names (vql.OSPather), so that nobody goes past it.
type guardedAccessor struct {
	inner      vql.Accessor
	permission users.Permission
}

// ParsePath looks at nothing.
func (g *guardedAccessor) ParsePath(text string) (*vql.Path, error) { return g.inner.ParsePath(text) }

// Lstat implements vql.Accessor.
func (g *guardedAccessor) Lstat(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.FileInfo, error) {
	if err := need(scope, g.permission); err != nil {
		return nil, err
	}
	return g.inner.Lstat(ctx, scope, path)
}

// ReadDir implements vql.Accessor.
func (g *guardedAccessor) ReadDir(ctx context.Context, scope *vql.Scope, path *vql.Path) ([]vql.FileInfo, error) {
	if err := need(scope, g.permission); err != nil {
		return nil, err
	}
	return g.inner.ReadDir(ctx, scope, path)
}

// Open implements vql.Accessor.
func (g *guardedAccessor) Open(ctx context.Context, scope *vql.Scope, path *vql.Path) (vql.ReadSeekCloser, error) {
	if err := need(scope, g.permission); err != nil {
		return nil, err
	}
	return g.inner.Open(ctx, scope, path)
}
