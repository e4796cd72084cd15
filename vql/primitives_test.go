package vql_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"raptorpack/vql"
)

type noArgs struct{}

type everyArg struct {
	S     string      `vql:"s"`
	SS    []string    `vql:"ss"`
	I     int64       `vql:"i"`
	U     uint64      `vql:"u"`
	F     float64     `vql:"f"`
	B     bool        `vql:"b"`
	T     time.Time   `vql:"t"`
	D     *vql.Dict   `vql:"d"`
	Any   vql.Value   `vql:"any"`
	AA    []vql.Value `vql:"aa"`
	Opt   *int64      `vql:"opt"`
	L     vql.Lambda  `vql:"l"`
	Need  string      `vql:"need,required"`
	P     *vql.Path   `vql:"p"`
	Acc   string      `vql:"accessor"`
	PP    []*vql.Path `vql:"pp"`
	Query vql.Query   `vql:"query"`
}

// testObject is a host object with a field, a tagged field and methods.
type testObject struct {
	Name   string
	Tagged int64 `json:"other"`
}

func (testObject) Double() string           { return "twice" }
func (testObject) Broken() (string, error)  { return "half", errors.New("ignored") }
func (testObject) Needs(int) string         { return "never" }
func (testObject) Mode() fs.FileMode        { return 0o644 }
func (testObject) Duration() time.Duration  { return time.Second }
func (testObject) List() []int32            { return []int32{1, 2} }
func (testObject) Map() map[string]any      { return map[string]any{"b": 1, "a": 2} }
func (testObject) Panics() (string, string) { panic("in a member") }

func testFunctions() []*vql.Function {
	return []*vql.Function{
		vql.NewFunction(vql.Spec{Name: "boom"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			panic("kaboom")
		}),
		vql.NewFunction(vql.Spec{Name: "fails"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return 5, errors.New("it is broken")
		}),
		vql.NewFunction(vql.Spec{Name: "elsewhere", Platforms: []string{"plan9"}}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return 1, nil
		}),
		vql.NewFunction(vql.Spec{Name: "unable", Available: func() error { return errors.New("this machine cannot") }}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return 1, nil
		}),
		vql.NewFunction(vql.Spec{Name: "able", Available: func() error { return nil }}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return 1, nil
		}),
		vql.NewFunction(vql.Spec{Name: "guarded", Permission: "EXECVE"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return 1, nil
		}),
		vql.NewFunction(vql.Spec{Name: "object"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return &testObject{Name: "n", Tagged: 7}, nil
		}),
		vql.NewFunction(vql.Spec{Name: "odd"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return vql.NewDict().Set("u", uint(5)).Set("f", float32(1.5)).Set("m", fs.FileMode(8)).
				Set("d", time.Duration(3)).Set("bytes", []byte("hi")).Set("nil", nil).
				Set("big", uint64(1<<63)).Set("list", []int{1, 2}), nil
		}),
		vql.NewFunction(vql.Spec{Name: "hosts"}, hosts),
		vql.NewFunction(vql.Spec{Name: "lazycell"}, func(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
			return vql.NewDict().Set("x", vql.LazyCell(func() vql.Value { return "late" })), nil
		}),
		vql.NewFunction(vql.Spec{Name: "path"}, func(_ context.Context, _ *vql.Scope, args *struct {
			P string `vql:"p"`
		},
		) (vql.Value, error) {
			return vql.ParsePath(vql.PathLinux, args.P), nil
		}),
		vql.NewFunction(vql.Spec{Name: "every"}, every),
	}
}

// pair is a host object of plain fields.
type pair struct {
	A int
	B string `json:"b"`
}

// counted states its members itself.
type counted struct{ n int64 }

func (c counted) Members() []string { return []string{"n"} }

func (c counted) Member(name string) (vql.Value, bool) { return c.n, name == "n" }

