package vql

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"sync"
	"text/template"

	"github.com/Masterminds/sprig/v3"
)

func webFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "url", Doc: "Makes a URL of its parts, or parses one."}, urlFunction),
		NewFunction(Spec{Name: "ip", Doc: "Makes an IP address of a text or a number."}, ipFunction),
		NewFunction(Spec{Name: "template", Doc: "Expands a Go template with the Sprig functions."}, templateFunction),
	}
}

type urlArgs struct {
	Scheme   string `vql:"scheme" doc:"As https."`
	Host     string `vql:"host" doc:"Name and port."`
	Path     string `vql:"path" doc:"The path."`
	Fragment string `vql:"fragment" doc:"The part after #."`
	Query    Value  `vql:"query" doc:"A text or a dict."`
	Parse    string `vql:"parse" doc:"A URL to parse."`
}

func urlFunction(ctx context.Context, scope *Scope, args *urlArgs) (Value, error) {
	if args.Parse != "" {
		u, err := url.Parse(args.Parse)
		if err != nil {
			return nil, err
		}
		return &URL{u: u}, nil
	}
	u := &url.URL{Scheme: args.Scheme, Host: args.Host, Path: args.Path, Fragment: args.Fragment}
	switch q := args.Query.(type) {
	case *Dict:
		values := url.Values{}
		for _, item := range q.Items() {
			for _, v := range scope.Rows(ctx, item.Value) {
				values.Add(item.Key, scope.String(ctx, v))
			}
		}
		u.RawQuery = values.Encode()
	default:
		if q != nil && !IsNull(q) {
			u.RawQuery = scope.String(ctx, q)
		}
	}
	return &URL{u: u}, nil
}

// URL is what the function url gives; its methods are its members.
type URL struct{ u *url.URL }

// Scheme returns the scheme.
func (u *URL) Scheme() string { return u.u.Scheme }

// Opaque returns the opaque part.
func (u *URL) Opaque() string { return u.u.Opaque }

// Host returns name and port.
func (u *URL) Host() string { return u.u.Host }

// Hostname returns the name without the port.
func (u *URL) Hostname() string { return u.u.Hostname() }

// Port returns the port, or "".
func (u *URL) Port() string { return u.u.Port() }

// Path returns the path, decoded.
func (u *URL) Path() string { return u.u.Path }

// Fragment returns the part after #.
func (u *URL) Fragment() string { return u.u.Fragment }

// RawQuery returns the part after ? as it is written.
func (u *URL) RawQuery() string { return u.u.RawQuery }

// Query returns the query's values by name, each a list.
func (u *URL) Query() *Dict {
	values := u.u.Query()
	out := NewDict()
	for _, name := range slices.Sorted(maps.Keys(values)) {
		out.Set(name, values[name])
	}
	return out
}

// String returns the URL as text.
func (u *URL) String() string { return u.u.String() }

// MarshalJSON gives the parts by name.
func (u *URL) MarshalJSON() ([]byte, error) {
	return AppendJSON(nil, NewDict().Set("Scheme", u.Scheme()).Set("Opaque", u.Opaque()).
		Set("Host", u.Host()).Set("Path", u.Path()).Set("RawQuery", u.RawQuery()).
		Set("Fragment", u.Fragment())), nil
}

type ipArgs struct {
	Parse      string `vql:"parse" doc:"An address as text."`
	Netaddr4LE *int64 `vql:"netaddr4_le" doc:"An IPv4 address as a little-endian number."`
	Netaddr4BE *int64 `vql:"netaddr4_be" doc:"An IPv4 address as a big-endian number."`
}

func ipFunction(_ context.Context, _ *Scope, args *ipArgs) (Value, error) {
	var b [4]byte
	switch {
	case args.Netaddr4LE != nil:
		binary.LittleEndian.PutUint32(b[:], uint32(*args.Netaddr4LE))
		return netip.AddrFrom4(b), nil
	case args.Netaddr4BE != nil:
		binary.BigEndian.PutUint32(b[:], uint32(*args.Netaddr4BE))
		return netip.AddrFrom4(b), nil
	case args.Parse == "":
		return nil, errors.New("one of parse, netaddr4_le or netaddr4_be is needed")
	}
	addr, err := netip.ParseAddr(args.Parse)
	if err != nil {
		return nil, err
	}
	return addr, nil
}

type templateArgs struct {
	Template  string `vql:"template,required" doc:"The template."`
	Expansion *Dict  `vql:"expansion,required" doc:"What it may use."`
	HTML      bool   `vql:"html" doc:"Escape for HTML."`
}

// closedFunctions reach out of the template: environment and network.
var closedFunctions = []string{"env", "expandenv", "getHostByName"}

// The functions of templates, made once: they are many.
var (
	textTemplateFunctions = sync.OnceValue(func() map[string]any { return templateFunctions(sprig.TxtFuncMap()) })
	htmlTemplateFunctions = sync.OnceValue(func() map[string]any { return templateFunctions(sprig.HtmlFuncMap()) })
)

func templateFunctions(all map[string]any) map[string]any {
	for _, name := range closedFunctions {
		delete(all, name)
	}
	return boundFunctions(all)
}

func templateFunction(ctx context.Context, scope *Scope, args *templateArgs) (Value, error) {
	data := scope.plainMap(ctx, args.Expansion, 0)
	out := &boundedBuffer{limit: MaxText}
	var err error
	if args.HTML {
		err = expandHTML(out, args.Template, data)
	} else {
		err = expandText(out, args.Template, data)
	}
	if err != nil {
		return nil, err
	}
	return out.String(), nil
}

func expandText(out *boundedBuffer, text string, data any) error {
	t, err := template.New("template").Funcs(textTemplateFunctions()).Parse(text)
	if err != nil {
		return err
	}
	return t.Execute(out, data)
}

func expandHTML(out *boundedBuffer, text string, data any) error {
	t, err := htmltemplate.New("template").Funcs(htmlTemplateFunctions()).Parse(text)
	if err != nil {
		return err
	}
	return t.Execute(out, data)
}

// plainMap makes Go maps and slices of dicts and arrays, which templates need.
func (s *Scope) plainMap(ctx context.Context, v Value, depth int) any {
	if depth > maxDepth {
		return nil
	}
	switch t := s.Real(ctx, v).(type) {
	case *Dict:
		out := map[string]any{}
		for _, item := range t.Items() {
			out[item.Key] = s.plainMap(ctx, item.Value, depth+1)
		}
		return out
	case []any:
		out := make([]any, len(t))
		for i, item := range t {
			out[i] = s.plainMap(ctx, item, depth+1)
		}
		return out
	default:
		if IsNull(t) {
			return nil
		}
		return t
	}
}

// boundedBuffer refuses to grow beyond its limit.
type boundedBuffer struct {
	bytes.Buffer
	limit int
}

// Write appends p, or nothing when that would be too much.
func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.limit {
		return 0, fmt.Errorf("the output exceeds %d bytes", b.limit)
	}
	return b.Buffer.Write(p)
}
