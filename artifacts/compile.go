package artifacts

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// Limits of a request when nobody says otherwise.
const (
	defaultMaxRow         = 1000    // rows in a packet
	defaultMaxUploadBytes = 1 << 30 // of a flow
)

// Collect is a wish to run artifacts.
type Collect struct {
	Artifacts []Spec
	Resources Resources // stronger than the artifacts' own

	// AllowCustom prefers Custom.X to X where it exists.
	AllowCustom bool

	// ClearNames tells clients the real result names; otherwise each is replaced
	// by a random token that only the Names of the answer turn back.
	ClearNames bool

	// Metadata is the server's own: it takes the place of the defaults of parameters
	// that have its names and are of type server_metadata, also in artifacts that are
	// called.
	Metadata map[string]string

	// Tools answers what the artifacts, and those that they call, are told of the
	// tools that they declare; nil: nothing. Its error fails the compilation.
	Tools ToolVariables
}

// Spec is one artifact of a collection, or one of its sources ("Artifact/Source").
type Spec struct {
	Name       string
	Parameters []Value
	Resources  Resources // stronger than the artifact's own
}

// Value is a parameter's value as text.
type Value struct{ Name, Value string }

// Request is a compiled collection: what one flow asks of a client.
type Request struct {
	Queries        []*wirepb.VQLCollectorArgs
	Names          map[string]string // what a client calls a result -> result name
	MaxRows        uint64            // 0: no limit
	MaxUploadBytes uint64
	Definitions    []*Definition // the artifacts asked for, in order
}

// Compile turns a collection into requests. It is pure apart from the random
// tokens: the same collection gives the same queries.
func (r *Repository) Compile(c Collect) (*Request, error) {
	if len(c.Artifacts) == 0 {
		return nil, fmt.Errorf("compile: no artifact: %w", ErrInvalid)
	}
	request := &Request{Names: map[string]string{}}
	for _, spec := range c.Artifacts {
		if err := r.compileSpec(&c, spec, request); err != nil {
			return nil, err
		}
	}
	if len(request.Queries) == 0 {
		return nil, fmt.Errorf("compile %s: no source has a query: %w", c.Artifacts[0].Name, ErrInvalid)
	}
	if request.MaxUploadBytes == 0 {
		request.MaxUploadBytes = defaultMaxUploadBytes
	}
	if c.Resources.MaxRows != 0 {
		request.MaxRows = c.Resources.MaxRows
	}
	if c.Resources.MaxUploadBytes != 0 {
		request.MaxUploadBytes = c.Resources.MaxUploadBytes
	}
	for i, q := range request.Queries {
		q.QueryId, q.TotalQueries = int64(i+1), int64(len(request.Queries))
	}
	return request, nil
}

