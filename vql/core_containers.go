package vql

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"regexp"
	"strconv"
	"strings"

	"www.velocidex.com/golang/vfilter/types"
)

func containerFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "dict", Doc: "Makes a dict of the keyword arguments, in their order."}, dictFunction),
		NewFunction(Spec{Name: "lazy_dict", Doc: "Makes a dict whose members are evaluated when they are read."}, lazyDictFunction),
		NewFunction(Spec{Name: "array", Doc: "Makes an array of all arguments, queries expanded to rows; _ initialises it."}, arrayFunction),
		NewFunction(Spec{Name: "get", Doc: "Gets a member, a dotted path or a key of an item, or of the scope."}, getFunction),
		NewFunction(Spec{Name: "set", Doc: "Sets one field of a dict in place."}, setFunction),
		NewFunction(Spec{Name: "to_dict", Doc: "Makes a dict of rows with _key and _value, or of an object's members."}, toDictFunction),
		NewFunction(Spec{Name: "items", Doc: "Lists a container's members as {_key, _value}."}, itemsFunction),
		NewFunction(Spec{Name: "len", Doc: "Counts bytes of a string, elements of an array, keys of a dict or rows of a query."}, lenFunction),
		NewFunction(Spec{Name: "slice", Doc: "Cuts an array or string from start to end, exclusive."}, sliceFunction),
		NewFunction(Spec{Name: "filter", Doc: "Keeps the members of a list that match a regex or satisfy a lambda."}, filterFunction),
		NewFunction(Spec{Name: "any", Doc: "True when one item matches a regex or satisfies a lambda."}, anyFunction),
		NewFunction(Spec{Name: "all", Doc: "True when every item matches a regex or satisfies a lambda."}, allFunction),
		NewFunction(Spec{Name: "join", Doc: "Joins strings with a separator."}, joinFunction),
	}
}

type restArgs struct{ Rest Rest }

func dictFunction(ctx context.Context, scope *Scope, args *restArgs) (Value, error) {
	return args.Rest.Dict(ctx, scope), nil
}

func lazyDictFunction(ctx context.Context, scope *Scope, args *restArgs) (Value, error) {
	d := NewDict()
	for _, k := range args.Rest {
		d.Set(k.Name, LazyCell(func() Value { return k.Value(ctx, scope) }))
	}
	return d, nil
}

func arrayFunction(ctx context.Context, scope *Scope, args *restArgs) (Value, error) {
	out := []Value{}
	for _, k := range args.Rest {
		v := scope.Real(ctx, k.lazy.raw)
		if k.Name == "_" || IsQuery(k.Value(ctx, scope)) {
			out = append(out, scope.Rows(ctx, v)...)
			continue
		}
		out = append(out, v)
	}
	return out, nil
}

type getArgs struct {
	Item    Value  `vql:"item" doc:"Where to look; the scope unless given."`
	Member  string `vql:"member" doc:"A dotted path."`
	Field   Value  `vql:"field" doc:"One key of any type, or an index."`
	Default Lazy   `vql:"default" doc:"What to give when it is missing."`
}

func getFunction(ctx context.Context, scope *Scope, args *getArgs) (Value, error) {
	missing := func() (Value, error) { return args.Default.Value(ctx, scope), nil }
	item := args.Item
	if args.Item != nil && IsNull(args.Item) && !isEmptyList(args.Item) {
		return missing()
	}
	if item == nil {
		item = &scopeValue{scope: scope}
	}
	if args.Field != nil && args.Member == "" {
		v, ok := scope.field(ctx, item, args.Field)
		if !ok {
			return missing()
		}
		return v, nil
	}
	if args.Member == "" {
		return nil, errors.New("one of member or field is needed")
	}
	for part := range strings.SplitSeq(args.Member, ".") {
		var key Value = part
		if i, err := strconv.ParseInt(part, 10, 64); err == nil && !hasKey(item, part) {
			key = i
		}
		v, ok := scope.field(ctx, item, key)
		if !ok {
			return missing()
		}
		item = v
	}
	return item, nil
}

// hasKey reports whether a dict holds a key that looks like a number.
func hasKey(item Value, key string) bool {
	d, ok := item.(*Dict)
	if !ok {
		return false
	}
	_, ok = d.Get(key)
	return ok
}

// field looks one key up, of any type. Dicts with other keys are tried by its
// printed form.
func (s *Scope) field(ctx context.Context, item, key Value) (Value, bool) {
	if m, ok := item.(keyed); ok {
		return m.lookup(ctx, s, key)
	}
	if d, ok := item.(*Dict); ok {
		v, ok := d.Get(s.String(ctx, key))
		if ok {
			return s.force(ctx, v), true
		}
		return NULL, false
	}
	v, ok := s.inner.Associative(item, key)
	if !ok || v == nil {
		return NULL, false
	}
	if list, isArray := v.([]types.Any); isArray && len(list) == 0 && IsQuery(item) && key != nil {
		if _, isIndex := toInt(key); isIndex {
			return NULL, false // a query has no such row
		}
	}
	return s.force(ctx, v), true
}

