package vql

import (
	"context"
	"reflect"
	"strings"
	"sync"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
)

// The pinned engine has three mistakes that its extension points do not reach: a
// negated symbol loses its sign from the second evaluation on, bool > int is
// reversed, and text * n panics in a goroutine of the engine when n is negative
// or huge, which would end the process. A parsed statement is therefore changed
// in place: such nodes get a sub-expression that calls a hidden function, and
// keep what they print. The engine evaluates a value's sub-expression before its
// symbol and prints the symbol before the sub-expression; TestRewrite holds it
// to that.

const (
	hiddenNegate  = "__negate"
	hiddenFactor  = "__factor"
	hiddenGreater = "__greater"
	hiddenAtLeast = "__at_least"
	hiddenPattern = "__pattern"
)

// rewrite changes a parsed statement or lambda in place. It runs once, before
// anyone else sees the tree, after the normal form was printed.
func rewrite(tree any) { rewriter{}.walk(reflect.ValueOf(tree)) }

type rewriter struct{}

func (w rewriter) walk(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			w.walk(v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			w.walk(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type().Field(i).IsExported() && worthWalking(v.Field(i)) {
				w.walk(v.Field(i))
			}
		}
		w.node(v)
	}
}

func worthWalking(v reflect.Value) bool {
	return v.Kind() == reflect.Pointer && v.Type().Elem().Kind() == reflect.Struct ||
		v.Kind() == reflect.Slice || v.Kind() == reflect.Struct && v.Type().Name() == "Plugin"
}

func (w rewriter) node(v reflect.Value) {
	switch v.Type().Name() {
	case "_Value":
		w.negated(v)
	case "_OpFactor":
		w.factor(v)
	case "_ConditionOperand":
		w.comparison(v)
	}
}

// negated turns -x into a call; the symbol stays for printing.
func (rewriter) negated(value reflect.Value) {
	symbol := value.FieldByName("SymbolRef")
	if symbol.IsNil() || !strings.HasPrefix(symbol.Elem().FieldByName("Symbol").String(), "-") {
		return
	}
	plainSymbol := copyExported(symbol.Elem())
	name := plainSymbol.Elem().FieldByName("Symbol")
	name.SetString(strings.TrimPrefix(name.String(), "-"))
	inner := reflect.New(value.Type())
	inner.Elem().FieldByName("SymbolRef").Set(plainSymbol)
	value.FieldByName("Subexpression").Set(hiddenCall(hiddenNegate, inner))
}

// factor guards the right operand of * unless it is a small literal.
func (rewriter) factor(op reflect.Value) {
	if op.FieldByName("Operator").String() != "*" {
		return
	}
	value := op.FieldByName("Factor")
	if harmless(value.Elem()) {
		return
	}
	inner := copyExported(value.Elem())
	value.Set(proxy(value, hiddenCall(hiddenFactor, inner)))
}

func harmless(value reflect.Value) bool {
	if !value.FieldByName("SymbolRef").IsNil() || !value.FieldByName("Subexpression").IsNil() {
		return false
	}
	number := value.FieldByName("StrNumber")
	if number.IsNil() {
		return true
	}
	text := number.Elem().String()
	return !strings.HasPrefix(text, "-") && len(text) < 9
}

// comparison turns a > b and a >= b into a call.
func (rewriter) comparison(cond reflect.Value) {
	right := cond.FieldByName("Right")
	if right.IsNil() {
		return
	}
	operator := right.Elem().FieldByName("Operator").String()
	if operator == "=~" {
		guardPattern(right.Elem().FieldByName("Right"))
	}
	if operator != ">" && operator != ">=" {
		return
	}
	shell := reflect.New(cond.Type()) // prints the whole comparison
	shell.Elem().FieldByName("Left").Set(cond.FieldByName("Left"))
	shell.Elem().FieldByName("Right").Set(right)
	text := vfilter.FormatToString(printScope, shell.Interface())
	call := hiddenCompare(operator, cond.FieldByName("Left"), right.Elem().FieldByName("Right"))
	left := newSum(text, call)
	cond.FieldByName("Left").Set(left)
	right.Set(reflect.Zero(right.Type()))
}

