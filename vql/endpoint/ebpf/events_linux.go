//go:build amd64 || arm64

package ebpf

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Info tells of an event that can be watched.
type Info struct {
	// Name is the name in options and in Event.Name.
	Name string
	// Doc says when the event happens.
	Doc string
	// Source is how the kernel is asked: a tracepoint, or the end of a system call.
	Source string
	// Default is set for the Defaults.
	Default bool
	// Fields names what Event.Data holds.
	Fields []string
}

// Known lists the events of this machine in order of their table.
func Known() []Info {
	out := make([]Info, 0, len(table))
	for _, e := range table {
		out = append(out, Info{Name: e.name, Doc: e.doc, Source: e.source(), Default: slices.Contains(Defaults(), e.name), Fields: e.fieldNames()})
	}
	return out
}

// Defaults are the events that are watched when none are named.
func Defaults() []string {
	return []string{"sched_process_exec", "sched_process_exit", "sched_process_fork"}
}

// event is a line of the table. Its place there is its number in records.
type event struct {
	name   string
	doc    string
	number int      // of the system call; below zero for tracepoints
	fields []string // of a tracepoint's Data
	args   []arg    // of a system call
}

// arg is an argument of a system call, in its place.
type arg struct {
	name string
	kind argKind
}

// argKind says what an argument means, and what of it is shown.
type argKind int

const (
	argNone    argKind = iota // not shown
	argInt                    // int32
	argLong                   // int64
	argHex                    // flags and pointers
	argMode                   // a file's mode
	argOpen                   // flags of open
	argSignal                 // a signal's number
	argTrace                  // ptrace's request
	argCommand                // bpf's command
	argPath                   // pointer to a path
	argName                   // pointer to a short text
	argAddress                // pointer to a socket address, its length next
	argPeer                   // pointer to room for one, next a pointer to its length
	argOpenHow                // pointer to struct open_how
)

const tracepoint = -1

func (e *event) source() string {
	if e.number == tracepoint {
		return "tracepoint"
	}
	return "system call"
}

func (e *event) fieldNames() []string {
	out := slices.Clone(e.fields)
	for _, a := range e.args {
		switch a.kind {
		case argNone:
		case argOpenHow:
			out = append(out, "flags", "mode", "resolve")
		default:
			out = append(out, a.name)
		}
	}
	if e.number != tracepoint {
		out = append(out, "return_value", "error")
	}
	return out
}

// table holds every event: tracepoints, what both machines have, and what only
// this one has. Numbers in records are places in it.
var table = slices.Concat(tracepoints, calls, machineCalls)

// Places of the tracepoints in the table.
const (
	eventExec = iota
	eventExit
	eventFork
)

var tracepoints = []event{
	{
		name: "sched_process_exec", number: tracepoint, doc: "A process began another program.",
		fields: []string{"filename", "cwd", "argv", "argv_truncated", "euid", "env", "env_truncated"},
	},
	{
		name: "sched_process_exit", number: tracepoint, doc: "The last thread of a process ended.",
		fields: []string{"exit_code", "signal", "core_dumped"},
	},
	{
		name: "sched_process_fork", number: tracepoint, doc: "A process made another; threads are not told.",
		fields: []string{"child_pid"},
	},
}

// pick finds the places of events. No names are the defaults.
func pick(names []string) ([]int, error) {
	if len(names) == 0 {
		names = Defaults()
	}
	var out []int
	for _, name := range names {
		i := slices.IndexFunc(table, func(e event) bool { return e.name == name })
		if i < 0 {
			return nil, fmt.Errorf("%w: %q; known are %s", ErrUnknownEvent, name, knownNames())
		}
		if !slices.Contains(out, i) {
			out = append(out, i)
		}
	}
	slices.Sort(out)
	return out, nil
}