// hosts gives containers of host values, as columns of plugins hold them.
func hosts(context.Context, *vql.Scope, *noArgs) (vql.Value, error) {
	return vql.NewDict().
		Set("structs", []pair{{1, "x"}, {2, "y"}}).
		Set("pointers", []*pair{{1, "x"}, nil, {2, "y"}}).
		Set("one", pair{3, "z"}).
		Set("maps", []map[string]any{{"b": 2, "a": 1}, {}}).
		Set("texts", map[string]string{"k": "v"}).
		Set("dicts", []*vql.Dict{vql.NewDict().Set("a", 1), vql.NewDict().Set("a", 2)}).
		Set("objects", []vql.Value{vql.HostObject(counted{4}), vql.HostObject(counted{5})}).
		Set("times", []time.Time{time.Unix(5, 0).UTC()}).
		Set("paths", []*vql.Path{vql.ParsePath(vql.PathLinux, "/a/b")}).
		Set("pathspecs", []*vql.PathSpec{{Path: "/a"}, {Path: "/b", DelegateAccessor: "zip"}}).
		Set("modes", []fs.FileMode{0o644}).
		Set("ints", [2]int{7, 8}).
		Set("mixed", []any{int64(1), pair{2, "y"}, nil, vql.NewDict().Set("a", 3), []int{4}}), nil
}

func every(ctx context.Context, scope *vql.Scope, a *everyArg) (vql.Value, error) {
	d := vql.NewDict().Set("s", a.S).Set("ss", a.SS).Set("i", a.I).Set("u", a.U).Set("f", a.F).
		Set("b", a.B).Set("t", a.T).Set("d", a.D).Set("any", a.Any).Set("aa", a.AA)
	if a.Opt != nil {
		d.Set("opt", *a.Opt)
	}
	if a.L.Given() {
		d.Set("l", a.L.Call(ctx, scope, int64(4)))
	}
	if a.P != nil {
		d.Set("p", a.P)
	}
	if a.PP != nil {
		d.Set("pp", a.PP)
	}
	n := 0
	err := a.Query.Run(ctx, scope, func(vql.Value) error { n++; return nil })
	return d.Set("n", n), err
}

func testPlugins() []*vql.Plugin {
	return []*vql.Plugin{
		vql.NewPlugin(vql.Spec{Name: "boomrows"}, func(_ context.Context, _ *vql.Scope, _ *noArgs, emit vql.Emit) error {
			if err := emit(vql.NewDict().Set("n", 1)); err != nil {
				return err
			}
			panic("kaboom")
		}),
		vql.NewPlugin(vql.Spec{Name: "endless"}, func(_ context.Context, scope *vql.Scope, _ *noArgs, emit vql.Emit) error {
			scope.OnClose(func() { scope.Log(vql.LevelInfo, "endless closed") })
			for i := int64(0); ; i++ {
				if err := emit(vql.NewDict().Set("i", i)); err != nil {
					return fmt.Errorf("endless: %w", err)
				}
			}
		}),
		vql.NewPlugin(vql.Spec{Name: "waits"}, func(ctx context.Context, _ *vql.Scope, _ *noArgs, _ vql.Emit) error {
			<-ctx.Done()
			return ctx.Err()
		}),
		vql.NewPlugin(vql.Spec{Name: "objects"}, func(_ context.Context, _ *vql.Scope, _ *noArgs, emit vql.Emit) error {
			return emit(&testObject{Name: "row", Tagged: 1})
		}),
	}
}

// opaque is an accessor that parses everything into one component.
type opaque struct{ name string }

func (o opaque) ParsePath(text string) (*vql.Path, error) {
	return vql.NewPath(vql.PathLinux, o.name, text), nil
}

func (opaque) Lstat(context.Context, *vql.Scope, *vql.Path) (vql.FileInfo, error) {
	return nil, fs.ErrNotExist
}

func (opaque) ReadDir(context.Context, *vql.Scope, *vql.Path) ([]vql.FileInfo, error) {
	return nil, fs.ErrNotExist
}

func (opaque) Open(context.Context, *vql.Scope, *vql.Path) (vql.ReadSeekCloser, error) {
	return nil, fs.ErrNotExist
}
