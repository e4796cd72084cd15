package vql

import (
	"context"
	"encoding/json"
	"reflect"
	"strings"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

// The operators below are asked only where the engine's own rules found nothing:
// one type for each operator, because the engine takes a value for one protocol.

func protocols() []types.Any {
	return []types.Any{
		truthOp{},
		equalOp{},
		lessOp{},
		greaterOp{},
		addOp{},
		subOp{},
		mulOp{},
		divOp{},
		matchOp{},
		pathMembers{},
		mapMembers{},
		materialisedMembers{},
	}
}

// plain turns numbers and strings of types that the engine does not know (uint,
// float32, json.Number, named ones) into those it knows.
func plain(v types.Any) (types.Any, bool) {
	switch t := v.(type) {
	case nil, string, bool, int64, float64, int, uint64, int32, uint32, time.Time, *Dict, []any:
		return v, false
	case json.Number:
		if i, err := t.Int64(); err == nil {
			return i, true
		}
		f, err := t.Float64()
		return f, err == nil
	}
	r := reflect.ValueOf(v)
	known := r.Type().PkgPath() == "" && r.Kind() != reflect.Uint && r.Kind() != reflect.Uintptr && r.Kind() != reflect.Float32
	switch {
	case known:
		return v, false
	case r.Kind() == reflect.String:
		return r.String(), true
	case r.CanInt():
		return r.Int(), true
	case r.CanUint():
		return r.Uint(), true
	case r.CanFloat():
		return r.Float(), true
	case r.Kind() == reflect.Bool:
		return r.Bool(), true
	}
	return v, false
}

// plainPair reports whether one of the two had to be turned.
func plainPair(a, b types.Any) (types.Any, types.Any, bool) {
	x, changedX := plain(a)
	y, changedY := plain(b)
	return x, y, changedX || changedY
}

// asTime reads times, and strings if the other operand is a time.
func asTime(s types.Scope, v types.Any) (time.Time, bool) {
	switch t := v.(type) {
	case time.Time:
		return t, true
	case *time.Time:
		if t != nil {
			return *t, true
		}
	case string:
		if strings.TrimSpace(t) != "" {
			return scopeOf(s).Time(t)
		}
	}
	return time.Time{}, false
}

func isTime(v types.Any) bool {
	switch v.(type) {
	case time.Time, *time.Time:
		return true
	}
	return false
}

// timePair reads two operands as times when at least one is one.
func timePair(s types.Scope, a, b types.Any) (time.Time, time.Time, bool) {
	if !isTime(a) && !isTime(b) {
		return time.Time{}, time.Time{}, false
	}
	x, ok := asTime(s, a)
	if !ok {
		return x, x, false
	}
	y, ok := asTime(s, b)
	return x, y, ok
}

// pathText gives the text of a path, and of a string if the other is a path.
func pathPair(a, b types.Any) (string, string, bool) {
	p, isPath := a.(*Path)
	q, isPathToo := b.(*Path)
	switch {
	case isPath && isPathToo:
		return p.String(), q.String(), true
	case isPath:
		text, ok := b.(string)
		return p.String(), text, ok
	case isPathToo:
		text, ok := a.(string)
		return text, q.String(), ok
	}
	return "", "", false
}

type truthOp struct{}

func (truthOp) Applicable(types.Any) bool { return true }

func (truthOp) Bool(ctx context.Context, s types.Scope, v types.Any) bool {
	switch t := v.(type) {
	case time.Time:
		return t.Unix() > 0
	case *time.Time:
		return t != nil && t.Unix() > 0
	case *Path:
		return t != nil && (t.Len() > 0 || t.HasDelegate())
	case types.StoredExpression:
		return s.Bool(t.Reduce(ctx, s))
	case types.StoredQuery:
		return hasRow(s, t)
	}
	if p, changed := plain(v); changed {
		return s.Bool(p)
	}
	return false
}

// hasRow runs a query until its first row.
func hasRow(s types.Scope, q types.StoredQuery) bool {
	scope := scopeOf(s)
	found := false
	_ = scope.runStored(scope.session.context(), q, func(Value) error {
		found = true
		return ErrStop
	})
	return found
}

type equalOp struct{}

func (equalOp) Applicable(_, _ types.Any) bool { return true }

func (equalOp) Eq(s types.Scope, a, b types.Any) bool {
	if x, ok := a.(bool); ok {
		text, isText := b.(string)
		return isText && x && trueWord(text)
	}
	if y, ok := b.(bool); ok {
		text, isText := a.(string)
		return isText && y && trueWord(text)
	}
	if x, y, ok := timePair(s, a, b); ok {
		return x.Equal(y)
	}
	if x, y, ok := pathPair(a, b); ok {
		return x == y
	}
	if x, ok := a.(*Dict); ok {
		y, isDict := b.(*Dict)
		return isDict && equalDicts(s, x, y)
	}
	if x, y, changed := plainPair(a, b); changed {
		return s.Eq(x, y)
	}
	return sameObject(a, b)
}

func trueWord(text string) bool {
	switch text {
	case "Y", "y", "TRUE", "True", "true":
		return true
	}
	return false
}

func equalDicts(s types.Scope, x, y *Dict) bool {
	if x.Len() != y.Len() {
		return false
	}
	for _, item := range x.Items() {
		other, ok := y.Get(item.Key)
		if !ok || !s.Eq(item.Value, other) {
			return false
		}
	}
	return true
}

// sameObject compares host objects that Go can compare and that are no queries.
func sameObject(a, b types.Any) bool {
	if a == nil || b == nil || reflect.TypeOf(a) != reflect.TypeOf(b) || !reflect.TypeOf(a).Comparable() {
		return false
	}
	if IsQuery(a) || reflect.TypeOf(a).Kind() == reflect.Struct {
		return false
	}
	return a == b
}

type lessOp struct{}

func (lessOp) Applicable(_, _ types.Any) bool { return true }

func (lessOp) Lt(s types.Scope, a, b types.Any) bool {
	if x, y, ok := timePair(s, a, b); ok {
		return x.Before(y)
	}
	if x, y, ok := pathPair(a, b); ok {
		return x < y
	}
	if x, y, ok := firstElements(a, b); ok {
		return s.Lt(x, y)
	}
	x, y, changed := plainPair(a, b)
	return changed && s.Lt(x, y)
}

type greaterOp struct{}

func (greaterOp) Applicable(_, _ types.Any) bool { return true }

func (greaterOp) Gt(s types.Scope, a, b types.Any) bool {
	if x, y, ok := timePair(s, a, b); ok {
		return x.After(y)
	}
	if x, y, ok := pathPair(a, b); ok {
		return x > y
	}
	if x, y, ok := firstElements(a, b); ok {
		return s.Gt(x, y)
	}
	x, y, changed := plainPair(a, b)
	return changed && s.Gt(x, y)
}

// firstElements are what two arrays are ordered by.
func firstElements(a, b types.Any) (types.Any, types.Any, bool) {
	x, ok := asSlice(a)
	if !ok {
		return nil, nil, false
	}
	y, ok := asSlice(b)
	if !ok || x.Len() == 0 || y.Len() == 0 {
		return nil, nil, false
	}
	return x.Index(0).Interface(), y.Index(0).Interface(), true
}

type matchOp struct{}

func (matchOp) Applicable(_, _ types.Any) bool { return true }

// Match prints what is no string or array and searches that; a pattern that is no
// string is printed too when it is a path.
func (matchOp) Match(s types.Scope, pattern, v types.Any) bool {
	if p, ok := pattern.(dynamicPattern); ok {
		return matchDynamic(s, p, v)
	}
	text, ok := pattern.(string)
	if !ok {
		p, isPath := pattern.(*Path)
		if !isPath {
			return false
		}
		text = p.String()
	}
	printed, ok := scopeOf(s).matchable(v)
	return ok && s.Match(text, printed)
}

// matchable is the text of what =~ searches though it is neither text nor array.
func (s *Scope) matchable(v types.Any) (string, bool) {
	if IsNull(v) || IsQuery(v) {
		return "", false
	}
	switch v.(type) {
	case types.LazyRow, types.Scope, *scopeValue:
		return "", false
	}
	return s.String(s.session.context(), v), true
}
