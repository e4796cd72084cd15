package vql

import (
	"math"
	"math/bits"
	"strings"
	"time"

	"www.velocidex.com/golang/vfilter/types"
)

type addOp struct{}

func (addOp) Applicable(a, b types.Any) bool {
	switch a.(type) {
	case *Dict:
		_, ok := b.(*Dict)
		return ok
	case *Path:
		return !isList(b) || isPathList(b)
	case time.Time, *time.Time:
		return !isList(b)
	case types.StoredQuery:
		return IsQuery(b)
	}
	if isTime(b) && !isList(a) {
		return true
	}
	_, _, changed := plainPair(a, b)
	return changed
}

func isList(v types.Any) bool {
	_, ok := asSlice(v)
	return ok
}

func isPathList(v types.Any) bool {
	switch v.(type) {
	case []string, []any:
		return true
	}
	return false
}

func (addOp) Add(s types.Scope, a, b types.Any) types.Any {
	if x, ok := a.(*Dict); ok {
		return mergeDicts(x, b.(*Dict))
	}
	if p, ok := a.(*Path); ok {
		return addPath(scopeOf(s), p, b)
	}
	if IsQuery(a) {
		scope := scopeOf(s)
		ctx := scope.session.context()
		return append(scope.Rows(ctx, a), scope.Rows(ctx, b)...)
	}
	if isTime(a) {
		return shift(s, a, b, 1)
	}
	if isTime(b) {
		return shift(s, b, a, 1)
	}
	x, y, _ := plainPair(a, b)
	return s.Add(x, y)
}

func mergeDicts(x, y *Dict) *Dict {
	out := NewDict()
	out.MergeFrom(x)
	for _, item := range y.Items() {
		out.Update(item.Key, item.Value)
	}
	return out
}

func addPath(s *Scope, p *Path, v types.Any) types.Any {
	switch t := v.(type) {
	case *Path:
		return p.Append(t.Components()...)
	case string:
		return p.Append(p.syntax.Split(t)...)
	case []byte:
		return p.Append(p.syntax.Split(string(t))...)
	}
	if IsNull(v) {
		return p
	}
	if isList(v) {
		for _, item := range argList(v) {
			p = p.Append(p.syntax.Split(s.String(s.session.context(), item))...)
		}
		return p
	}
	return p.Append(p.syntax.Split(s.String(s.session.context(), v))...)
}

// shift moves a time by a number of seconds.
func shift(s types.Scope, t, by types.Any, sign float64) types.Any {
	at, _ := asTime(s, t)
	switch n := by.(type) {
	case time.Duration:
		return at.Add(time.Duration(sign) * n)
	case float64:
		return at.Add(time.Duration(sign * n * float64(time.Second)))
	}
	if n, ok := toInt(by); ok {
		return time.Unix(at.Unix()+int64(sign)*n, int64(at.Nanosecond())).In(at.Location())
	}
	return NULL
}

type subOp struct{}

func (subOp) Applicable(_, _ types.Any) bool { return true }

// Sub gives the difference of two times in seconds.
func (subOp) Sub(s types.Scope, a, b types.Any) types.Any {
	if x, ok := a.(*Dict); ok {
		return withoutKeys(x, b)
	}
	if x, y, ok := timePair(s, a, b); ok {
		return x.Sub(y).Seconds()
	}
	if isTime(a) {
		return shift(s, a, b, -1)
	}
	if x, y, changed := plainPair(a, b); changed {
		return s.Sub(x, y)
	}
	return NULL
}

func withoutKeys(x *Dict, b types.Any) types.Any {
	y, ok := b.(*Dict)
	if !ok {
		return NULL
	}
	out := NewDict()
	for _, item := range x.Items() {
		if _, gone := y.Get(item.Key); !gone {
			out.Set(item.Key, item.Value)
		}
	}
	return out
}

type mulOp struct{}

func (mulOp) Applicable(_, _ types.Any) bool { return true }

func (mulOp) Mul(s types.Scope, a, b types.Any) types.Any {
	if factor, ok := b.(*factor); ok {
		return factor.times(s, a)
	}
	if x, ok := a.(*Dict); ok {
		return commonKeys(x, b)
	}
	if x, y, changed := plainPair(a, b); changed {
		if text, isText := x.(string); isText {
			if n, isNumber := toInt(y); isNumber {
				return repeat(s, text, n)
			}
		}
		return s.Mul(x, y)
	}
	return NULL
}

func commonKeys(x *Dict, b types.Any) types.Any {
	y, ok := b.(*Dict)
	if !ok {
		return NULL
	}
	out := NewDict()
	for _, item := range x.Items() {
		if _, common := y.Get(item.Key); common {
			out.Set(item.Key, item.Value)
		}
	}
	return out
}

// repeat is text * n.
func repeat(s types.Scope, text string, n int64) types.Any {
	if n < 0 {
		return NULL
	}
	high, low := bits.Mul64(uint64(len(text)), uint64(n))
	if high != 0 || low > MaxText {
		s.Log("Multiply Str x Int exceeded memory limits. Len Str %v * Count %v", len(text), n)
		return NULL
	}
	return strings.Repeat(text, int(n))
}

// factor stands for a right operand of * that would make the engine's string
// repetition panic: a negative or huge count. See rewrite.go.
type factor struct{ value types.Any }

func (f *factor) times(s types.Scope, a types.Any) types.Any {
	if text, ok := a.(string); ok {
		n, _ := toInt(f.value)
		return repeat(s, text, n)
	}
	return s.Mul(a, f.value)
}

// guardFactor wraps v if it is such an operand.
func guardFactor(v types.Any) types.Any {
	n, ok := toInt(v)
	if !ok || n >= 0 && n <= math.MaxInt32 {
		return v
	}
	return &factor{value: v}
}

type divOp struct{}

func (divOp) Applicable(_, _ types.Any) bool { return true }

func (divOp) Div(s types.Scope, a, b types.Any) types.Any {
	if x, y, changed := plainPair(a, b); changed {
		return s.Div(x, y)
	}
	return NULL
}