func (r *Repository) compileSpec(c *Collect, spec Spec, request *Request) error {
	name, only, _ := strings.Cut(spec.Name, "/")
	e, err := r.entry(name)
	if c.AllowCustom {
		if custom, customErr := r.entry(customPrefix + name); customErr == nil {
			e, err = custom, nil
		}
	}
	if err != nil {
		return fmt.Errorf("compile: %w", err)
	}
	if slices.Contains(request.Definitions, e.Definition) {
		return fmt.Errorf("compile %s: asked for twice: %w", e.Name, ErrInvalid)
	}
	code, err := e.compile()
	if err != nil {
		return err
	}
	sources := code.sources
	if only != "" {
		sources = slices.DeleteFunc(slices.Clone(sources), func(s compiledSource) bool { return s.source.Name != only })
		if len(sources) == 0 {
			return fmt.Errorf("compile %s: no source %.60q: %w", e.Name, only, ErrUnknown)
		}
	}
	env, err := environment(e.Definition, spec, c.Metadata)
	if err != nil {
		return err
	}
	bundle, called, err := r.bundle(e)
	if err != nil {
		return err
	}
	tools, err := toolValues(c.Tools, append([]*entry{e}, called...))
	if err != nil {
		return fmt.Errorf("compile %s: %w", e.Name, err)
	}
	env = withTools(env, bundle, tools)
	withMetadata(bundle, c.Metadata)
	prelude, err := r.prelude(e, code)
	if err != nil {
		return err
	}
	resources := e.Resources.under(spec.Resources).under(c.Resources)
	for _, group := range groups(e.Definition, sources) {
		args := resources.args()
		args.Env, args.Artifacts = env, bundle
		for _, s := range prelude {
			args.Query = append(args.Query, &wirepb.VQLRequest{Vql: s.Normal})
		}
		for _, source := range group {
			for _, s := range source.lets {
				args.Query = append(args.Query, &wirepb.VQLRequest{Vql: s.Normal})
			}
			token := request.token(source.result, c.ClearNames)
			args.Query = append(args.Query, &wirepb.VQLRequest{Vql: source.final.Normal, Name: token})
		}
		args.Precondition = preconditionText(code, group)
		if e.Type == Server || e.Type == ServerEvent {
			args.EffectivePrincipal = e.Impersonate
		}
		request.Queries = append(request.Queries, args)
	}
	request.MaxRows = max(request.MaxRows, resources.MaxRows)
	request.MaxUploadBytes = max(request.MaxUploadBytes, resources.MaxUploadBytes)
	request.Definitions = append(request.Definitions, e.Definition)
	return nil
}

// token is what the client calls a result. Its form is that of the stock
// server's names, so that log texts are searched for it alike.
func (q *Request) token(result string, clear bool) string {
	token := result
	if !clear {
		raw := make([]byte, 16)
		rand.Read(raw) // never fails since Go 1.24
		token = "$" + hex.EncodeToString(raw)
	}
	q.Names[token] = result
	return token
}

// groups says which sources share a scope: all in one request in order, unless
// they are event queries or any has a precondition of its own.
func groups(d *Definition, sources []compiledSource) [][]compiledSource {
	own := slices.ContainsFunc(sources, func(s compiledSource) bool { return len(s.precondition) > 0 })
	if !d.Event() && !own {
		if len(sources) == 0 {
			return nil
		}
		return [][]compiledSource{sources}
	}
	each := make([][]compiledSource, len(sources))
	for i, s := range sources {
		each[i] = []compiledSource{s}
	}
	return each
}

func preconditionText(code *compiled, group []compiledSource) string {
	precondition := code.precondition
	if len(group[0].precondition) > 0 {
		precondition = group[0].precondition
	}
	if len(precondition) == 0 {
		return ""
	}
	var parts []string
	for _, s := range append(slices.Clone(code.conversions), precondition...) {
		parts = append(parts, s.Normal)
	}
	return strings.Join(parts, "\n\n")
}

// prelude is what stands before the sources: parameter statements, the own
// export, the exports of imports (not those that they import).
func (r *Repository) prelude(e *entry, code *compiled) ([]*vql.Statement, error) {
	out := append(slices.Clone(code.conversions), code.export...)
	for _, name := range e.Imports {
		imported, err := r.entry(name)
		if err != nil {
			return nil, fmt.Errorf("compile %s: import: %w", e.Name, err)
		}
		other, err := imported.compile()
		if err != nil {
			return nil, err
		}
		out = append(out, other.export...)
	}
	return out, nil
}

