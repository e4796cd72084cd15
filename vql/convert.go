package vql

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// decode converts a call's arguments into a new argument struct; it returns a
// pointer to it.
func (a *argSet) decode(ctx context.Context, scope *Scope, args argSource) (reflect.Value, error) {
	target := reflect.New(a.typ)
	if !a.required && a.rest < 0 && args.Len() == 0 {
		return target, nil
	}
	args = replaced(ctx, scope, args, a)
	used, accessor := 0, ""
	for pass := range 2 {
		for i := range a.fields {
			f := &a.fields[i]
			if (f.kind == kindPath || f.kind == kindPaths) != (pass == 1) {
				continue
			}
			raw, given := args.Get(f.Name)
			if !given {
				if f.Required {
					return target, fmt.Errorf("Field %s is required", f.Name) //nolint:staticcheck // the wording is part of the language
				}
				continue
			}
			used++
			if err := f.set(ctx, scope, target.Elem().Field(f.index), raw, accessor); err != nil {
				return target, fmt.Errorf("Field %s %w", f.Name, err) //nolint:staticcheck // as above
			}
			if i == a.access {
				accessor = target.Elem().Field(f.index).String()
			}
		}
	}
	return target, a.takeRest(target.Elem(), args, used)
}

// replaced handles the argument `**`: its dict is the argument list.
func replaced(ctx context.Context, scope *Scope, args argSource, a *argSet) argSource {
	raw, ok := args.Get("**")
	if !ok || (a.rest >= 0 && len(a.fields) == 0 && scope.name == "dict") {
		return args
	}
	if d, ok := scope.force(ctx, raw).(*Dict); ok {
		return d
	}
	return args
}

func (a *argSet) takeRest(target reflect.Value, args argSource, used int) error {
	if used == args.Len() && a.rest < 0 {
		return nil
	}
	var rest Rest
	for _, item := range args.Items() {
		if _, known := a.byName[item.Key]; known {
			continue
		}
		if a.rest < 0 {
			return fmt.Errorf("Unexpected arg %s", item.Key) //nolint:staticcheck // as above
		}
		rest = append(rest, Keyword{Name: item.Key, lazy: Lazy{raw: item.Value, set: true}})
	}
	if a.rest >= 0 {
		target.Field(a.rest).Set(reflect.ValueOf(rest))
	}
	return nil
}

// set converts one argument into its field.
func (f *argField) set(ctx context.Context, scope *Scope, field reflect.Value, raw any, accessor string) error {
	if f.ptr {
		fresh := reflect.New(field.Type().Elem())
		field.Set(fresh)
		field = fresh.Elem()
	}
	switch f.kind {
	case kindLazy:
		field.Set(reflect.ValueOf(Lazy{raw: raw, set: true}))
		return nil
	case kindQuery:
		field.Set(reflect.ValueOf(scope.Query(ctx, raw)))
		return nil
	}
	v := scope.force(ctx, raw)
	if err := scope.session.weigh(v); err != nil {
		return err
	}
	return f.setValue(ctx, scope, field, v, accessor)
}

func (f *argField) setValue(ctx context.Context, scope *Scope, field reflect.Value, v Value, accessor string) error {
	switch f.kind {
	case kindAny:
		if v == nil {
			v = NULL
		}
		field.Set(reflect.ValueOf(v))
	case kindString:
		field.SetString(argString(ctx, scope, v))
	case kindStrings:
		field.Set(reflect.ValueOf(argStrings(ctx, scope, v)))
	case kindAnys:
		field.Set(reflect.ValueOf(argList(v)))
	case kindBool:
		field.SetBool(scope.inner.Bool(v))
	case kindDict:
		d, err := argDict(ctx, scope, v)
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(d))
	case kindLambda:
		l, err := scope.session.lambda(argString(ctx, scope, v))
		if err != nil {
			return err
		}
		field.Set(reflect.ValueOf(l))
	case kindTime:
		t, ok := scope.Time(v)
		if !ok {
			return fmt.Errorf("should be a time not %s.", typeName(v)) //nolint:staticcheck // as above
		}
		field.Set(reflect.ValueOf(t))
	case kindPath, kindPaths:
		return f.setPaths(ctx, scope, field, v, accessor)
	default:
		return f.setNumber(field, v)
	}
	return nil
}

