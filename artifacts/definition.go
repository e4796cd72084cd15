package artifacts

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

var (
	// ErrInvalid means that a file is no artifact; Problems say where.
	ErrInvalid = errors.New("invalid artifact")

	// ErrUnknown means that no artifact has the name.
	ErrUnknown = errors.New("unknown artifact")

	// ErrBuiltIn means that a built-in definition would have to be replaced: use a
	// name with Custom. in front.
	ErrBuiltIn = errors.New("built-in artifacts cannot be replaced")
)

// Type says where an artifact runs.
type Type string

// The types of artifacts.
const (
	Client      Type = "CLIENT"
	ClientEvent Type = "CLIENT_EVENT"
	Server      Type = "SERVER"
	ServerEvent Type = "SERVER_EVENT"
	Notebook    Type = "NOTEBOOK"
	Internal    Type = "INTERNAL"
)

// Definition is one artifact. It is immutable; the format is that of
// docs/artifacts.md.
type Definition struct {
	Name                string
	Aliases             []string
	Description         string
	Author              string
	Reference           []string
	References          []string
	Type                Type
	Parameters          []Parameter
	Precondition        string
	Export              string
	Imports             []string
	Sources             []Source
	Tools               []Tool
	RequiredPermissions []string
	ImpliedPermissions  []string
	Impersonate         string
	Resources           Resources
	ColumnTypes         []ColumnType
	Reports             []Report

	// Text is the file as it came. BuiltIn: it came with the program.
	Text    string
	BuiltIn bool

	places map[string]place // dotted field to where its text begins in the file
}

// Parameter is an argument of an artifact. Values travel as text.
type Parameter struct {
	Name            string
	Default         string
	Description     string
	Type            string
	FriendlyName    string
	Choices         []string
	ValidatingRegex string
	ArtifactType    string
	Sources         bool
}

// Source is one query of an artifact; its rows are stored as Artifact/Name, or as
// Artifact when it has no name.
type Source struct {
	Name         string
	Description  string
	Precondition string
	Query        string
	Queries      []string
	Notebook     []Cell
}

// text returns the source's VQL.
func (s *Source) text() string {
	if strings.TrimSpace(s.Query) != "" {
		return s.Query
	}
	return strings.Join(s.Queries, "\n")
}

// Cell is a notebook cell that a collection's notebook starts with.
type Cell struct {
	Type     string
	Name     string
	Template string
	Output   string
	Env      []EnvVar
}

// EnvVar is a variable of a notebook cell.
type EnvVar struct{ Key, Value string }

// Tool is a program that an artifact needs on the endpoint.
type Tool struct {
	Name             string
	Version          string
	URL              string
	GithubProject    string
	GithubAssetRegex string
	ServeLocally     bool
	ExpectedHash     string
	Filename         string
}

// Resources are the limits that an artifact asks for; 0 means the default.
type Resources struct {
	Timeout           uint64 // seconds
	OpsPerSecond      float64
	CPULimit          float64 // percent
	IOPSLimit         float64
	MaxRows           uint64
	MaxUploadBytes    uint64
	MaxBatchWait      uint64 // seconds
	MaxBatchRows      uint64
	MaxBatchRowsBytes uint64
}

// ColumnType says how a column is shown.
type ColumnType struct{ Name, Type, Description string }

// Report is the old form of notebooks: read and kept, not used.
type Report struct {
	Type       string
	Name       string
	Timeout    uint64
	Parameters []Parameter
	Template   string
}

// Event reports whether the artifact's queries never end.
func (d *Definition) Event() bool { return d.Type == ClientEvent || d.Type == ServerEvent }

// ResultName is the name that a source's rows are stored under.
func (d *Definition) ResultName(s *Source) string {
	if s.Name == "" {
		return d.Name
	}
	return d.Name + "/" + s.Name
}

// NameLine is the line of the name in the file.
func (d *Definition) NameLine() int { return d.line("name") }

// Parameter returns the parameter of a name.
func (d *Definition) Parameter(name string) (*Parameter, bool) {
	i := slices.IndexFunc(d.Parameters, func(p Parameter) bool { return p.Name == name })
	if i < 0 {
		return nil, false
	}
	return &d.Parameters[i], true
}

// Problem is one thing wrong with a file.
type Problem struct {
	File    string
	Line    int
	Rule    string // as yaml_error, unknown_plugin: the checker's name of it
	Message string
	Warning bool
}

// String prints file:line: message on one line.
func (p Problem) String() string {
	kind := ""
	if p.Warning {
		kind = "warning: "
	}
	first, rest, more := strings.Cut(p.Message, "\n") // a syntax error shows the line
	text := fmt.Sprintf("%s:%d: %s%s (%s)", p.File, p.Line, kind, first, p.Rule)
	if more {
		text += "\n" + rest
	}
	return text
}

// Invalid is the error for a file with problems.
type Invalid struct{ Problems []Problem }

// Error prints one line for each problem.
func (e *Invalid) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.String()
	}
	return strings.Join(lines, "\n")
}

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *Invalid) Unwrap() error { return ErrInvalid }