// guardPattern hands a pattern that is no literal to the host: the engine would
// keep each one that a row brings, however long, until the session ends.
func guardPattern(sum reflect.Value) {
	if isLiteral(sum.Elem()) {
		return
	}
	text := vfilter.FormatToString(printScope, sum.Interface())
	sum.Set(newSum(text, callOf(hiddenPattern, reflect.ValueOf(sum.Interface()))))
}

// isLiteral reports whether a sum is nothing but a string.
func isLiteral(sum reflect.Value) bool {
	product := sum.FieldByName("Left").Elem()
	member := product.FieldByName("Left").Elem()
	value := member.FieldByName("Left").Elem()
	return sum.FieldByName("Right").Len() == 0 && product.FieldByName("Right").Len() == 0 &&
		member.FieldByName("Right").Len() == 0 && !value.FieldByName("String").IsNil() &&
		value.FieldByName("Subexpression").IsNil()
}

// copyExported copies a node without its locks and caches.
func copyExported(node reflect.Value) reflect.Value {
	out := reflect.New(node.Type())
	for i := range node.NumField() {
		if node.Type().Field(i).IsExported() {
			out.Elem().Field(i).Set(node.Field(i))
		}
	}
	return out
}

// proxy is a value that prints as the old one and evaluates sub.
func proxy(old reflect.Value, sub reflect.Value) reflect.Value {
	text := vfilter.FormatToString(printScope, old.Interface())
	return textValue(text, sub)
}

func textValue(text string, sub reflect.Value) reflect.Value {
	value := templateValue()
	symbol := value.Elem().FieldByName("SymbolRef")
	fresh := reflect.New(symbol.Type().Elem())
	fresh.Elem().FieldByName("Symbol").SetString(text)
	symbol.Set(fresh)
	value.Elem().FieldByName("Subexpression").Set(sub)
	return value
}

// pattern is a parsed expression of our own. The engine's node types have no names
// outside of it, so new nodes are made like those found in here.
var pattern = func() *vfilter.VQL {
	parsed, err := vfilter.Parse("LET x = (f(a=x))")
	if err != nil {
		panic("vql: pattern does not parse: " + err.Error())
	}
	return parsed
}()

// like makes an empty node of a node's type.
func like[T any](*T) *T { return new(T) }

// templateValue makes an empty _Value.
func templateValue() reflect.Value {
	return reflect.ValueOf(like(pattern.Expression.Left.Left.Left.Left.Left.Left))
}

// newSum makes an addition node around a text value.
func newSum(text string, sub reflect.Value) reflect.Value {
	old := pattern.Expression.Left.Left.Left
	sum, product, member := like(old), like(old.Left), like(old.Left.Left)
	sum.Left, product.Left = product, member
	reflect.ValueOf(member).Elem().FieldByName("Left").Set(textValue(text, sub))
	return reflect.ValueOf(sum)
}

// hiddenCall makes the sub-expression NAME(a=value).
func hiddenCall(name string, value reflect.Value) reflect.Value {
	old := pattern.Expression.Left.Left.Left
	sum, product, member := like(old), like(old.Left), like(old.Left.Left)
	sum.Left, product.Left = product, member
	reflect.ValueOf(member).Elem().FieldByName("Left").Set(value)
	return callOf(name, reflect.ValueOf(sum))
}

// hiddenCompare makes the sub-expression NAME(a=left, b=right).
func hiddenCompare(operator string, left, right reflect.Value) reflect.Value {
	name := hiddenGreater
	if operator == ">=" {
		name = hiddenAtLeast
	}
	return callOf(name, left, right)
}

