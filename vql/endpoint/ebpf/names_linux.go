//go:build amd64 || arm64

package ebpf

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// numberText names numbers as the headers of the kernel do.
func numberText(kind argKind, value uint64) any {
	switch kind {
	case argMode:
		return modeText(value)
	case argOpen:
		return openFlags(uint64(uint32(value)))
	case argSignal:
		return signalName(int64(int32(value)))
	case argTrace:
		return named(traceRequests, value)
	case argCommand:
		return named(bpfCommands, value&0xffffffff)
	}
	return hexText(value)
}

func modeText(mode uint64) string { return fmt.Sprintf("%#o", mode&0o7777) }

func hexText(value uint64) string { return "0x" + strconv.FormatUint(value, 16) }

func named(names map[uint64]string, value uint64) string {
	if name, ok := names[value]; ok {
		return name
	}
	return strconv.FormatInt(int64(value), 10)
}

// signalName is SIGKILL and the like, or the number.
func signalName(n int64) string {
	if name := unix.SignalName(syscall.Signal(n)); n > 0 && name != "" {
		return name
	}
	return strconv.FormatInt(n, 10)
}

// The kernel's own codes for a call that a signal interrupted: it begins again or
// ends with EINTR, which is seen only later. include/linux/errno.h.
const (
	restartFirst = 512
	restartLast  = 516
)

// errorName is ENOENT and the like for a result that tells of an error, or nil.
func errorName(result int64) any {
	n := -result
	if n <= 0 || n > 4095 {
		return nil
	}
	if n >= restartFirst && n <= restartLast {
		return "ERESTART"
	}
	if name := unix.ErrnoName(syscall.Errno(n)); name != "" {
		return name
	}
	return strconv.FormatInt(n, 10)
}

// openFlags names flags of open, the rest as a number.
func openFlags(flags uint64) string {
	parts := []string{map[uint64]string{0: "O_RDONLY", 1: "O_WRONLY", 2: "O_RDWR", 3: "O_ACCMODE"}[flags&unix.O_ACCMODE]}
	rest := flags &^ unix.O_ACCMODE
	for _, f := range openFlagNames {
		if rest&f.bits == f.bits {
			parts = append(parts, f.name)
			rest &^= f.bits
		}
	}
	if rest != 0 {
		parts = append(parts, hexText(rest))
	}
	return strings.Join(parts, "|")
}

// openFlagNames has flags before those that are a part of them. O_LARGEFILE of
// x/sys is 0 on 64-bit machines, but programs may set the bit.
var openFlagNames = []struct {
	bits uint64
	name string
}{
	{unix.O_TMPFILE, "O_TMPFILE"},
	{unix.O_SYNC, "O_SYNC"},
	{unix.O_CREAT, "O_CREAT"},
	{unix.O_EXCL, "O_EXCL"},
	{unix.O_NOCTTY, "O_NOCTTY"},
	{unix.O_TRUNC, "O_TRUNC"},
	{unix.O_APPEND, "O_APPEND"},
	{unix.O_NONBLOCK, "O_NONBLOCK"},
	{unix.O_DSYNC, "O_DSYNC"},
	{unix.O_ASYNC, "O_ASYNC"},
	{unix.O_DIRECT, "O_DIRECT"},
	{unix.O_DIRECTORY, "O_DIRECTORY"},
	{unix.O_NOFOLLOW, "O_NOFOLLOW"},
	{unix.O_NOATIME, "O_NOATIME"},
	{unix.O_CLOEXEC, "O_CLOEXEC"},
	{unix.O_PATH, "O_PATH"},
}

