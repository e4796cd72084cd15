//go:build amd64 || arm64

package endpoint

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"

	"raptorpack/vql"
	"raptorpack/vql/endpoint/ebpf"
)

func ebpfAvailable() error { return ebpf.Supported() }

var errPolicy = errors.New("policy is not supported: name the events in events")

func watchEBPF(ctx context.Context, scope *vql.Scope, args *watchEBPFArgs, emit vql.Emit) error {
	if args.Policy != "" {
		return errPolicy
	}
	var filter *regexp.Regexp
	if args.RegexPrefilter != "" {
		var err error
		if filter, err = compileRegex(scope, args.RegexPrefilter); err != nil {
			return fmt.Errorf("regex_prefilter: %w", err)
		}
	}
	watcher, err := ebpf.New(ebpf.Options{
		Events: args.Events, IncludeEnv: args.IncludeEnv,
		Log: func(message string) { scope.Log(vql.LevelWarn, "watch_ebpf: %s", message) },
	})
	if err != nil {
		return err
	}
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("ask for the host's name: %w", err)
	}
	return watcher.Run(ctx, func(e *ebpf.Event) error {
		if filter != nil && !filter.MatchString(e.Text()) {
			return scope.Charge(ctx) // a row would be charged by the engine
		}
		return emit(ebpfRow(e, host))
	})
}

func ebpfRow(e *ebpf.Event, host string) *vql.Dict {
	system := vql.NewDict().Set("Timestamp", e.Time).Set("ProcessID", int64(e.PID)).
		Set("ParentProcessID", int64(e.PPID)).Set("ThreadID", int64(e.TID)).
		Set("UserId", int64(e.UID)).Set("ContainerID", ebpf.ContainerID(e.Cgroups)).
		Set("EventName", e.Name).Set("HostName", host).Set("ProcessName", e.Comm)
	return vql.NewDict().Set("System", system).Set("EventData", ebpfDict(e.Data))
}

func ebpfDict(fields []ebpf.Field) *vql.Dict {
	d := vql.NewDict()
	for _, f := range fields {
		if inner, ok := f.Value.([]ebpf.Field); ok {
			d.Set(f.Name, ebpfDict(inner))
			continue
		}
		d.Set(f.Name, f.Value)
	}
	return d
}

func ebpfEvents(_ context.Context, _ *vql.Scope, _ *struct{}, emit vql.Emit) error {
	for _, info := range ebpf.Known() {
		metadata := vql.NewDict().Set("description", info.Doc).Set("source", info.Source).
			Set("fields", info.Fields).Set("default", info.Default)
		if err := emit(vql.NewDict().Set("Event", info.Name).Set("Metadata", metadata)); err != nil {
			return err
		}
	}
	return nil
}