// callOf makes the sub-expression of a call with sums as its arguments a and b.
func callOf(name string, sums ...reflect.Value) reflect.Value {
	value := pattern.Expression.Left.Left.Left.Left.Left.Left
	symbol := like(value.Subexpression.Left.Left.Left.Left.Left.Left.Left.SymbolRef)
	symbol.Symbol, symbol.Called = name, true
	for i, argument := range sums {
		and, or, cond := like(pattern.Expression), like(pattern.Expression.Left), like(pattern.Expression.Left.Left)
		and.Left, or.Left = or, cond
		reflect.ValueOf(cond).Elem().FieldByName("Left").Set(argument)
		given := like(value.Subexpression.Left.Left.Left.Left.Left.Left.Left.SymbolRef.Parameters[0])
		given.Left, given.Right = string(rune('a'+i)), and
		symbol.Parameters = append(symbol.Parameters, given)
	}
	list, and, or, cond := like(value.Subexpression), like(pattern.Expression), like(pattern.Expression.Left), like(pattern.Expression.Left.Left)
	old := pattern.Expression.Left.Left.Left
	sum, product, member, call := like(old), like(old.Left), like(old.Left.Left), like(value)
	list.Left, and.Left, or.Left, cond.Left = and, or, cond, sum
	sum.Left, product.Left, member.Left, call.SymbolRef = product, member, call, symbol
	return reflect.ValueOf(list)
}

// hiddenFunction is one of the functions that only rewritten trees call.
type hiddenFunction struct {
	name string
	call func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any
}

func (f *hiddenFunction) Copy() types.FunctionInterface { return f }

func (f *hiddenFunction) Info(types.Scope, *types.TypeMap) *types.FunctionInfo {
	return &types.FunctionInfo{Name: f.name}
}

func (f *hiddenFunction) Call(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
	return f.call(ctx, inner, args)
}

func operand(ctx context.Context, inner types.Scope, args *ordereddict.Dict, name string) types.Any {
	v, _ := args.Get(name)
	if lazy, ok := v.(types.LazyExpr); ok {
		v = lazy.Reduce(ctx)
	}
	if v == nil {
		return NULL
	}
	return v
}

var hiddenOnce = sync.OnceValue(func() []types.FunctionInterface {
	return []types.FunctionInterface{
		&hiddenFunction{hiddenNegate, func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
			return negate(scopeOf(inner).force(ctx, operand(ctx, inner, args, "a")))
		}},
		&hiddenFunction{hiddenFactor, func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
			return guardFactor(operand(ctx, inner, args, "a"))
		}},
		&hiddenFunction{hiddenPattern, func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
			return boundPattern(scopeOf(inner).force(ctx, operand(ctx, inner, args, "a")))
		}},
		&hiddenFunction{hiddenGreater, func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
			a, b := operand(ctx, inner, args, "a"), operand(ctx, inner, args, "b")
			return greater(inner, a, b)
		}},
		&hiddenFunction{hiddenAtLeast, func(ctx context.Context, inner types.Scope, args *ordereddict.Dict) types.Any {
			a, b := operand(ctx, inner, args, "a"), operand(ctx, inner, args, "b")
			return greater(inner, a, b) || inner.Eq(a, b)
		}},
	}
})

func hiddenFunctions() []types.FunctionInterface { return hiddenOnce() }

// negate is -x for a symbol x.
func negate(v types.Any) types.Any {
	switch t := v.(type) {
	case bool:
		return !t
	case float64:
		return -t
	case float32:
		return -t
	}
	if i, ok := toInt(v); ok {
		return -i
	}
	return NULL
}

// greater is > with bools as numbers.
func greater(inner types.Scope, a, b types.Any) bool {
	_, x := a.(bool)
	_, y := b.(bool)
	if x || y {
		m, okM := toFloat(a)
		n, okN := toFloat(b)
		if okM && okN {
			return m > n
		}
	}
	return inner.Gt(a, b)
}