// environment lists the parameters as texts: defaults, replaced by what the
// collection says; names that the artifact lacks are added as they are.
func environment(d *Definition, spec Spec, metadata map[string]string) ([]*wirepb.VQLEnv, error) {
	var env []*wirepb.VQLEnv
	at := map[string]*wirepb.VQLEnv{}
	add := func(name, value string) *wirepb.VQLEnv {
		if at[name] == nil {
			at[name] = &wirepb.VQLEnv{Key: name}
			env = append(env, at[name])
		}
		at[name].Value = value
		return at[name]
	}
	for _, p := range d.Parameters {
		value := p.Default
		if set, known := metadata[p.Name]; known && strings.EqualFold(p.Type, serverMetadata) {
			value = set
		}
		one := add(p.Name, value)
		if strings.EqualFold(p.Type, "redacted") {
			one.Comment = "redacted"
		}
	}
	for _, v := range spec.Parameters {
		if v.Name == "" {
			return nil, fmt.Errorf("compile %s: a parameter without a name: %w", d.Name, ErrInvalid)
		}
		add(v.Name, v.Value)
	}
	return env, nil
}

// serverMetadata is the type of parameters whose default is the server's metadata.
const serverMetadata = "server_metadata"

// withMetadata lays the server's metadata over defaults of called artifacts.
func withMetadata(bundle []*wirepb.Artifact, metadata map[string]string) {
	for _, a := range bundle {
		for _, p := range a.Parameters {
			if set, known := metadata[p.Name]; known && strings.EqualFold(p.Type, serverMetadata) {
				p.Default = set
			}
		}
	}
}

// bundle collects every artifact that the queries reach, cut down to what a
// client needs to call it, and their definitions in the order of reaching them.
func (r *Repository) bundle(root *entry) ([]*wirepb.Artifact, []*entry, error) {
	reached := map[string]*entry{}
	var order []*entry
	var visit func(e *entry) error
	visit = func(e *entry) error {
		code, err := e.compile()
		if err != nil {
			return err
		}
		callees, err := r.callees(e, code)
		if err != nil {
			return err
		}
		for _, callee := range callees {
			if reached[callee.Name] == nil {
				reached[callee.Name] = callee
				order = append(order, callee)
				if err := visit(callee); err != nil {
					return err
				}
			}
		}
		for _, name := range e.Imports {
			imported, err := r.entry(name)
			if err != nil {
				return fmt.Errorf("compile %s: import: %w", e.Name, err)
			}
			if e != root && reached[imported.Name] == nil {
				reached[imported.Name] = imported
				order = append(order, imported)
			}
			if err := visitExport(imported, visit, e); err != nil {
				return err
			}
		}
		return nil
	}
	if err := visit(root); err != nil {
		return nil, nil, err
	}
	out := make([]*wirepb.Artifact, 0, len(order))
	for _, e := range order {
		one, err := trim(e)
		if err != nil {
			return nil, nil, err
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b *wirepb.Artifact) int { return strings.Compare(a.Name, b.Name) })
	return out, order, nil
}

// callees are the artifacts that a definition calls, and of those that it only
// mentions the ones that there are.
func (r *Repository) callees(e *entry, code *compiled) ([]*entry, error) {
	var out []*entry
	for _, name := range code.calls {
		callee, err := r.longestMatch(name)
		if err != nil {
			return nil, fmt.Errorf("compile %s: it calls %w", e.Name, err)
		}
		out = append(out, callee)
	}
	for _, name := range code.mentions {
		if callee, err := r.longestMatch(name); err == nil {
			out = append(out, callee)
		}
	}
	return out, nil
}

// visitExport follows what an imported artifact's export calls.
func visitExport(imported *entry, visit func(*entry) error, from *entry) error {
	if imported == from || imported.Export == "" {
		return nil
	}
	only := &entry{Definition: &Definition{Name: imported.Name, Export: imported.Export, Type: imported.Type}}
	return visit(only)
}

// longestMatch finds the artifact of a dotted text: Artifact.A.B.Column names the
// artifact A.B.
func (r *Repository) longestMatch(name string) (*entry, error) {
	for short := name; ; {
		if e, err := r.entry(short); err == nil {
			return e, nil
		}
		i := strings.LastIndexByte(short, '.')
		if i < 0 {
			return nil, fmt.Errorf("artifact %.80q: %w", name, ErrUnknown)
		}
		short = short[:i]
	}
}

