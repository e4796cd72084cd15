package vql

import (
	"encoding/json"
	"slices"
	"strings"
)

// Path names a file, registry key or the like for an accessor: its components,
// the syntax they print in, and for stacked accessors the container they lie in.
// A Path is immutable; methods return new ones. Queries see the members
// Components, Basename, Dirname, Path, PathSpec, Delegate, DelegatePath,
// DelegateAccessor and String, add with + and index with [].
type Path struct {
	syntax   PathSyntax
	parts    []string
	accessor string // of the container
	inner    *Path  // the container, as its accessor parsed it
	text     string // the container as text when it is not parsed (inner is nil)
}

// PathSyntax splits texts into components and prints components. The built-in
// ones are PathLinux, PathWindows, PathRegistry, PathNTFS, PathZip, PathGeneric
// and PathOpaque; accessors may bring their own.
type PathSyntax interface {
	// Name is the path_type of queries, as "linux".
	Name() string
	// Split returns the components of text. Empty text has none.
	Split(text string) []string
	// Join prints components so that Split gives them back.
	Join(components []string) string
}

// PathSpec is the JSON form of a path inside a container.
type PathSpec struct {
	DelegateAccessor string    `json:"DelegateAccessor,omitempty"`
	DelegatePath     string    `json:"DelegatePath,omitempty"`
	Delegate         *PathSpec `json:"Delegate,omitempty"`
	Path             string    `json:"Path"`
}

// NewPath makes a path of components; nil syntax is PathLinux.
func NewPath(syntax PathSyntax, components ...string) *Path {
	if syntax == nil {
		syntax = PathLinux
	}
	return &Path{syntax: syntax, parts: slices.Clone(components)}
}

// ParsePath parses text in a syntax. A text that starts with { and is a JSON
// pathspec gives a path with a container.
func ParsePath(syntax PathSyntax, text string) *Path {
	if syntax == nil {
		syntax = PathLinux
	}
	if strings.HasPrefix(text, "{") {
		var spec PathSpec
		if json.Unmarshal([]byte(text), &spec) == nil {
			return FromPathSpec(syntax, &spec)
		}
	}
	return &Path{syntax: syntax, parts: syntax.Split(text)}
}

// FromPathSpec makes a path of a pathspec; spec.Path is parsed in syntax.
func FromPathSpec(syntax PathSyntax, spec *PathSpec) *Path {
	p := &Path{syntax: syntax, parts: syntax.Split(spec.Path), accessor: spec.DelegateAccessor}
	switch {
	case spec.Delegate != nil:
		p.inner = FromPathSpec(PathGeneric, spec.Delegate)
	default:
		p.text = spec.DelegatePath
	}
	return p
}

// Inside returns p as a path inside a container that accessor opens at delegate.
func (p *Path) Inside(accessor string, delegate *Path) *Path {
	c := p.clone()
	c.accessor, c.inner, c.text = accessor, delegate, ""
	return c
}

// InsideText is Inside for a container path that nobody has parsed yet.
func (p *Path) InsideText(accessor, delegate string) *Path {
	c := p.clone()
	c.accessor, c.inner, c.text = accessor, nil, delegate
	return c
}

func (p *Path) clone() *Path {
	c := *p
	c.parts = slices.Clone(p.parts)
	return &c
}

// Syntax returns how the path prints.
func (p *Path) Syntax() PathSyntax { return p.syntax }

// WithSyntax returns the same components and container in another syntax.
func (p *Path) WithSyntax(syntax PathSyntax) *Path {
	c := p.clone()
	c.syntax = syntax
	return c
}

// Components returns a copy of the components.
func (p *Path) Components() []string { return slices.Clone(p.parts) }

// Len returns the number of components.
func (p *Path) Len() int { return len(p.parts) }

// Basename returns the last component, or "".
func (p *Path) Basename() string {
	if len(p.parts) == 0 {
		return ""
	}
	return p.parts[len(p.parts)-1]
}

// Dirname returns the path without its last component; the top is its own.
func (p *Path) Dirname() *Path {
	c := p.clone()
	if len(c.parts) > 0 {
		c.parts = c.parts[:len(c.parts)-1]
	}
	return c
}

// Append returns the path with components added.
func (p *Path) Append(components ...string) *Path {
	c := p.clone()
	c.parts = append(c.parts, components...)
	return c
}

// With returns the path with other components: same syntax, same container.
func (p *Path) With(components []string) *Path {
	c := *p
	c.parts = slices.Clone(components)
	return &c
}

// Path prints the components alone, without the container.
func (p *Path) Path() string { return p.syntax.Join(p.parts) }

// HasDelegate reports whether the path lies in a container.
func (p *Path) HasDelegate() bool { return p.accessor != "" || p.inner != nil || p.text != "" }

// DelegateAccessor returns the accessor that opens the container, or "".
func (p *Path) DelegateAccessor() string { return p.accessor }

// DelegatePath returns the container's path as text, or "".
func (p *Path) DelegatePath() string {
	if p.inner != nil {
		return p.inner.String()
	}
	return p.text
}

// Delegate returns the container's path when it is known as a path; else nil,
// and DelegatePath has to be parsed by the accessor DelegateAccessor.
func (p *Path) Delegate() *Path { return p.inner }

// PathSpec returns the JSON form.
func (p *Path) PathSpec() *PathSpec {
	spec := &PathSpec{DelegateAccessor: p.accessor, Path: p.Path()}
	switch {
	case p.inner != nil && p.inner.HasDelegate():
		spec.Delegate = p.inner.PathSpec()
	case p.inner != nil:
		spec.DelegatePath = p.inner.Path()
	default:
		spec.DelegatePath = p.text
	}
	return spec
}

// String prints the path: plain, or as a JSON pathspec when it has a container.
func (p *Path) String() string {
	if !p.HasDelegate() {
		return p.Path()
	}
	return p.PathSpec().String()
}

// MarshalJSON gives the printed path as a JSON string.
func (p *Path) MarshalJSON() ([]byte, error) { return json.Marshal(p.String()) }

// Equal reports whether both print the same.
func (p *Path) Equal(other *Path) bool { return p.String() == other.String() }

// String returns the pathspec as JSON.
func (s *PathSpec) String() string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if enc.Encode(s) != nil {
		return ""
	}
	return strings.TrimSuffix(b.String(), "\n")
}
