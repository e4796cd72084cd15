package vql

import "context"

func aggregateFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "count", Doc: "Counts the rows of the group.", Aggregate: true}, countFunction),
		NewFunction(Spec{Name: "sum", Doc: "Adds up integers of the group.", Aggregate: true}, sumFunction),
		NewFunction(Spec{Name: "min", Doc: "Keeps the smallest item of the group.", Aggregate: true}, minFunction),
		NewFunction(Spec{Name: "max", Doc: "Keeps the largest item of the group.", Aggregate: true}, maxFunction),
		NewFunction(Spec{Name: "enumerate", Doc: "Collects the items of the group in an array.", Aggregate: true}, enumerateFunction),
		NewFunction(Spec{Name: "rate", Doc: "The change of x over the change of y since the last row.", Aggregate: true}, rateFunction),
	}
}

type countArgs struct {
	Items Lazy `vql:"items" doc:"Not used."`
}

func countFunction(_ context.Context, scope *Scope, _ *countArgs) (Value, error) {
	return scope.State(func(old Value) Value {
		n, _ := old.(uint64)
		return n + 1
	}), nil
}

type sumArgs struct {
	Item int64 `vql:"item,required" doc:"What to add."`
}

func sumFunction(_ context.Context, scope *Scope, args *sumArgs) (Value, error) {
	return scope.State(func(old Value) Value {
		n, _ := old.(int64)
		return n + args.Item
	}), nil
}

type itemRequired struct {
	Item Value `vql:"item,required" doc:"What to compare."`
}

func minFunction(_ context.Context, scope *Scope, args *itemRequired) (Value, error) {
	return scope.State(func(old Value) Value {
		if old != nil && !scope.Less(args.Item, old) {
			return old
		}
		return args.Item
	}), nil
}

func maxFunction(_ context.Context, scope *Scope, args *itemRequired) (Value, error) {
	return scope.State(func(old Value) Value {
		if old != nil && scope.Less(args.Item, old) {
			return old
		}
		return args.Item
	}), nil
}

type enumerateArgs struct {
	Items Value `vql:"items" doc:"What to collect."`
}

func enumerateFunction(ctx context.Context, scope *Scope, args *enumerateArgs) (Value, error) {
	item := scope.Real(ctx, args.Items)
	return scope.State(func(old Value) Value {
		list, _ := old.([]any)
		return append(list, item)
	}), nil
}

type rateArgs struct {
	X float64 `vql:"x,required"`
	Y float64 `vql:"y,required"`
}

func rateFunction(_ context.Context, scope *Scope, args *rateArgs) (Value, error) {
	var out Value = NULL
	scope.State(func(old Value) Value {
		if last, ok := old.([]any); ok && len(last) == 2 {
			x, _ := toFloat(last[0])
			y, _ := toFloat(last[1])
			if args.Y != y {
				out = (args.X - x) / (args.Y - y)
			}
		}
		return []any{args.X, args.Y}
	})
	return out, nil
}