func knownNames() string {
	names := make([]string, 0, len(table))
	for _, e := range table {
		names = append(names, e.name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

var (
	dirfd    = arg{"dirfd", argInt}
	pathname = arg{"pathname", argPath}
	mode     = arg{"mode", argMode}
	flags    = arg{"flags", argHex}
	sockfd   = arg{"sockfd", argInt}
	addr     = arg{"addr", argAddress}
	peer     = arg{"addr", argPeer}
	skipped  = arg{"", argNone}
	pid      = arg{"pid", argInt}
	fd       = arg{"fd", argInt}
)

// calls are the system calls of both machines. Arguments are in the kernel's
// order; those behind the last that is listed are not read.
var calls = []event{
	{name: "openat", number: unix.SYS_OPENAT, doc: "Opened a file.", args: []arg{dirfd, pathname, {"flags", argOpen}, mode}},
	{name: "openat2", number: unix.SYS_OPENAT2, doc: "Opened a file.", args: []arg{dirfd, pathname, {"how", argOpenHow}}},
	{name: "connect", number: unix.SYS_CONNECT, doc: "Connected a socket.", args: []arg{sockfd, addr, skipped}},
	{name: "bind", number: unix.SYS_BIND, doc: "Gave a socket its address.", args: []arg{sockfd, addr, skipped}},
	{name: "listen", number: unix.SYS_LISTEN, doc: "Let a socket take connections.", args: []arg{sockfd, {"backlog", argInt}}},
	{name: "accept", number: unix.SYS_ACCEPT, doc: "Took a connection.", args: []arg{sockfd, peer, skipped}},
	{name: "accept4", number: unix.SYS_ACCEPT4, doc: "Took a connection.", args: []arg{sockfd, peer, skipped, flags}},
	{name: "unlinkat", number: unix.SYS_UNLINKAT, doc: "Removed a name.", args: []arg{dirfd, pathname, flags}},
	{name: "renameat", number: unix.SYS_RENAMEAT, doc: "Renamed a file.", args: []arg{{"olddirfd", argInt}, {"oldpath", argPath}, {"newdirfd", argInt}, {"newpath", argPath}}},
	{name: "renameat2", number: unix.SYS_RENAMEAT2, doc: "Renamed a file.", args: []arg{{"olddirfd", argInt}, {"oldpath", argPath}, {"newdirfd", argInt}, {"newpath", argPath}, flags}},
	{name: "linkat", number: unix.SYS_LINKAT, doc: "Gave a file another name.", args: []arg{{"olddirfd", argInt}, {"oldpath", argPath}, {"newdirfd", argInt}, {"newpath", argPath}, flags}},
	{name: "symlinkat", number: unix.SYS_SYMLINKAT, doc: "Made a symbolic link.", args: []arg{{"target", argPath}, {"newdirfd", argInt}, {"linkpath", argPath}}},
	{name: "fchmod", number: unix.SYS_FCHMOD, doc: "Changed the mode of an open file.", args: []arg{fd, mode}},
	{name: "fchmodat", number: unix.SYS_FCHMODAT, doc: "Changed the mode of a file.", args: []arg{dirfd, pathname, mode}},
	{name: "fchmodat2", number: unix.SYS_FCHMODAT2, doc: "Changed the mode of a file.", args: []arg{dirfd, pathname, mode, flags}},
	{name: "fchownat", number: unix.SYS_FCHOWNAT, doc: "Changed the owner of a file.", args: []arg{dirfd, pathname, {"owner", argInt}, {"group", argInt}, flags}},
	{name: "ptrace", number: unix.SYS_PTRACE, doc: "Traced a process.", args: []arg{{"request", argTrace}, {"pid", argInt}, {"addr", argHex}, {"data", argHex}}},
	{name: "process_vm_readv", number: unix.SYS_PROCESS_VM_READV, doc: "Read another process's memory.", args: []arg{pid}},
	{name: "process_vm_writev", number: unix.SYS_PROCESS_VM_WRITEV, doc: "Wrote another process's memory.", args: []arg{pid}},
	{name: "kill", number: unix.SYS_KILL, doc: "Sent a signal to a process.", args: []arg{pid, {"sig", argSignal}}},
	{name: "tkill", number: unix.SYS_TKILL, doc: "Sent a signal to a thread.", args: []arg{{"tid", argInt}, {"sig", argSignal}}},
	{name: "tgkill", number: unix.SYS_TGKILL, doc: "Sent a signal to a thread.", args: []arg{{"tgid", argInt}, {"tid", argInt}, {"sig", argSignal}}},
	{name: "setuid", number: unix.SYS_SETUID, doc: "Changed the user.", args: []arg{{"uid", argInt}}},
	{name: "setgid", number: unix.SYS_SETGID, doc: "Changed the group.", args: []arg{{"gid", argInt}}},
	{name: "setreuid", number: unix.SYS_SETREUID, doc: "Changed the user.", args: []arg{{"ruid", argInt}, {"euid", argInt}}},
	{name: "setregid", number: unix.SYS_SETREGID, doc: "Changed the group.", args: []arg{{"rgid", argInt}, {"egid", argInt}}},
	{name: "setresuid", number: unix.SYS_SETRESUID, doc: "Changed the user.", args: []arg{{"ruid", argInt}, {"euid", argInt}, {"suid", argInt}}},
	{name: "setresgid", number: unix.SYS_SETRESGID, doc: "Changed the group.", args: []arg{{"rgid", argInt}, {"egid", argInt}, {"sgid", argInt}}},
	{name: "setfsuid", number: unix.SYS_SETFSUID, doc: "Changed the user for files.", args: []arg{{"fsuid", argInt}}},
	{name: "setfsgid", number: unix.SYS_SETFSGID, doc: "Changed the group for files.", args: []arg{{"fsgid", argInt}}},
	{name: "init_module", number: unix.SYS_INIT_MODULE, doc: "Loaded a kernel module from memory.", args: []arg{{"module_image", argHex}, {"len", argLong}, {"param_values", argPath}}},
	{name: "finit_module", number: unix.SYS_FINIT_MODULE, doc: "Loaded a kernel module from a file.", args: []arg{fd, {"param_values", argPath}, flags}},
	{name: "delete_module", number: unix.SYS_DELETE_MODULE, doc: "Removed a kernel module.", args: []arg{{"name", argName}, flags}},
	{name: "mount", number: unix.SYS_MOUNT, doc: "Mounted a file system.", args: []arg{{"source", argPath}, {"target", argPath}, {"filesystemtype", argName}, {"mountflags", argHex}}},
	{name: "umount2", number: unix.SYS_UMOUNT2, doc: "Unmounted a file system.", args: []arg{{"target", argPath}, flags}},
	{name: "pivot_root", number: unix.SYS_PIVOT_ROOT, doc: "Changed the root mount.", args: []arg{{"new_root", argPath}, {"put_old", argPath}}},
	{name: "chroot", number: unix.SYS_CHROOT, doc: "Changed the root directory.", args: []arg{{"path", argPath}}},
	{name: "setns", number: unix.SYS_SETNS, doc: "Entered a namespace.", args: []arg{fd, {"nstype", argHex}}},
	{name: "unshare", number: unix.SYS_UNSHARE, doc: "Made namespaces of its own.", args: []arg{flags}},
	{name: "memfd_create", number: unix.SYS_MEMFD_CREATE, doc: "Made a file in memory.", args: []arg{{"name", argName}, flags}},
	{name: "bpf", number: unix.SYS_BPF, doc: "Used the BPF system call.", args: []arg{{"cmd", argCommand}, {"attr", argHex}, {"size", argInt}}},
}