// trim reduces a definition to what a client needs: no descriptions, no tools.
func trim(e *entry) (*wirepb.Artifact, error) {
	code, err := e.compile()
	if err != nil {
		return nil, err
	}
	out := &wirepb.Artifact{
		Name: e.Name, Type: string(e.Type), Precondition: normal(code.precondition), Export: normal(code.export), Imports: e.Imports,
	}
	for _, p := range e.Parameters {
		out.Parameters = append(out.Parameters, &wirepb.ArtifactParameter{Name: p.Name, Default: p.Default, Type: p.Type})
	}
	for _, s := range code.sources {
		one := &wirepb.ArtifactSource{Name: s.source.Name, Precondition: normal(s.precondition)}
		for _, statement := range append(slices.Clone(s.lets), s.final) {
			one.Queries = append(one.Queries, statement.Normal)
		}
		out.Sources = append(out.Sources, one)
	}
	return out, nil
}

func normal(statements []*vql.Statement) string {
	texts := make([]string, len(statements))
	for i, s := range statements {
		texts[i] = s.Normal
	}
	return strings.Join(texts, "\n")
}

// FromWire makes a repository of the artifacts that came with a request.
func FromWire(artifacts []*wirepb.Artifact) (*Repository, error) {
	r := NewRepository(nil)
	for _, a := range artifacts {
		d := &Definition{
			Name: a.GetName(), Type: Type(strings.ToUpper(a.GetType())), Precondition: a.GetPrecondition(),
			Export: a.GetExport(), Imports: a.GetImports(),
		}
		if d.Type == "" {
			d.Type = Client
		}
		if !validName.MatchString(d.Name) {
			return nil, fmt.Errorf("bundled artifact %.60q: %w", d.Name, ErrInvalid)
		}
		for _, p := range a.GetParameters() {
			d.Parameters = append(d.Parameters, Parameter{Name: p.GetName(), Default: p.GetDefault(), Type: p.GetType()})
		}
		for _, s := range a.GetSources() {
			d.Sources = append(d.Sources, Source{Name: s.GetName(), Precondition: s.GetPrecondition(), Query: s.GetQuery(), Queries: s.GetQueries()})
		}
		if err := r.Add(d); err != nil {
			return nil, err
		}
		if _, err := r.definitions[d.Name].compile(); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// under returns the limits with every one that over sets replaced.
func (r Resources) under(over Resources) Resources {
	pick := func(mine *uint64, theirs uint64) {
		if theirs != 0 {
			*mine = theirs
		}
	}
	share := func(mine *float64, theirs float64) {
		if theirs != 0 {
			*mine = theirs
		}
	}
	pick(&r.Timeout, over.Timeout)
	pick(&r.MaxRows, over.MaxRows)
	pick(&r.MaxUploadBytes, over.MaxUploadBytes)
	pick(&r.MaxBatchWait, over.MaxBatchWait)
	pick(&r.MaxBatchRows, over.MaxBatchRows)
	pick(&r.MaxBatchRowsBytes, over.MaxBatchRowsBytes)
	share(&r.OpsPerSecond, over.OpsPerSecond)
	share(&r.CPULimit, over.CPULimit)
	share(&r.IOPSLimit, over.IOPSLimit)
	return r
}

func (r Resources) args() *wirepb.VQLCollectorArgs {
	args := &wirepb.VQLCollectorArgs{
		MaxRow: r.MaxBatchRows, MaxWait: r.MaxBatchWait, MaxRowBufferSize: r.MaxBatchRowsBytes, Timeout: r.Timeout,
		OpsPerSecond: float32(r.OpsPerSecond), CpuLimit: float32(r.CPULimit), IopsLimit: float32(r.IOPSLimit),
	}
	if args.MaxRow == 0 {
		args.MaxRow = defaultMaxRow
	}
	return args
}
