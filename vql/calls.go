package vql

import (
	"context"
	"strings"

	"github.com/Velocidex/ordereddict"
	"www.velocidex.com/golang/vfilter"
	"www.velocidex.com/golang/vfilter/types"
	"www.velocidex.com/golang/vfilter/utils"
)

// argSource is where a call's arguments are read from: a dict of the engine, or
// the list of a direct call.
type argSource interface {
	Get(name string) (any, bool)
	Len() int
	Items() []ordereddict.Item
}

// argItems is the arguments of one direct call; a repeated name's last one counts.
type argItems []ordereddict.Item

// Get implements argSource.
func (a *argItems) Get(name string) (any, bool) {
	for i := len(*a) - 1; i >= 0; i-- {
		if (*a)[i].Key == name {
			return (*a)[i].Value, true
		}
	}
	return nil, false
}

// Len implements argSource.
func (a *argItems) Len() int { return len(*a) }

// Items implements argSource.
func (a *argItems) Items() []ordereddict.Item { return *a }

// directCall is a column that is nothing but a call of one of our functions. It is
// called without the engine, which would make a dict of the arguments first.
type directCall struct {
	function *functionAdapter
	args     []directArg
}

// directArg is an argument: an expression, the lambda's, or a query.
type directArg struct {
	name string
	expr vfilter.Lambda
	bare string // the name that the expression consists of, if it does
	raw  any    // the query
}

// bareName returns the name that an expression, the lambda's, consists of; "" when
// it is anything else.
func bareName(e vfilter.Lambda) string {
	symbol := onlySymbol(e)
	if symbol == nil || symbol.Call {
		return ""
	}
	return symbol.Name
}

// onlySymbol returns the name or call that an expression, the lambda's, consists
// of; nil when it is anything else, or a dotted name. A plugin holds it: the types
// of the engine's symbols have no name here.
func onlySymbol(e vfilter.Lambda) *vfilter.Plugin {
	if e.Expression == nil || len(e.Expression.Right) > 0 || len(e.Expression.Left.Right) > 0 {
		return nil
	}
	cond := e.Expression.Left.Left
	if cond.Not != nil || cond.Right != nil || len(cond.Left.Right) > 0 {
		return nil
	}
	member := cond.Left.Left
	if len(member.Right) > 0 || len(member.Left.Right) > 0 {
		return nil
	}
	value := member.Left.Left
	if value.Subexpression != nil || value.SymbolRef == nil || strings.ContainsAny(value.SymbolRef.Symbol, ".`-") {
		return nil
	}
	return &vfilter.Plugin{Name: value.SymbolRef.Symbol, Call: value.SymbolRef.Called, Args: value.SymbolRef.Parameters}
}

// directOf prepares a call of a column's expression; nil when it is anything else.
func (x *selection) directOf(i int) *directCall {
	column := x.query.Query.SelectExpression.Expressions[i]
	symbol := onlySymbol(vfilter.Lambda{Expression: column.Expression})
	if symbol == nil || !symbol.Call {
		return nil
	}
	found, _ := x.inner.GetFunction(symbol.Name)
	function, ours := found.(*functionAdapter)
	if !ours {
		return nil
	}
	call := &directCall{function: function}
	for _, p := range symbol.Args {
		arg := directArg{name: utils.Unquote_ident(p.Left)}
		switch {
		case p.Right != nil:
			arg.expr = vfilter.Lambda{Expression: p.Right}
			arg.bare = bareName(arg.expr)
		case p.SubSelect != nil:
			arg.raw = p.SubSelect
		default:
			return nil
		}
		if _, twice := call.named(arg.name); twice {
			return nil
		}
		call.args = append(call.args, arg)
	}
	if function.function.Spec.Aggregate {
		var ok bool
		if call.function, ok = x.scope.session.site(column, function); !ok {
			return nil
		}
	}
	return call
}

func (c *directCall) named(name string) (*directArg, bool) {
	for i := range c.args {
		if c.args[i].name == name {
			return &c.args[i], true
		}
	}
	return nil, false
}

// maxSites is how many call sites of aggregates a session calls directly.
const maxSites = 2000

// site gives a call site of an aggregate its own copy of the function, as the
// engine does: its state belongs to the place, however often a query there runs.
func (s *session) site(node any, function *functionAdapter) (*functionAdapter, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.sites[node]; ok {
		return known, true
	}
	if len(s.sites) >= maxSites {
		return nil, false
	}
	if s.sites == nil {
		s.sites = map[any]*functionAdapter{}
	}
	own, ok := function.Copy().(*functionAdapter)
	s.sites[node] = own
	return own, ok
}

// call calls the function for a row.
func (c *directCall) call(ctx context.Context, row *lazyRecord) Value {
	row.scope.GetStats().IncFunctionsCalled()
	args := make(argItems, len(c.args))
	for i := range c.args {
		arg := &c.args[i]
		args[i].Key = arg.name
		if arg.raw != nil {
			args[i].Value = arg.raw
			continue
		}
		args[i].Value = &lazyArg{arg: arg, row: row, ctx: ctx}
	}
	return c.function.call(ctx, row.scope, &args)
}

// lazyArg is an argument that is evaluated when it is read, once.
type lazyArg struct {
	arg   *directArg
	row   *lazyRecord
	ctx   context.Context //nolint:containedctx // the caller's, as in the engine's own
	value Value
}

// Reduce implements the engine's lazy expression.
func (l *lazyArg) Reduce(ctx context.Context) types.Any {
	if l.value == nil {
		l.value = l.ReduceWithScope(ctx, l.row.scope)
	}
	return l.value
}

// ReduceWithScope implements the engine's lazy expression.
func (l *lazyArg) ReduceWithScope(ctx context.Context, _ types.Scope) types.Any {
	if l.arg.bare != "" {
		if v, ok := plainMember(l.row.source, l.arg.bare); ok {
			return v
		}
	}
	return vfilter.NewLazyExpr(l.ctx, l.row.scope, l.arg.expr.Expression).Reduce(ctx)
}
