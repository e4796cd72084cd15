package vql

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"time"
)

func controlFunctions() []*Function {
	return []*Function{
		NewFunction(Spec{Name: "if", Doc: "Gives then when condition is true, else otherwise; the other is not evaluated."}, ifFunction),
		NewFunction(Spec{Name: "scope", Doc: "The scope; its members are the variables."}, scopeFunction),
		NewFunction(Spec{Name: "version", Doc: "The version of a function or plugin, NULL when there is none of that name."}, versionFunction),
		NewFunction(Spec{Name: "log", Doc: "Writes to the query's log; always TRUE."}, logFunction),
		NewFunction(Spec{Name: "alert", Doc: "Raises an alert with the further keywords as its data."}, alertFunction),
		NewFunction(Spec{Name: "eval", Doc: "Calls a lambda with arguments."}, evalFunction),
		NewFunction(Spec{Name: "rand", Doc: "A random number from 0 up to range, exclusive."}, randFunction),
		NewFunction(Spec{Name: "atexit", Doc: "Runs a query when the session ends."}, atexitFunction),
	}
}

type ifArgs struct {
	Condition Value `vql:"condition,required" doc:"What decides."`
	Then      Lazy  `vql:"then" doc:"The value when it is true."`
	Else      Lazy  `vql:"else" doc:"The value otherwise."`
}

func ifFunction(ctx context.Context, scope *Scope, args *ifArgs) (Value, error) {
	if scope.Truth(args.Condition) {
		return args.Then.Value(ctx, scope), nil
	}
	return args.Else.Value(ctx, scope), nil
}

func scopeFunction(_ context.Context, scope *Scope, _ *none) (Value, error) {
	return &scopeValue{scope: scope}, nil
}

type versionArgs struct {
	Function string `vql:"function" doc:"A function's name."`
	Plugin   string `vql:"plugin" doc:"A plugin's name."`
}

func versionFunction(_ context.Context, scope *Scope, args *versionArgs) (Value, error) {
	e := scope.Engine()
	switch {
	case args.Plugin != "":
		if p, ok := e.plugins[args.Plugin]; ok && e.available(&p.Spec) == nil {
			return int64(version(&p.Spec)), nil
		}
		return NULL, nil
	case args.Function != "":
		if f, ok := e.functions[args.Function]; ok && e.available(&f.Spec) == nil {
			return int64(version(&f.Spec)), nil
		}
		return NULL, nil
	}
	scope.Log(LevelDefault, "version: One of plugin or function should be specified")
	return int64(0), nil
}

type logArgs struct {
	Message string `vql:"message,required" doc:"The message, with Go verbs for args."`
	Dedup   *int64 `vql:"dedup" doc:"Drop the same message for so many seconds (60); -1 never."`
	Args    Value  `vql:"args" doc:"Values for the verbs."`
	Level   string `vql:"level" doc:"DEFAULT, WARN, ERROR, INFO or DEBUG."`
}

func logFunction(ctx context.Context, scope *Scope, args *logArgs) (Value, error) {
	message := args.Message
	if args.Args != nil {
		var err error
		if message, err = scope.format(ctx, message, args.Args); err != nil {
			return nil, err
		}
	}
	level := strings.ToUpper(args.Level)
	switch level {
	case LevelError, LevelWarn, LevelInfo, LevelDebug:
	default:
		level = LevelDefault
	}
	if scope.due("log", level+message, args.Dedup, 60) {
		scope.LogAlways(level, "%s", message)
	}
	return true, nil
}

// dueKey remembers when something was last done; see due.
type dueKey struct{ kind string }

// due reports whether text is new within a number of seconds.
func (s *Scope) due(kind, text string, seconds *int64, fallback int64) bool {
	period := fallback
	if seconds != nil && *seconds != 0 {
		period = *seconds
	}
	if period < 0 {
		return true
	}
	v, _ := s.Cache().Get(dueKey{kind: kind}, func() (any, error) { return newExpiring(maxDistinct), nil })
	seen, _ := v.(*expiring)
	return seen.add(text, time.Duration(period)*time.Second)
}

