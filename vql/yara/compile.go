package yara

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync/atomic"
)

// Source is the text of rules, or rules that yarac of the same version compiled.
type Source struct {
	Text string
	// Namespace is where the rules live; "" is the namespace "default".
	Namespace string
	// Vars are the external variables that the rules may use.
	Vars []Var
}

// Var is an external variable.
type Var struct {
	Name string
	// Value is an int64, float64, bool or string.
	Value any
}

// Issue is what libyara says of the rules.
type Issue struct {
	// Line counts from 1; 0 is no line in particular.
	Line    int
	Message string
	// Warning is what does not keep the rules from working.
	Warning bool
}

func (i Issue) String() string {
	if i.Line == 0 {
		return i.Message
	}
	return fmt.Sprintf("line %d: %s", i.Line, i.Message)
}

// CompileError means that rules do not compile; trying again does not help.
type CompileError struct {
	// Issues holds at least one; warnings are not among them.
	Issues []Issue
}

func (e *CompileError) Error() string {
	var texts []string
	for _, i := range e.Issues {
		texts = append(texts, i.String())
	}
	const most = 5
	if more := len(texts) - most; more > 0 {
		texts = append(texts[:most], fmt.Sprintf("and %d more", more))
	}
	return "rules do not compile: " + strings.Join(texts, "; ")
}

// compiledMagic is how files of yarac begin.
const compiledMagic = "YARA"

// Rules are compiled rules, safe for concurrent use. Close them after use.
type Rules struct {
	engine *Engine
	code   []byte // as yarac writes them
	vars   []Var  // to be defined when code is loaded
	// Warnings holds what libyara remarked on the rules.
	Warnings []Issue
	closed   atomic.Bool
}

// Compile compiles rules. The error is a *CompileError for what is wrong with them.
func (e *Engine) Compile(ctx context.Context, s Source) (*Rules, error) {
	done, err := e.admit(ctx)
	if err != nil {
		return nil, err
	}
	defer done()
	in, err := e.instance(ctx)
	if err != nil {
		return nil, err
	}
	c := &call{}
	r, err := in.compile(withCall(ctx, c), c, s)
	if cerr := in.close(ctx); cerr != nil || err != nil {
		return nil, errors.Join(err, cerr)
	}
	r.engine = e
	e.counts.compiled.Add(1)
	return r, nil
}

func (in *instance) compile(ctx context.Context, c *call, s Source) (*Rules, error) {
	if strings.HasPrefix(s.Text, compiledMagic) && !strings.ContainsAny(s.Text[:min(len(s.Text), 8)], " \n\r\t") {
		r := &Rules{code: []byte(s.Text), vars: slices.Clone(s.Vars)}
		return r, in.load(ctx, c, r) // to see now that they can be loaded
	}
	if err := in.must(ctx, "compiler"); err != nil {
		return nil, err
	}
	for _, v := range s.Vars {
		if err := in.define(ctx, v); err != nil {
			return nil, err
		}
	}
	if err := in.add(ctx, c, s); err != nil {
		return nil, err
	}
	if err := in.must(ctx, "save"); err != nil {
		return nil, fmt.Errorf("compile rules: %w", err)
	}
	return &Rules{code: bytes.Clone(c.output), Warnings: c.issues}, nil
}

// add compiles a text.
func (in *instance) add(ctx context.Context, c *call, s Source) error {
	if strings.ContainsRune(s.Namespace, 0) {
		return &CompileError{[]Issue{{Message: "a namespace cannot hold a zero byte"}}}
	}
	rules, err := in.put(ctx, s.Text)
	if err != nil {
		return err
	}
	namespace := uint64(0)
	if s.Namespace != "" {
		if namespace, err = in.put(ctx, s.Namespace); err != nil {
			return err
		}
	}
	failed, err := in.call(ctx, "add", rules, uint64(len(s.Text)), namespace)
	wrong := slices.DeleteFunc(slices.Clone(c.issues), func(i Issue) bool { return i.Warning })
	switch {
	case errors.Is(err, ErrBroken) && len(wrong) > 0: // the lexers end by a trap what they cannot go on with
		return &CompileError{wrong}
	case err != nil:
		return err
	case isTrue(failed) && len(wrong) == 0:
		wrong = []Issue{{Message: "libyara gives no reason"}}
	}
	if len(wrong) > 0 {
		return &CompileError{wrong}
	}
	return nil
}

// define sets an external variable of the compiler, or of loaded rules.
func (in *instance) define(ctx context.Context, v Var) error {
	if strings.ContainsRune(v.Name, 0) {
		return fmt.Errorf("variable %q: a name cannot hold a zero byte", v.Name)
	}
	name, err := in.put(ctx, v.Name)
	if err != nil {
		return err
	}
	switch value := v.Value.(type) {
	case int64:
		err = in.must(ctx, "define_int", name, uint64(value))
	case bool:
		err = in.must(ctx, "define_bool", name, truth(value))
	case float64:
		err = in.must(ctx, "define_float", name, math.Float64bits(value))
	case string:
		var address uint64
		if address, err = in.put(ctx, value); err == nil {
			err = in.must(ctx, "define_string", name, address)
		}
	default:
		err = fmt.Errorf("a number, a truth value or a text is needed, not %T", v.Value)
	}
	if err != nil {
		return fmt.Errorf("variable %s: %w", v.Name, err)
	}
	return nil
}

// load makes the instance ready to scan with r.
func (in *instance) load(ctx context.Context, c *call, r *Rules) error {
	c.input = r.code
	if err := in.must(ctx, "load"); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	if c.cut {
		return fmt.Errorf("load rules: %w", codeError(7))
	}
	for _, v := range r.vars {
		if err := in.define(ctx, v); err != nil {
			return err
		}
	}
	if err := in.must(ctx, "scanner"); err != nil {
		return fmt.Errorf("load rules: %w", err)
	}
	return nil
}