// keyed is a host object that looks keys of any type up itself.
type keyed interface {
	lookup(ctx context.Context, scope *Scope, key Value) (Value, bool)
}

type setArgs struct {
	Item  Value  `vql:"item,required" doc:"A dict."`
	Field string `vql:"field,required" doc:"The key."`
	Value Value  `vql:"value,required" doc:"The new value."`
}

func setFunction(ctx context.Context, scope *Scope, args *setArgs) (Value, error) {
	if o, ok := ObjectOf(args.Item); ok {
		if settable, ok := o.(Settable); ok {
			settable.SetMember(args.Field, scope.Real(ctx, args.Value))
			return args.Item, nil
		}
	}
	d, ok := args.Item.(*Dict)
	if !ok {
		return nil, fmt.Errorf("item should be a dict not %s", typeName(args.Item))
	}
	v := scope.Real(ctx, args.Value)
	if holds(v, d, 0) {
		return nil, errors.New("the value holds the dict itself")
	}
	d.Update(args.Field, v)
	return d, nil
}

// holds reports whether a container is or holds d, or is too deep to tell: a ring
// would make comparing and printing recurse without end.
func holds(v Value, d *Dict, depth int) bool {
	if depth > maxJSONDepth {
		return true
	}
	switch t := v.(type) {
	case *Dict:
		if t == d {
			return true
		}
		for _, item := range t.Items() {
			if holds(item.Value, d, depth+1) {
				return true
			}
		}
	case []any:
		for _, item := range t {
			if holds(item, d, depth+1) {
				return true
			}
		}
	}
	return false
}

type itemArgs struct {
	Item Value `vql:"item" doc:"A query, dict, list or object."`
}

func toDictFunction(ctx context.Context, scope *Scope, args *itemArgs) (Value, error) {
	out := NewDict()
	if d, ok := args.Item.(*Dict); ok {
		return scope.Real(ctx, d), nil
	}
	if !IsQuery(args.Item) && !isList(args.Item) {
		for _, name := range scope.Members(args.Item) {
			if v, ok := scope.Member(args.Item, name); ok {
				out.Set(name, scope.Real(ctx, v))
			}
		}
		return out, nil
	}
	err := scope.Iterate(ctx, args.Item, func(row Value) error {
		key, ok := scope.Member(row, "_key")
		value, okValue := scope.Member(row, "_value")
		if ok && okValue {
			out.Update(scope.String(ctx, key), scope.Real(ctx, value))
		}
		return nil
	})
	return out, err
}

func itemsFunction(ctx context.Context, scope *Scope, args *itemArgs) (Value, error) {
	out := []Value{}
	err := scope.eachItem(ctx, args.Item, func(key, value Value) error {
		out = append(out, NewDict().Set("_key", key).Set("_value", value))
		return nil
	})
	return out, err
}

// eachItem hands out a container's members: of a query its rows by number, of an
// array its elements by index, of a dict or object its members by name.
func (s *Scope) eachItem(ctx context.Context, v Value, f func(key, value Value) error) error {
	v = s.force(ctx, v)
	n := int64(-1)
	counted := func(row Value) error { n++; return f(n, row) }
	if q, ok := v.(types.StoredQuery); ok {
		return s.runStored(ctx, q, counted)
	}
	if list, ok := asSlice(v); ok {
		for i := range list.Len() {
			if err := counted(list.Index(i).Interface()); err != nil {
				return err
			}
		}
		return nil
	}
	for _, name := range s.Members(v) {
		member, ok := s.Member(v, name)
		if !ok {
			continue
		}
		if err := f(name, s.force(ctx, member)); err != nil {
			return err
		}
	}
	return nil
}

type lenArgs struct {
	List Value `vql:"list,required" doc:"What to measure."`
}

func lenFunction(ctx context.Context, scope *Scope, args *lenArgs) (Value, error) {
	return scope.length(ctx, args.List)
}

func (s *Scope) length(ctx context.Context, v Value) (int64, error) {
	switch t := v.(type) {
	case string:
		return int64(len(t)), nil
	case *Dict:
		return int64(t.Len()), nil
	case *Path:
		return int64(t.Len()), nil
	case *materialised:
		return int64(t.Len()), nil
	case types.StoredQuery:
		n := int64(0)
		err := s.runStored(ctx, t, func(Value) error { n++; return nil })
		return n, err
	}
	if IsNull(v) {
		return 0, nil
	}
	switch r := reflect.ValueOf(v); r.Kind() {
	case reflect.Slice, reflect.Array, reflect.Map, reflect.String:
		return int64(r.Len()), nil
	}
	return 0, nil
}

