package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"time"

	"raptorpack/vql"
)

// errNoProgram means that execve was called without a program.
var errNoProgram = errors.New("argv names no program")

// ExecPolicy is a service by which the host forbids programs. Without one all
// programs that the permission EXECVE allows may run.
type ExecPolicy interface {
	// AllowExec returns an error that says why a command line must not run.
	AllowExec(argv []string) error
}

const (
	defaultExecLength = 10_240
	maxExecLength     = 64 << 20

	// execLinger is how long we wait for output that a program's children hold
	// open after the program itself has ended.
	execLinger = 3 * time.Second
)

type execveArgs struct {
	Argv   []string  `vql:"argv,required" doc:"The program and its arguments."`
	Sep    string    `vql:"sep" doc:"An expression that ends a record; a row comes for each."`
	Length int64     `vql:"length" doc:"Bytes of output in a row (10,240)."`
	Env    *vql.Dict `vql:"env" doc:"The environment, in place of ours."`
	Cwd    string    `vql:"cwd" doc:"The folder to run in."`
	Secret string    `vql:"secret" doc:"A named secret; this build has none."`
}

var execvePlugin = vql.NewPlugin(vql.Spec{
	Name: "execve", Permission: "EXECVE",
	Doc:     "Runs a program and streams its output. The last row has Complete and ReturnCode.",
	Columns: []string{"Stdin", "Stdout", "Stderr", "ReturnCode", "Complete"},
}, func(ctx context.Context, scope *vql.Scope, args *execveArgs, emit vql.Emit) error {
	if err := checkExec(scope, args); err != nil {
		return err
	}
	var sep *regexp.Regexp
	if args.Sep != "" {
		var err error
		if sep, err = compileRegex(scope, args.Sep); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	run, err := startProgram(ctx, scope, args)
	if err != nil {
		return err
	}
	length := int(min(args.Length, maxExecLength))
	if length <= 0 {
		length = defaultExecLength
	}
	err = run.stream(ctx, scope, sep, length, emit)
	cancel() // ends the program if the rows are no longer wanted
	run.wait()
	return err
})

func checkExec(scope *vql.Scope, args *execveArgs) error {
	if len(args.Argv) == 0 || args.Argv[0] == "" || args.Argv[0] == "NULL" {
		return errNoProgram
	}
	if args.Secret != "" {
		return errors.New("secrets are not available here")
	}
	if policy, ok := vql.Service[ExecPolicy](scope); ok {
		return policy.AllowExec(args.Argv)
	}
	return nil
}

// output is a piece of what a program writes.
type output struct {
	data   []byte
	stderr bool
}

// A program is running: its output comes through pieces, which closes when it has
// ended, and then code is set.
type program struct {
	// pieces has no room, so that a program is held while its rows are not taken.
	pieces chan output
	code   int64
	err    error
}

func startProgram(ctx context.Context, scope *vql.Scope, args *execveArgs) (*program, error) {
	cmd := exec.CommandContext(ctx, args.Argv[0], args.Argv[1:]...)
	cmd.Dir = args.Cwd
	if args.Env != nil {
		cmd.Env = []string{}
		for _, key := range args.Env.Keys() {
			v, _ := args.Env.Get(key)
			cmd.Env = append(cmd.Env, key+"="+scope.String(ctx, v))
		}
	}
	cmd.WaitDelay = execLinger
	ownGroup(cmd)
	p := &program{pieces: make(chan output)}
	cmd.Stdout = &pieceWriter{ctx: ctx, to: p.pieces}
	cmd.Stderr = &pieceWriter{ctx: ctx, to: p.pieces, stderr: true}
	scope.LogAlways(vql.LevelInfo, "execve: running %q", args.Argv)
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("run %q: %w", args.Argv[0], err)
	}
	go func() { // ends with the program, which ends with ctx; wait waits for it
		defer close(p.pieces)
		p.code, p.err = exitCode(cmd.Wait())
	}()
	return p, nil
}

// exitCode tells a program that ended by itself from one that we could not see end.
func exitCode(err error) (int64, error) {
	var exit *exec.ExitError
	switch {
	case err == nil, errors.Is(err, exec.ErrWaitDelay):
		return 0, nil // its children still hold the output: the program is done
	case errors.As(err, &exit):
		return int64(exit.ExitCode()), nil
	}
	return -1, err
}

// pieceWriter hands on what a program writes and refuses more once ctx has ended.
type pieceWriter struct {
	ctx    context.Context // of one command, for whose time the writer lives
	to     chan<- output
	stderr bool
}

func (w *pieceWriter) Write(p []byte) (int, error) {
	select {
	case w.to <- output{bytes.Clone(p), w.stderr}:
		return len(p), nil
	case <-w.ctx.Done():
		return 0, w.ctx.Err()
	}
}

// stream makes rows until the program has ended.
func (p *program) stream(ctx context.Context, scope *vql.Scope, sep *regexp.Regexp, length int, emit vql.Emit) error {
	var stdout, stderr []byte
	for piece := range p.pieces {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if piece.stderr {
			stderr = append(stderr, piece.data...)
		} else {
			stdout = append(stdout, piece.data...)
		}
		if sep != nil {
			rest, err := emitRecords(stdout, sep, emit)
			if err != nil {
				return err
			}
			stdout = rest
		}
		for len(stdout) >= length || len(stderr) >= length {
			n, m := min(len(stdout), length), min(len(stderr), length)
			if err := emit(execRow(stdout[:n], stderr[:m])); err != nil {
				return err
			}
			stdout, stderr = stdout[n:], stderr[m:]
		}
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if p.err != nil {
		return p.err
	}
	row := execRow(stdout, stderr)
	row.Set("ReturnCode", p.code)
	row.Set("Complete", true)
	return emit(row)
}

// wait takes what is left until the program has ended, so that nothing of it runs
// on when the plugin returns.
func (p *program) wait() {
	for range p.pieces { //nolint:revive // nobody wants the rest
	}
}

func emitRecords(data []byte, sep *regexp.Regexp, emit vql.Emit) ([]byte, error) {
	for {
		loc := sep.FindIndex(data)
		if loc == nil || loc[1] == loc[0] {
			return data, nil
		}
		if err := emit(execRow(data[:loc[0]], nil)); err != nil {
			return nil, err
		}
		data = data[loc[1]:]
	}
}

func execRow(stdout, stderr []byte) *vql.Dict {
	row := vql.NewDict()
	row.Set("Stdin", "")
	row.Set("Stdout", string(stdout))
	row.Set("Stderr", string(stderr))
	row.Set("ReturnCode", vql.NULL)
	row.Set("Complete", false)
	return row
}