func (f *argField) setNumber(field reflect.Value, v Value) error {
	if f.kind == kindFloat {
		n, ok := toFloat(v)
		if !ok {
			return fmt.Errorf("should be a float not %s.", typeName(v)) //nolint:staticcheck // as above
		}
		field.SetFloat(n)
		return nil
	}
	n, ok := toInt(v)
	if !ok {
		return fmt.Errorf("should be an int not %s.", typeName(v)) //nolint:staticcheck // as above
	}
	if f.kind == kindUint {
		field.SetUint(uint64(n))
		return nil
	}
	field.SetInt(n)
	return nil
}

// setPaths parses paths with the accessor that will open them.
func (f *argField) setPaths(ctx context.Context, scope *Scope, field reflect.Value, v Value, accessor string) error {
	if f.kind == kindPath {
		p, err := scope.ToPath(ctx, v, accessor)
		if err != nil {
			return err
		}
		if p != nil {
			field.Set(reflect.ValueOf(p))
		}
		return nil
	}
	var paths []*Path
	if q, ok := v.(types.StoredQuery); ok {
		v = scope.rowsOf(ctx, q)
	}
	for _, item := range argList(v) {
		p, err := scope.ToPath(ctx, item, accessor)
		if err != nil {
			return err
		}
		if p != nil {
			paths = append(paths, p)
		}
	}
	field.Set(reflect.ValueOf(paths))
	return nil
}

// ToPath makes a path of a value: a path as it is, a pathspec dict, a row of one
// column that holds either, or a text that the named accessor parses ("" is auto).
// NULL gives nil.
func (s *Scope) ToPath(ctx context.Context, v Value, accessor string) (*Path, error) {
	v = s.force(ctx, v)
	switch t := v.(type) {
	case *Path:
		return t, nil
	case *PathSpec:
		return s.ToPath(ctx, t.String(), accessor)
	case *Dict:
		if isPathSpec(t) {
			return s.ToPath(ctx, string(AppendJSON(nil, t)), accessor)
		}
		if t.Len() != 1 {
			return nil, fmt.Errorf("Expecting a path arg type, not %s", typeName(v)) //nolint:staticcheck // the words that make a collection fail
		}
		member, _ := t.Get(t.Keys()[0])
		return s.ToPath(ctx, member, accessor)
	}
	if IsNull(v) {
		return nil, nil
	}
	if list, ok := asSlice(v); ok && list.Len() == 1 && list.Type().Elem().Kind() != reflect.Uint8 {
		return s.ToPath(ctx, list.Index(0).Interface(), accessor)
	}
	a, err := s.Accessor(accessor)
	if err != nil {
		return nil, err
	}
	return a.ParsePath(s.String(ctx, v))
}

// isPathSpec reports whether a dict has a member of a pathspec.
func isPathSpec(d *Dict) bool {
	return slices.ContainsFunc(d.Keys(), func(key string) bool {
		switch strings.ToLower(key) {
		case "path", "delegate", "delegatepath", "delegateaccessor":
			return true
		}
		return false
	})
}

func argString(ctx context.Context, scope *Scope, v Value) string {
	if list, ok := asSlice(v); ok && list.Len() == 1 && list.Type().Elem().Kind() != reflect.Uint8 {
		if items := argStrings(ctx, scope, v); len(items) == 1 {
			return items[0]
		}
	}
	if IsNull(v) {
		return ""
	}
	return scope.String(ctx, v)
}

