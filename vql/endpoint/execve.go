package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
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

	// execLinger is how long we wait in all for more output when the program has
	// ended and its children hold the output open.
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
	if len(args.Argv) == 0 {
		return errNoProgram
	}
	switch args.Argv[0] {
	case "", "NULL", fmt.Sprint(vql.NULL): // a list of strings holds NULL printed
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
// ended, and then code, err and cut are set.
type program struct {
	// pieces has no room, so that a program is held while its rows are not taken.
	pieces chan output
	code   int64
	err    error
	cut    bool // output may have been left unread
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
	ownGroup(cmd)
	scope.LogAlways(vql.LevelInfo, "execve: running %q", args.Argv)
	stdout, stderr, err := startPiped(cmd)
	if err != nil {
		return nil, fmt.Errorf("run %q: %w", args.Argv[0], err)
	}
	p := &program{pieces: make(chan output)}
	var readers sync.WaitGroup
	readers.Go(func() { stdout.read(ctx, p.pieces) })
	readers.Go(func() { stderr.read(ctx, p.pieces) })
	go func() { // ends with the program, which ends with ctx; wait waits for it
		defer close(p.pieces)
		p.code, p.err = exitCode(cmd.Wait())
		stdout.programEnded()
		stderr.programEnded()
		readers.Wait()
		p.cut = stdout.cut || stderr.cut
	}()
	return p, nil
}

// startPiped starts a program with pipes for its output. They are ours, because
// those of os/exec close a while after the end of the program, read or not.
func startPiped(cmd *exec.Cmd) (stdout, stderr *outlet, err error) {
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	defer outWrite.Close()
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		_ = outRead.Close() // never used
		return nil, nil, err
	}
	defer errWrite.Close()
	cmd.Stdout, cmd.Stderr = outWrite, errWrite
	if err := cmd.Start(); err != nil {
		_, _ = outRead.Close(), errRead.Close() // never used
		return nil, nil, err
	}
	return &outlet{from: outRead, left: execLinger}, &outlet{from: errRead, stderr: true, left: execLinger}, nil
}

// exitCode tells a program that ended by itself from one that we could not see end.
func exitCode(err error) (int64, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		return int64(exit.ExitCode()), nil
	}
	return -1, err
}

// outlet reads one output of a program to its end. Once the program has ended, it
// waits for more from the program's children as long as it has time left. Time
// that goes by while nobody takes what was read does not count.
type outlet struct {
	from   io.ReadCloser
	stderr bool
	cut    bool // it ran out of time; to be read after read has returned

	mu      sync.Mutex // guards the fields below
	left    time.Duration
	ended   bool // the program has ended
	reading bool
	since   time.Time   // when timer began
	timer   *time.Timer // closes from; while reading after the end
}

// read hands on the output until it ends, time is up or ctx ends.
func (o *outlet) read(ctx context.Context, to chan<- output) {
	defer o.from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := o.next(buf)
		if n > 0 {
			select {
			case to <- output{bytes.Clone(buf[:n]), o.stderr}:
			case <-ctx.Done():
				return
			}
		}
		if err != nil {
			o.cut = !errors.Is(err, io.EOF)
			return
		}
	}
}

func (o *outlet) next(buf []byte) (int, error) {
	o.mu.Lock()
	o.reading = true
	o.arm()
	o.mu.Unlock()
	n, err := o.from.Read(buf)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reading = false
	if o.timer != nil {
		o.timer.Stop()
		o.timer = nil
		o.left -= time.Since(o.since)
	}
	return n, err
}

// programEnded begins to count the time that read waits.
func (o *outlet) programEnded() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.ended = true
	o.arm()
}

// arm starts the timer when it is to run; the caller holds the lock.
func (o *outlet) arm() {
	if o.ended && o.reading {
		o.since = time.Now()
		o.timer = time.AfterFunc(o.left, func() { _ = o.from.Close() }) // read gets the error
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
	if p.cut {
		scope.Log(vql.LevelWarn, "execve: programs that it started hold the output open: what they write is not waited for")
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
