package yara

import (
	"context"
	_ "embed" // the module
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/experimental"
	"github.com/tetratelabs/wazero/imports/wasi_snapshot_preview1"
)

// ErrClosed means that the engine was closed.
var ErrClosed = errors.New("closed")

// ErrBroken means that libyara broke while it worked, by the data or the rules or
// for lack of memory. Only that call is lost; the same call breaks again.
var ErrBroken = errors.New("libyara broke")

// ErrMemory means that Options.MemoryBytes is not enough.
var ErrMemory = errors.New("not enough memory for libyara")

//go:embed libyara.wasm
var libyara []byte

// Options bounds an Engine.
type Options struct {
	// MemoryBytes is the most memory that one instance may have: the rules, the
	// block that is scanned, and the matches. 0 is 256 MiB.
	MemoryBytes int64
	// Instances is how many may work at once, where the next call waits, and how
	// many loaded ones are kept for the next scan. 0 is one for each CPU, up to 4.
	Instances int
}

func (o Options) withDefaults() Options {
	if o.MemoryBytes <= 0 {
		o.MemoryBytes = 256 << 20
	}
	if o.Instances <= 0 {
		o.Instances = min(runtime.GOMAXPROCS(0), 4)
	}
	return o
}

const pageBytes = 64 << 10

// Engine holds the module. It is safe for concurrent use.
type Engine struct {
	options Options
	counts  counts
	working chan struct{} // a slot for each working instance; full: the next call waits

	mu      sync.Mutex // held while the module is translated: all wait for the same
	runtime wazero.Runtime
	module  wazero.CompiledModule
	closed  bool

	idleMu sync.Mutex
	idle   []*instance // the one that was given back last is last
	gone   bool        // nothing is kept any more
}

// New returns an engine that has done nothing yet: the first Compile translates
// the module, which takes a second or two of one CPU.
func New(o Options) *Engine {
	o = o.withDefaults()
	return &Engine{options: o, working: make(chan struct{}, o.Instances)}
}

// Close frees the module and ends what still works. The engine is of no use after.
func (e *Engine) Close(ctx context.Context) error {
	e.idleMu.Lock()
	idle := e.idle
	e.idle, e.gone = nil, true // they end with the runtime
	e.idleMu.Unlock()
	for _, in := range idle {
		in.uncount()
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.closed = true
	if e.runtime == nil {
		return nil
	}
	return e.runtime.Close(ctx)
}

// ready translates the module unless that was done.
func (e *Engine) ready(ctx context.Context) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.closed:
		return ErrClosed
	case e.module != nil:
		return nil
	}
	// Not ended by ctx: the next caller needs it as well.
	ctx = experimental.WithCompilationWorkers(context.WithoutCancel(ctx), runtime.GOMAXPROCS(0))
	config := wazero.NewRuntimeConfig().
		WithMemoryLimitPages(uint32(min(e.options.MemoryBytes, 1<<32-pageBytes) / pageBytes))
	r := wazero.NewRuntimeWithConfig(ctx, config)
	module, err := prepare(ctx, r)
	if err != nil {
		return errors.Join(fmt.Errorf("translate libyara: %w", err), r.Close(ctx))
	}
	e.runtime, e.module = r, module
	return nil
}

// prepare gives the runtime what the module imports, and translates the module.
func prepare(ctx context.Context, r wazero.Runtime) (wazero.CompiledModule, error) {
	// The C library's own needs: the clock and standard error, which goes nowhere.
	if _, err := wasi_snapshot_preview1.Instantiate(ctx, r); err != nil {
		return nil, err
	}
	if err := exportHost(ctx, r); err != nil {
		return nil, err
	}
	return r.CompileModule(ctx, libyara)
}

// admit waits for the right to work; the returned function gives it back.
func (e *Engine) admit(ctx context.Context) (func(), error) {
	select {
	case e.working <- struct{}{}:
		return func() { <-e.working }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