type alertArgs struct {
	Name      string `vql:"name,required" doc:"The alert's name."`
	Dedup     *int64 `vql:"dedup" doc:"Drop the same name for so many seconds (7200)."`
	Condition Value  `vql:"condition" doc:"Raise it only when this is true."`
	Rest      Rest
}

type inArtifact struct{}

// InArtifact makes the context of what runs for an artifact: alert() names it.
// name may be that of a result, as Linux.Sys.Users/Local.
func InArtifact(ctx context.Context, name string) context.Context {
	name, _, _ = strings.Cut(name, "/")
	return context.WithValue(ctx, inArtifact{}, name)
}

// artifactOf is the innermost artifact that runs, "" when none does.
func artifactOf(ctx context.Context) string {
	name, _ := ctx.Value(inArtifact{}).(string)
	return name
}

func alertFunction(ctx context.Context, scope *Scope, args *alertArgs) (Value, error) {
	if args.Condition != nil && !scope.Truth(args.Condition) {
		return false, nil
	}
	if !scope.due("alert", args.Name, args.Dedup, 7200) {
		return true, nil
	}
	data := args.Rest.Dict(ctx, scope)
	event := NewDict().Set("name", args.Name).Set("timestamp", time.Now().UTC())
	if artifact := cmp.Or(artifactOf(ctx), scope.LookupString("ArtifactName")); artifact != "" {
		event.Set("artifact", artifact)
	}
	event.Set("event_data", json.RawMessage(scope.JSON().Append(nil, data)))
	scope.LogAlways(LevelAlert, "%s", AppendJSON(nil, event))
	return true, nil
}

type evalArgs struct {
	Func Lambda  `vql:"func,required" doc:"The lambda."`
	Args []Value `vql:"args" doc:"Its arguments."`
}

func evalFunction(ctx context.Context, scope *Scope, args *evalArgs) (Value, error) {
	return args.Func.Call(ctx, scope, args.Args...), nil
}

type randArgs struct {
	Range int64 `vql:"range" doc:"The bound, exclusive; 2^31-1 unless given."`
}

func randFunction(_ context.Context, _ *Scope, args *randArgs) (Value, error) {
	bound := args.Range
	if bound <= 0 {
		bound = 1<<31 - 1
	}
	return rand.Int64N(bound), nil
}

type atexitArgs struct {
	Query   Value `vql:"query,required" doc:"A text or a query."`
	Env     *Dict `vql:"env" doc:"Variables for it."`
	Timeout int64 `vql:"timeout" doc:"Seconds it may take (60)."`
}

func atexitFunction(ctx context.Context, scope *Scope, args *atexitArgs) (Value, error) {
	var program *Program
	if text, ok := args.Query.(string); ok {
		var err error
		if program, err = Parse(text); err != nil {
			return nil, err
		}
	} else if !IsQuery(args.Query) {
		return nil, errors.New("query should be a text or a query")
	}
	timeout := time.Duration(args.Timeout) * time.Second
	if timeout <= 0 {
		timeout = closingTime
	}
	query := scope.Query(ctx, args.Query)
	scope.OnRootClose(func() {
		ctx, cancel := context.WithTimeout(scope.session.context(), timeout)
		defer cancel()
		child := scope.Child(args.Env)
		defer child.Close()
		drop := func(Value) error { return nil }
		err := error(nil)
		if program != nil {
			err = child.runText(ctx, program, drop)
		} else {
			err = query.Run(ctx, child, drop)
		}
		if err != nil {
			scope.Log(LevelError, "atexit: %v", err)
		}
	})
	return true, nil
}

// runText runs a program inside a running query, in this scope.
func (s *Scope) runText(ctx context.Context, p *Program, emit Emit) error {
	for _, stmt := range p.Statements() {
		if err := s.statement(ctx, stmt, dictRows(emit)); err != nil {
			return err
		}
	}
	return ctx.Err()
}