func argStrings(ctx context.Context, scope *Scope, v Value) []string {
	if q, ok := v.(types.StoredQuery); ok {
		v = scope.rowsOf(ctx, q)
	}
	list, ok := asSlice(v)
	if !ok || list.Type().Elem().Kind() == reflect.Uint8 {
		return []string{scope.String(ctx, v)}
	}
	var out []string
	for i := range list.Len() {
		item := scope.force(ctx, list.Index(i).Interface())
		if d, ok := item.(*Dict); ok && d.Len() == 1 {
			member, _ := d.Get(d.Keys()[0])
			if text, ok := textOf(scope.force(ctx, member)); ok {
				out = append(out, text)
			}
		}
		out = append(out, scope.String(ctx, item))
	}
	return out
}

func argList(v Value) []Value {
	list, ok := asSlice(v)
	if !ok || list.Type().Elem().Kind() == reflect.Uint8 {
		return []Value{v}
	}
	out := make([]Value, list.Len())
	for i := range out {
		out[i] = list.Index(i).Interface()
	}
	return out
}

func argDict(ctx context.Context, scope *Scope, v Value) (*Dict, error) {
	if d, ok := v.(*Dict); ok {
		return d, nil
	}
	switch v.(type) {
	case string, []byte, bool, int, int8, int16, int32, int64, uint, uint8, uint16, uint32, uint64, float64, float32, types.Null, *types.Null, nil, time.Time:
		return nil, fmt.Errorf("should be a dict not %s.", typeName(v)) //nolint:staticcheck // as above
	}
	out := NewDict()
	for _, name := range scope.Members(v) {
		member, _ := scope.Member(v, name)
		out.Set(name, member)
	}
	return out, nil
}

// typeName is how messages name the type of a value.
func typeName(v Value) string { return fmt.Sprintf("%T", v) }

func asSlice(v Value) (reflect.Value, bool) {
	if v == nil {
		return reflect.Value{}, false
	}
	r := reflect.ValueOf(v)
	return r, r.Kind() == reflect.Slice || r.Kind() == reflect.Array
}

func textOf(v Value) (string, bool) {
	switch t := v.(type) {
	case string:
		return t, true
	case []byte:
		return string(t), true
	}
	return "", false
}

// toInt converts numbers and bools; floats are cut.
func toInt(v Value) (int64, bool) {
	switch t := v.(type) {
	case int64:
		return t, true
	case int:
		return int64(t), true
	case uint64:
		return int64(t), true
	case bool:
		if t {
			return 1, true
		}
		return 0, true
	case float64:
		return cutFloat(t), true
	case json.Number:
		return parseInt(string(t))
	case nil, string:
		return 0, false
	}
	r := reflect.Indirect(reflect.ValueOf(v))
	switch {
	case !r.IsValid() || isObject(v):
		return 0, false
	case r.CanInt():
		return r.Int(), true
	case r.CanUint():
		return int64(r.Uint()), true
	case r.CanFloat():
		return cutFloat(r.Float()), true
	}
	return 0, false
}

// cutFloat cuts a float to an integer, saturating; NaN is 0.
func cutFloat(f float64) int64 {
	switch {
	case math.IsNaN(f):
		return 0
	case f >= math.MaxInt64:
		return math.MaxInt64
	case f <= math.MinInt64:
		return math.MinInt64
	}
	return int64(f)
}

// isObject reports whether a value of a number's kind is an object of its own, as
// fs.FileMode or a time.Duration: those are no numbers to the language's
// arithmetic, but are to arguments.
func isObject(Value) bool { return false }

func toFloat(v Value) (float64, bool) {
	switch t := v.(type) {
	case float64:
		return t, true
	case float32:
		return float64(t), true
	case uint64:
		return float64(t), true
	}
	i, ok := toInt(v)
	return float64(i), ok
}

// parseInt reads decimal, 0x, 0o, 0b and leading-0 octal integers; unsigned ones
// above the signed range wrap.
func parseInt(text string) (int64, bool) {
	text = strings.TrimSpace(text)
	if i, err := strconv.ParseInt(text, 0, 64); err == nil {
		return i, true
	}
	if u, err := strconv.ParseUint(text, 0, 64); err == nil {
		return int64(u), true
	}
	return 0, false
}
