package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

// A process is what pslist tells of one process.
type process struct {
	pid, ppid   int64
	name        string
	commandLine string
	created     time.Time
	stat        procStat
	exe, cwd    string
	uid         int64
}

// listPids lists the processes in numeric order.
func listPids(ctx context.Context) ([]int, error) {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pids := make([]int, 0, len(names))
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			pids = append(pids, pid)
		}
	}
	slices.Sort(pids)
	return pids, ctx.Err()
}

// procName is a file of one process.
func procName(pid int, file string) string { return "/proc/" + strconv.Itoa(pid) + "/" + file }

func readStat(pid int) (procStat, error) {
	data, err := os.ReadFile(procName(pid, "stat"))
	if err != nil {
		return procStat{}, gone(err)
	}
	return parseProcStat(data)
}

// gone makes the errors of a process that ended while we read one and the same.
func gone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("%w: %w", fs.ErrNotExist, err)
	}
	return err
}

// readProcess collects what pslist shows. What may not be read stays empty, as
// exe and cwd of other users' processes.
func readProcess(pid int) (*process, error) {
	stat, err := readStat(pid)
	if err != nil {
		return nil, err
	}
	boot, err := bootTime()
	if err != nil {
		return nil, err
	}
	p := &process{pid: int64(pid), ppid: stat.ppid, name: stat.comm, stat: stat, uid: -1}
	p.created = boot.Add(time.Duration(stat.start) * (time.Second / clockTicks)).UTC()
	if data, err := os.ReadFile(procName(pid, "cmdline")); err == nil {
		p.commandLine = commandLine(data)
		p.name = fullName(stat.comm, data)
	}
	if data, err := os.ReadFile(procName(pid, "status")); err == nil {
		if ids := statusNumbers(data, "Uid:"); len(ids) > 0 {
			p.uid = ids[0]
		}
	}
	p.exe, _ = os.Readlink(procName(pid, "exe")) // empty for kernel threads and without permission
	p.cwd, _ = os.Readlink(procName(pid, "cwd")) // the same
	return p, nil
}

// fullName completes a name that the kernel cut at 15 bytes from the first
// argument, when that begins the same.
func fullName(comm string, cmdline []byte) string {
	if len(comm) < 15 {
		return comm
	}
	first, _, _ := bytes.Cut(cmdline, []byte{0})
	base := string(first[bytes.LastIndexByte(first, '/')+1:])
	if strings.HasPrefix(base, comm) {
		return base
	}
	return comm
}

var bootOnce = sync.OnceValues(func() (time.Time, error) {
	data, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("btime ")); ok {
			n, err := strconv.ParseInt(string(bytes.TrimSpace(rest)), 10, 64)
			return time.Unix(n, 0).UTC(), err
		}
	}
	return time.Time{}, fmt.Errorf("%w: /proc/stat has no btime", errProc)
})

// bootTime is when the machine started. It is asked for once, so that a process
// keeps its creation time while the clock is being set.
func bootTime() (time.Time, error) { return bootOnce() }

// row makes the row of a process. names caches user names for one listing.
func (p *process) row(names *userNames) *vql.Dict {
	row := vql.NewDict()
	row.Set("Pid", p.pid)
	row.Set("Name", p.name)
	row.Set("Ppid", p.ppid)
	row.Set("CommandLine", p.commandLine)
	row.Set("CreateTime", p.created)
	row.Set("Times", p.times())
	row.Set("Exe", p.exe)
	row.Set("Cwd", p.cwd)
	row.Set("Username", names.name(p.uid))
	row.Set("MemoryInfo", p.memory())
	return row
}

func (p *process) times() *vql.Dict {
	seconds := func(ticks uint64) float64 { return float64(ticks) / clockTicks }
	d := vql.NewDict()
	d.Set("user", seconds(p.stat.utime))
	d.Set("system", seconds(p.stat.stime))
	d.Set("children_user", float64(p.stat.cutime)/clockTicks)
	d.Set("children_system", float64(p.stat.cstime)/clockTicks)
	return d
}

func (p *process) memory() *vql.Dict {
	d := vql.NewDict()
	d.Set("rss", p.stat.rss*int64(os.Getpagesize()))
	d.Set("vms", p.stat.vsize)
	return d
}

// userNames remembers the names of users during one listing, since each look-up
// may read /etc/passwd anew.
type userNames struct{ byID map[int64]string }

func (u *userNames) name(uid int64) string {
	if uid < 0 {
		return ""
	}
	if name, ok := u.byID[uid]; ok {
		return name
	}
	name := strconv.FormatInt(uid, 10)
	if found, err := user.LookupId(name); err == nil {
		name = found.Username
	}
	if u.byID == nil {
		u.byID = map[int64]string{}
	}
	u.byID[uid] = name
	return name
}

func runPslist(ctx context.Context, scope *vql.Scope, args *pslistArgs, emit vql.Emit) error {
	names := &userNames{}
	if args.Pid != nil {
		return oneProcess(ctx, int(*args.Pid), names, emit)
	}
	pids, err := listPids(ctx)
	if err != nil {
		return err
	}
	for _, pid := range pids {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		p, err := readProcess(pid)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it ended since the listing
		}
		if err != nil {
			scope.Log(vql.LevelDebug, "pslist: process %d: %v", pid, err)
			continue
		}
		if err := emit(p.row(names)); err != nil {
			return err
		}
	}
	return nil
}

// oneProcess shows a process that answers even when the listing leaves it out,
// which is how rootkits hide them.
func oneProcess(ctx context.Context, pid int, names *userNames, emit vql.Emit) error {
	p, err := readProcess(pid)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("process %d: %w", pid, err)
	}
	row := p.row(names)
	if pids, err := listPids(ctx); err == nil && !slices.Contains(pids, pid) && int64(pid) == tgid(pid) {
		row.Set("Hidden", true)
	}
	return emit(row)
}

// tgid is the process that a thread belongs to; threads answer in /proc without
// being listed, and hide nothing.
func tgid(pid int) int64 {
	data, err := os.ReadFile(procName(pid, "status"))
	if err != nil {
		return 0
	}
	if ids := statusNumbers(data, "Tgid:"); len(ids) > 0 {
		return ids[0]
	}
	return 0
}

// readOne finds one process for the tracker functions; nil when there is none.
func readOne(_ context.Context, pid int64) *vql.Dict {
	p, err := readProcess(int(pid))
	if err != nil {
		return nil
	}
	return p.row(&userNames{})
}

// allProcesses lists pid, parent and name of all, for walking the tree.
func allProcesses(ctx context.Context) ([]*vql.Dict, error) {
	pids, err := listPids(ctx)
	if err != nil {
		return nil, err
	}
	names := &userNames{}
	var out []*vql.Dict
	for _, pid := range pids {
		if p, err := readProcess(pid); err == nil {
			out = append(out, p.row(names))
		}
	}
	return out, ctx.Err()
}
