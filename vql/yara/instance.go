package yara

import (
	"context"
	"errors"
	"fmt"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/sys"
)

// instance is one running module. After an error it is not used again.
type instance struct {
	module api.Module
	rules  *Rules // loaded for scanning
	broken bool

	counts *counts // of the engine; nil once this one does not count any more
}

// instance makes a new one.
func (e *Engine) instance(ctx context.Context) (*instance, error) {
	if err := e.ready(ctx); err != nil {
		return nil, err
	}
	config := wazero.NewModuleConfig().WithName("").WithStartFunctions("_initialize").WithSysWalltime().WithSysNanotime()
	module, err := e.runtime.InstantiateModule(ctx, e.module, config)
	if err != nil {
		return nil, broken(ctx, "begin", err)
	}
	in := &instance{module: module, counts: &e.counts}
	e.counts.instances.Add(1)
	if err := in.must(withCall(ctx, &call{}), "begin"); err != nil {
		return nil, errors.Join(err, in.close(ctx))
	}
	return in, nil
}

func (in *instance) close(ctx context.Context) error {
	in.uncount()
	in.broken = true
	return in.module.Close(context.WithoutCancel(ctx))
}

// uncount takes a closing instance out of the number of instances.
func (in *instance) uncount() {
	if in.counts == nil {
		return
	}
	in.counts.instances.Add(-1)
	if in.broken {
		in.counts.broken.Add(1)
	}
	in.counts = nil
}

// bytes is the memory that the instance has now.
func (in *instance) bytes() int64 { return int64(in.module.Memory().Size()) }

// call calls a function of the shim, which are named rp_...
func (in *instance) call(ctx context.Context, name string, args ...uint64) (uint64, error) {
	if in.broken {
		return 0, ErrClosed
	}
	out, err := in.module.ExportedFunction("rp_"+name).Call(ctx, args...)
	if err != nil {
		in.broken = true
		return 0, broken(ctx, name, err)
	}
	if len(out) == 0 {
		return 0, nil
	}
	return out[0], nil
}

// must calls a function that returns one of libyara's error numbers.
func (in *instance) must(ctx context.Context, name string, args ...uint64) error {
	code, err := in.call(ctx, name, args...)
	if err != nil {
		return err
	}
	switch n := int32(code); n {
	case 0:
		return nil
	case 1:
		return ErrMemory
	default:
		return codeError(n)
	}
}

// broken tells the end of the context from that of libyara.
func broken(ctx context.Context, doing string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *sys.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == 0 {
		return ErrClosed
	}
	return fmt.Errorf("%s: %w: %w", doing, ErrBroken, err)
}

// put copies data into the instance with a zero after it, and returns its address.
// It stays there for as long as the instance lives.
func (in *instance) put(ctx context.Context, data string) (uint64, error) {
	address, err := in.call(ctx, "alloc", uint64(len(data)+1))
	if err != nil {
		return 0, err
	}
	memory := in.module.Memory()
	if address == 0 || !memory.WriteString(uint32(address), data) || !memory.WriteByte(uint32(address)+uint32(len(data)), 0) {
		return 0, fmt.Errorf("%d bytes: %w", len(data), ErrMemory)
	}
	return address, nil
}

// codeError is one of libyara's error numbers (libyara/include/yara/error.h).
type codeError int32

func (c codeError) Error() string {
	if text, ok := codes[c]; ok {
		return text
	}
	return fmt.Sprintf("libyara error %d", int32(c))
}

// codes names the errors that come without a diagnostic and its line.
var codes = map[codeError]string{
	6: "not compiled rules", 7: "compiled rules are damaged",
	8: "compiled rules are of another version of YARA", 25: "the stack of a condition overflowed",
	29: "the variable is unknown to the rules", 31: "internal error of libyara",
	46: "a regular expression has too many states", 48: "the variable has another type in the rules",
	56: "the variable is defined twice",
}
