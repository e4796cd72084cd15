//go:build !linux

package endpoint

import (
	"context"
	"fmt"
	"time"

	gopsutil "github.com/shirou/gopsutil/v4/process"
	"raptorpack/vql"
)

func runPslist(ctx context.Context, scope *vql.Scope, args *pslistArgs, emit vql.Emit) error {
	if args.Pid != nil {
		if row := readOne(ctx, *args.Pid); row != nil {
			return emit(row)
		}
		return nil
	}
	all, err := gopsutil.ProcessesWithContext(ctx)
	if err != nil {
		return fmt.Errorf("list processes: %w", err)
	}
	for _, p := range all {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		if err := emit(processRow(ctx, p)); err != nil {
			return err
		}
	}
	return nil
}

// processRow asks for each fact alone: what may not be read stays empty.
func processRow(ctx context.Context, p *gopsutil.Process) *vql.Dict {
	name, _ := p.NameWithContext(ctx)
	ppid, _ := p.PpidWithContext(ctx)
	commandLine, _ := p.CmdlineWithContext(ctx)
	created, _ := p.CreateTimeWithContext(ctx)
	times, _ := p.TimesWithContext(ctx)
	exe, _ := p.ExeWithContext(ctx)
	cwd, _ := p.CwdWithContext(ctx)
	user, _ := p.UsernameWithContext(ctx)
	memory, _ := p.MemoryInfoWithContext(ctx)
	row := vql.NewDict()
	row.Set("Pid", int64(p.Pid))
	row.Set("Name", name)
	row.Set("Ppid", int64(ppid))
	row.Set("CommandLine", commandLine)
	row.Set("CreateTime", time.UnixMilli(created).UTC())
	t, m := vql.NewDict(), vql.NewDict()
	if times != nil {
		t.Set("user", times.User)
		t.Set("system", times.System)
	}
	if memory != nil {
		m.Set("rss", memory.RSS)
		m.Set("vms", memory.VMS)
	}
	row.Set("Times", t)
	row.Set("Exe", exe)
	row.Set("Cwd", cwd)
	row.Set("Username", user)
	row.Set("MemoryInfo", m)
	return row
}

// readOne finds one process for the tracker functions; nil when there is none.
func readOne(ctx context.Context, pid int64) *vql.Dict {
	p, err := gopsutil.NewProcessWithContext(ctx, int32(pid))
	if err != nil {
		return nil
	}
	return processRow(ctx, p)
}

// allProcesses lists all processes, for walking the tree.
func allProcesses(ctx context.Context) ([]*vql.Dict, error) {
	all, err := gopsutil.ProcessesWithContext(ctx)
	if err != nil {
		return nil, err
	}
	var out []*vql.Dict
	for _, p := range all {
		out = append(out, processRow(ctx, p))
	}
	return out, ctx.Err()
}
