package endpoint

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync/atomic"

	"raptorpack/vql"
)

// errProfile means that a binary profile does not have the form
// [[NAME, SIZE, [[FIELD, OFFSET, TYPE, OPTIONS], ...]], ...], or names unknown types.
var errProfile = errors.New("bad profile")

// A profile describes binary structures. It is immutable once it was read.
type profile struct {
	structs map[string]*structDef
}

type structDef struct {
	name   string
	size   number
	fields []*fieldDef
	byName map[string]*fieldDef
}

type fieldDef struct {
	name   string
	offset number
	kind   binaryType
}

// A number is a constant or a lambda on the structure that is being read.
type number struct {
	value  int64
	lambda vql.Lambda
}

// A binaryType reads one kind of value at a place of the file.
type binaryType interface {
	// read gives the value at an offset; owner is the structure it belongs to.
	read(owner *binaryStruct, at int64) vql.Value
	// size tells how many bytes the value takes, 0 when that is not known.
	size(owner *binaryStruct, at int64) int64
}

// readProfile compiles a profile. It is JSON, or YAML, which allows comments.
func readProfile(scope *vql.Scope, text string) (*profile, error) {
	doc, err := decodeJSON([]byte(text))
	if err != nil {
		var yamlErr error
		if doc, yamlErr = decodeYAML([]byte(text)); yamlErr != nil {
			return nil, fmt.Errorf("%w: %w", errProfile, err)
		}
	}
	list, ok := doc.([]any)
	if !ok {
		return nil, fmt.Errorf("%w: not a list of structures", errProfile)
	}
	p := &profile{structs: map[string]*structDef{}}
	c := &compiler{scope: scope, profile: p}
	// Names first, so that structures may refer to later ones and to themselves.
	for _, item := range list {
		if err := c.declare(item); err != nil {
			return nil, err
		}
	}
	for _, item := range list {
		if err := c.define(item.([]any)); err != nil {
			return nil, err
		}
	}
	return p, nil
}

type compiler struct {
	scope   *vql.Scope
	profile *profile
	depth   int
}

func (c *compiler) declare(item any) error {
	parts, ok := item.([]any)
	if !ok || len(parts) != 3 {
		return fmt.Errorf("%w: a structure is [name, size, fields]", errProfile)
	}
	name, ok := parts[0].(string)
	if !ok {
		return fmt.Errorf("%w: the name of a structure is a text, not %v", errProfile, parts[0])
	}
	if _, twice := c.profile.structs[name]; twice {
		return fmt.Errorf("%w: structure %s is there twice", errProfile, name)
	}
	c.profile.structs[name] = &structDef{name: name, byName: map[string]*fieldDef{}}
	return nil
}

func (c *compiler) define(parts []any) error {
	def := c.profile.structs[parts[0].(string)]
	var err error
	if def.size, err = c.number(parts[1]); err != nil {
		return fmt.Errorf("size of structure %s: %w", def.name, err)
	}
	fields, ok := parts[2].([]any)
	if !ok {
		return fmt.Errorf("%w: the fields of %s are no list", errProfile, def.name)
	}
	for _, item := range fields {
		field, err := c.field(item)
		if err != nil {
			return fmt.Errorf("structure %s: %w", def.name, err)
		}
		if _, twice := def.byName[field.name]; !twice {
			def.fields = append(def.fields, field)
		}
		def.byName[field.name] = field
	}
	return nil
}

func (c *compiler) field(item any) (*fieldDef, error) {
	parts, ok := item.([]any)
	if !ok || len(parts) < 3 || len(parts) > 4 {
		return nil, fmt.Errorf("%w: a field is [name, offset, type, options]", errProfile)
	}
	name, ok1 := parts[0].(string)
	kind, ok2 := parts[2].(string)
	if !ok1 || !ok2 {
		return nil, fmt.Errorf("%w: name and type of a field are texts", errProfile)
	}
	offset, err := c.number(parts[1])
	if err != nil {
		return nil, fmt.Errorf("offset of %s: %w", name, err)
	}
	var options *vql.Dict
	if len(parts) == 4 && parts[3] != nil {
		if options, ok = parts[3].(*vql.Dict); !ok {
			return nil, fmt.Errorf("%w: the options of %s are no dict", errProfile, name)
		}
	}
	t, err := c.typeOf(kind, options)
	if err != nil {
		return nil, fmt.Errorf("field %s: %w", name, err)
	}
	return &fieldDef{name: name, offset: offset, kind: t}, nil
}