var traceRequests = map[uint64]string{
	unix.PTRACE_TRACEME: "PTRACE_TRACEME", unix.PTRACE_PEEKTEXT: "PTRACE_PEEKTEXT", unix.PTRACE_PEEKDATA: "PTRACE_PEEKDATA",
	unix.PTRACE_POKETEXT: "PTRACE_POKETEXT", unix.PTRACE_POKEDATA: "PTRACE_POKEDATA", unix.PTRACE_CONT: "PTRACE_CONT",
	unix.PTRACE_KILL: "PTRACE_KILL", unix.PTRACE_SINGLESTEP: "PTRACE_SINGLESTEP", unix.PTRACE_ATTACH: "PTRACE_ATTACH",
	unix.PTRACE_DETACH: "PTRACE_DETACH", unix.PTRACE_SYSCALL: "PTRACE_SYSCALL", unix.PTRACE_SETOPTIONS: "PTRACE_SETOPTIONS",
	unix.PTRACE_GETEVENTMSG: "PTRACE_GETEVENTMSG", unix.PTRACE_GETSIGINFO: "PTRACE_GETSIGINFO",
	unix.PTRACE_SETSIGINFO: "PTRACE_SETSIGINFO", unix.PTRACE_GETREGSET: "PTRACE_GETREGSET",
	unix.PTRACE_SETREGSET: "PTRACE_SETREGSET", unix.PTRACE_SEIZE: "PTRACE_SEIZE",
	unix.PTRACE_INTERRUPT: "PTRACE_INTERRUPT", unix.PTRACE_LISTEN: "PTRACE_LISTEN",
}

var bpfCommands = map[uint64]string{
	unix.BPF_MAP_CREATE: "BPF_MAP_CREATE", unix.BPF_MAP_LOOKUP_ELEM: "BPF_MAP_LOOKUP_ELEM",
	unix.BPF_MAP_UPDATE_ELEM: "BPF_MAP_UPDATE_ELEM", unix.BPF_MAP_DELETE_ELEM: "BPF_MAP_DELETE_ELEM",
	unix.BPF_PROG_LOAD: "BPF_PROG_LOAD", unix.BPF_OBJ_PIN: "BPF_OBJ_PIN", unix.BPF_OBJ_GET: "BPF_OBJ_GET",
	unix.BPF_PROG_ATTACH: "BPF_PROG_ATTACH", unix.BPF_PROG_DETACH: "BPF_PROG_DETACH",
	unix.BPF_RAW_TRACEPOINT_OPEN: "BPF_RAW_TRACEPOINT_OPEN", unix.BPF_BTF_LOAD: "BPF_BTF_LOAD",
	unix.BPF_LINK_CREATE: "BPF_LINK_CREATE",
}

// address reads a socket address as sockaddr(3type) lays it out: the family in
// the machine's order, ports in the network's. It never fails: what is too short
// shows what it has. No bytes are nil.
func address(raw []byte) any {
	if len(raw) < 2 {
		return nil
	}
	family := binary.LittleEndian.Uint16(raw)
	switch {
	case family == unix.AF_INET && len(raw) >= 8:
		return internet("AF_INET", raw[4:8], raw[2:4])
	case family == unix.AF_INET6 && len(raw) >= 24:
		return internet("AF_INET6", raw[8:24], raw[2:4])
	case family == unix.AF_UNIX:
		return []Field{{"sa_family", "AF_UNIX"}, {"path", unixPath(raw[2:])}}
	}
	return []Field{{"sa_family", familyName(family)}}
}

func internet(family string, ip, port []byte) []Field {
	at, _ := netip.AddrFromSlice(ip) // always 4 or 16 bytes
	return []Field{{"sa_family", family}, {"ip", at.String()}, {"port", int64(binary.BigEndian.Uint16(port))}}
}

// unixPath shows an abstract name, which begins with a NUL, with an @ there.
func unixPath(raw []byte) string {
	if len(raw) > 0 && raw[0] == 0 {
		return strings.TrimSuffix("@"+string(raw[1:]), "@")
	}
	return record(raw).text(0, len(raw))
}

func familyName(family uint16) string {
	names := map[uint16]string{
		unix.AF_UNSPEC: "AF_UNSPEC", unix.AF_INET: "AF_INET", unix.AF_INET6: "AF_INET6", unix.AF_NETLINK: "AF_NETLINK",
		unix.AF_PACKET: "AF_PACKET", unix.AF_VSOCK: "AF_VSOCK", unix.AF_BLUETOOTH: "AF_BLUETOOTH", unix.AF_ALG: "AF_ALG",
	}
	if name, ok := names[family]; ok {
		return name
	}
	return strconv.Itoa(int(family))
}
