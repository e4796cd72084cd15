//go:build !linux || !(amd64 || arm64)

package endpoint

import (
	"context"
	"fmt"
	"runtime"

	"raptorpack/vql"
	"raptorpack/vql/endpoint/ebpf"
)

func ebpfAvailable() error {
	return fmt.Errorf("%w: %s", ebpf.ErrUnsupported, runtime.GOARCH)
}

// watchEBPF is never reached: ebpfAvailable stands before it.
func watchEBPF(context.Context, *vql.Scope, *watchEBPFArgs, vql.Emit) error { return nil }

// ebpfEvents is never reached either.
func ebpfEvents(context.Context, *vql.Scope, *struct{}, vql.Emit) error { return nil }