// number reads a constant or a lambda.
func (c *compiler) number(v any) (number, error) {
	switch t := v.(type) {
	case nil:
		return number{}, nil
	case int64:
		return number{value: t}, nil
	case uint64:
		return number{value: int64(t)}, nil
	case float64:
		return number{value: int64(t)}, nil
	case string:
		if strings.Contains(t, "=>") {
			l, err := c.scope.ParseLambda(t)
			if err != nil {
				return number{}, fmt.Errorf("%w: %w", errProfile, err)
			}
			return number{lambda: l}, nil
		}
		n, err := strconv.ParseInt(t, 0, 64)
		if err == nil {
			return number{value: n}, nil
		}
	}
	return number{}, fmt.Errorf("%w: %v is neither a number nor a lambda", errProfile, v)
}

// of evaluates the number for a structure.
func (n number) of(owner *binaryStruct) int64 {
	if !n.lambda.Given() {
		return n.value
	}
	i, _ := asInt(owner.call(n.lambda))
	return i
}

func asInt(v vql.Value) (int64, bool) {
	switch t := v.(type) {
	case int64:
		return t, true
	case uint64:
		return int64(t), true
	case int:
		return int64(t), true
	case float64:
		return int64(t), true
	case bool:
		if t {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

// An options reader takes the options of a type and remembers the first mistake.
type options struct {
	c   *compiler
	d   *vql.Dict
	err error
}

func (o *options) get(name string) (any, bool) {
	if o.d == nil {
		return nil, false
	}
	v, ok := o.d.Get(name)
	return v, ok && v != nil
}

func (o *options) text(name, fallback string) string {
	v, ok := o.get(name)
	if !ok {
		return fallback
	}
	text, ok := v.(string)
	if !ok {
		text = fmt.Sprint(v)
	}
	return text
}

func (o *options) number(name string, fallback int64) number {
	v, ok := o.get(name)
	if !ok {
		return number{value: fallback}
	}
	n, err := o.c.number(v)
	o.fail(err)
	return n
}

// lambda reads an option that is a lambda; the zero lambda when it is missing.
func (o *options) lambda(name string) vql.Lambda {
	text := o.text(name, "")
	if text == "" {
		return vql.Lambda{}
	}
	l, err := o.c.scope.ParseLambda(text)
	o.fail(err)
	return l
}

func (o *options) dict(name string) *vql.Dict {
	v, ok := o.get(name)
	if !ok {
		return vql.NewDict()
	}
	d, ok := v.(*vql.Dict)
	if !ok {
		o.fail(fmt.Errorf("%w: option %s is no dict", errProfile, name))
		return vql.NewDict()
	}
	return d
}

// inner compiles the type that this one is built on.
func (o *options) inner(fallback string) binaryType {
	name := o.text("type", fallback)
	if name == "" {
		o.fail(fmt.Errorf("%w: option type is needed", errProfile))
		return nothing{}
	}
	v, _ := o.get("type_options")
	d, _ := v.(*vql.Dict)
	t, err := o.c.typeOf(name, d)
	o.fail(err)
	return t
}

func (o *options) fail(err error) {
	if o.err == nil {
		o.err = err
	}
}

// maxTypeDepth bounds types that nest in their options.
const maxTypeDepth = 50

// typeOf compiles a type by name.
func (c *compiler) typeOf(name string, d *vql.Dict) (binaryType, error) {
	if c.depth++; c.depth > maxTypeDepth {
		return nil, fmt.Errorf("%w: types nest too deep", errProfile)
	}
	defer func() { c.depth-- }()
	if def, ok := c.profile.structs[name]; ok {
		return structType{def}, nil
	}
	if t, ok := plainTypes[name]; ok {
		return t, nil
	}
	o := &options{c: c, d: d}
	t := o.compound(name)
	if o.err != nil {
		return nil, fmt.Errorf("type %s: %w", name, o.err)
	}
	return t, nil
}

func (o *options) compound(name string) binaryType {
	switch name {
	case "String":
		return o.stringType()
	case "Array":
		maximum := o.number("max_count", 1000)
		return &arrayType{element: o.inner(""), count: o.number("count", 0), maximum: maximum.value, sentinel: o.lambda("sentinel")}
	case "BitField":
		return o.bitField()
	case "Enumeration":
		return o.enumeration()
	case "Flags":
		return o.flags()
	case "Pointer":
		return &pointerType{target: o.inner("")}
	case "Profile":
		if _, ok := o.get("offset"); !ok {
			o.fail(fmt.Errorf("%w: option offset is needed", errProfile))
		}
		return &placedType{target: o.inner(""), offset: o.number("offset", 0)}
	case "Union":
		return o.union()
	case "Value":
		return o.valueType()
	case "Timestamp", "WinFileTime", "FatTimestamp":
		return o.timeType(name)
	}
	o.fail(fmt.Errorf("%w: unknown type %q", errProfile, name))
	return nothing{}
}

func (o *options) stringType() binaryType {
	t := &stringType{
		length: o.number("length", defaultStringLength), maximum: o.number("max_length", defaultStringLength).value,
		term: "\x00", bytes: o.text("byte_string", "") == "true",
	}
	switch encoding := o.text("encoding", "utf8"); encoding {
	case "utf8":
	case "utf16":
		t.wide = true
	default:
		o.fail(fmt.Errorf("%w: encoding is utf8 or utf16, not %s", errProfile, encoding))
	}
	if v, ok := o.get("term"); ok {
		text := fmt.Sprint(v)
		if strings.Contains(text, "=>") {
			t.termLambda = o.lambda("term")
		}
		t.term = text
	}
	if text := o.text("term_hex", ""); text != "" {
		raw, err := hex.DecodeString(text)
		o.fail(err)
		t.term = string(raw)
	}
	if l := o.lambda("term_exp"); l.Given() {
		t.termLambda = l
	}
	t.maximum = min(max(t.maximum, 0), maxStringLength)
	return t
}

func (o *options) bitField() binaryType {
	t := &bitField{inner: o.inner(""), start: o.number("start_bit", 0).value, end: o.number("end_bit", 64).value}
	if t.start < 0 || t.end > 64 || t.end <= t.start {
		o.fail(fmt.Errorf("%w: bits %d to %d are no range within 64", errProfile, t.start, t.end))
	}
	return t
}

func (o *options) enumeration() binaryType {
	t := &enumeration{inner: o.inner(""), names: map[int64]string{}}
	choices := o.dict("choices")
	for _, key := range choices.Keys() {
		n, err := strconv.ParseInt(key, 0, 64)
		if err != nil {
			o.fail(fmt.Errorf("%w: choice %q is no number", errProfile, key))
		}
		name, _ := choices.Get(key)
		t.names[n] = fmt.Sprint(name)
	}
	byName := o.dict("map")
	for _, name := range byName.Keys() {
		v, _ := byName.Get(name)
		n, err := o.c.number(v)
		o.fail(err)
		t.names[n.value] = name
	}
	return t
}

func (o *options) flags() binaryType {
	t := &flags{inner: o.inner("")}
	bitmap := o.dict("bitmap")
	for _, name := range sortedStrings(bitmap.Keys()) {
		v, _ := bitmap.Get(name)
		n, err := o.c.number(v)
		o.fail(err)
		if n.value < 0 || n.value > 63 {
			o.fail(fmt.Errorf("%w: flag %s has bit %d", errProfile, name, n.value))
			continue
		}
		t.names = append(t.names, name)
		t.masks = append(t.masks, 1<<uint64(n.value))
	}
	return t
}

func (o *options) union() binaryType {
	t := &union{selector: o.lambda("selector"), choices: map[string]binaryType{}}
	if !t.selector.Given() {
		o.fail(fmt.Errorf("%w: option selector is needed", errProfile))
	}
	choices := o.dict("choices")
	for _, key := range choices.Keys() {
		v, _ := choices.Get(key)
		choice, err := o.c.typeOf(fmt.Sprint(v), nil)
		o.fail(err)
		t.choices[key] = choice
	}
	return t
}

func (o *options) valueType() binaryType {
	v, ok := o.get("value")
	if !ok {
		o.fail(fmt.Errorf("%w: option value is needed", errProfile))
	}
	if text, ok := v.(string); ok && strings.Contains(text, "=>") {
		return &valueType{lambda: o.lambda("value")}
	}
	return &valueType{constant: v}
}

func (o *options) timeType(name string) binaryType {
	t := &timeType{kind: name, factor: o.number("factor", 1).value}
	if t.factor == 0 {
		t.factor = 1
	}
	fallback := "uint64"
	if name == "FatTimestamp" {
		fallback = "uint32"
	}
	t.inner = o.inner(fallback)
	return t
}

// source is the file that structures are read from.
type source struct {
	ctx   context.Context // never ends: members may be read long after the call
	scope *vql.Scope
	file  io.ReaderAt
	calls atomic.Int64 // lambdas that are running
}

// bytes reads n bytes, fewer at the end of the file.
func (s *source) bytes(at, n int64) []byte {
	if at < 0 || n <= 0 || s.scope.Charge(s.ctx) != nil {
		return nil
	}
	buf := make([]byte, n)
	got, _ := s.file.ReadAt(buf, at) // what could not be read is missing from the value
	return buf[:max(got, 0)]
}