type sliceArgs struct {
	List  Value `vql:"list,required"`
	Start int64 `vql:"start,required" doc:"First index, from 0; negative from the end."`
	End   int64 `vql:"end,required" doc:"Index after the last; negative from the end."`
}

func sliceFunction(ctx context.Context, scope *Scope, args *sliceArgs) (Value, error) {
	if q, ok := args.List.(types.StoredQuery); ok {
		args.List = scope.rowsOf(ctx, q)
	}
	v, ok := scope.inner.Associative(args.List, []*int64{&args.Start, &args.End})
	if !ok {
		return nil, fmt.Errorf("list should be a list or a string not %s", typeName(args.List))
	}
	return v, nil
}

type filterArgs struct {
	List      Value    `vql:"list,required" doc:"The list."`
	Regex     []string `vql:"regex" doc:"Keep what matches one of these."`
	Condition Lambda   `vql:"condition" doc:"Keep what this is true for, as x=>x > 5."`
}

func filterFunction(ctx context.Context, scope *Scope, args *filterArgs) (Value, error) {
	if len(args.Regex) == 0 && !args.Condition.Given() {
		return nil, errors.New("one of regex or condition is needed")
	}
	out := []Value{}
	for _, item := range scope.Rows(ctx, args.List) {
		if scope.accepts(ctx, item, args.Regex, args.Condition) {
			out = append(out, item)
		}
	}
	return out, nil
}

func (s *Scope) accepts(ctx context.Context, item Value, regexes []string, condition Lambda) bool {
	for _, regex := range regexes {
		if s.Match(regex, item) {
			return true
		}
	}
	return condition.Given() && s.Truth(condition.Call(ctx, s, item))
}

type anyArgs struct {
	Items  Value    `vql:"items,required" doc:"The items."`
	Filter Lambda   `vql:"filter" doc:"A lambda over an item."`
	Regex  []string `vql:"regex" doc:"Patterns, one of which has to match."`
}

func anyFunction(ctx context.Context, scope *Scope, args *anyArgs) (Value, error) {
	return scope.quantify(ctx, args, true)
}

func allFunction(ctx context.Context, scope *Scope, args *anyArgs) (Value, error) {
	return scope.quantify(ctx, args, false)
}

// quantify stops at the first item whose answer is what it looks for.
func (s *Scope) quantify(ctx context.Context, args *anyArgs, want bool) (Value, error) {
	if len(args.Regex) == 0 && !args.Filter.Given() {
		return nil, errors.New("one of filter or regex is needed")
	}
	found := false
	judge := func(_, item Value) error {
		if s.accepts(ctx, item, args.Regex, args.Filter) == want {
			found = true
			return ErrStop
		}
		return nil
	}
	items := s.force(ctx, args.Items)
	var err error
	if isSingle(items) {
		err = judge(nil, items)
	} else {
		err = s.eachItem(ctx, items, judge)
	}
	if err != nil && !errors.Is(err, ErrStop) {
		return nil, err
	}
	return found == want, nil
}

// isSingle reports whether v is a text, a number or a bool. Such a value is an item of
// its own: ['a'] is the text a, since brackets alone make no array.
func isSingle(v Value) bool {
	switch k := reflect.ValueOf(v).Kind(); k {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64:
		return true
	default:
		return k >= reflect.Int && k <= reflect.Uint64
	}
}

type joinArgs struct {
	Array []string `vql:"array,required" doc:"The strings."`
	Sep   string   `vql:"sep" doc:"What to put between them."`
}

func joinFunction(_ context.Context, _ *Scope, args *joinArgs) (Value, error) {
	size := float64(len(args.Array)) * float64(len(args.Sep))
	for _, part := range args.Array {
		size += float64(len(part))
	}
	if size > MaxText {
		return nil, ErrTooLong
	}
	return strings.Join(args.Array, args.Sep), nil
}

// LazyCell makes a cell that is computed when it is first read.
func LazyCell(f func() Value) Value { return &lazyCell{f: f} }

// compiled compiles a regular expression once per session, without making it
// ignore case.
func (s *Scope) compiled(pattern string) (*regexp.Regexp, error) {
	v, err := s.Cache().Get(regexKey(pattern), func() (any, error) { return regexp.Compile(pattern) })
	re, _ := v.(*regexp.Regexp)
	return re, err
}

type regexKey string
