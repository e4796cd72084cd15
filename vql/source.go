package vql

import (
	"context"
	"strings"

	"www.velocidex.com/golang/vfilter/utils"
)

// source runs what stands after FROM.
func (x *selection) source(emit Emit) error {
	from := &x.query.Query.From.Plugin
	if strings.ContainsAny(from.Name, ".`") {
		return x.engineSource(emit)
	}
	if from.Call {
		if found, ok := x.inner.GetPlugin(from.Name); ok {
			plugin, ours := found.(*pluginAdapter)
			if !ours || x.inner.CheckForOverflow() {
				return x.engineSource(emit)
			}
			x.inner.GetStats().IncPluginsCalled()
			return plugin.rows(x.ctx, x.scope, x.arguments(), emit)
		}
	}
	found, ok := x.inner.Resolve(from.Name)
	if !ok {
		return x.engineSource(emit)
	}
	switch q := found.(type) {
	case *storedQuery:
		if x.inner.CheckForOverflow() {
			return x.engineSource(emit)
		}
		if !from.Call {
			return x.scope.runRecords(x.ctx, q, emit)
		}
		x.inner.GetStats().IncPluginsCalled()
		args := x.arguments()
		q.ApplyDefaults(x.ctx, x.inner, args)
		return q.call(x.ctx, x.scope, args, emit)
	case *materialised:
		if !from.Call {
			return q.each(x.ctx, emit)
		}
	}
	return x.engineSource(emit)
}

// engineSource leaves the source to the engine, which also says what is wrong
// with it.
func (x *selection) engineSource(emit Emit) error {
	ctx, cancel := context.WithCancel(x.ctx)
	defer cancel()
	if err := forward(ctx, cancel, x.query.Query.From.Plugin.Eval(ctx, x.inner), emit); err != nil {
		return err
	}
	return x.scope.session.alive(ctx)
}

// arguments evaluates the source's arguments; queries stay queries.
func (x *selection) arguments() *Dict {
	args := NewDict()
	for _, arg := range x.query.Query.From.Plugin.Args {
		name := utils.Unquote_ident(arg.Left)
		switch {
		case arg.Right != nil:
			args.Set(name, arg.Right.Reduce(x.ctx, x.inner))
		case arg.SubSelect != nil:
			args.Set(name, arg.SubSelect)
		case arg.Array != nil:
			args.Set(name, arg.Array.Reduce(x.ctx, x.inner))
		case arg.ArrayOpenBrace != "":
			args.Set(name, []any{})
		}
	}
	return args
}
