package filestore

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// thisProcess says who we are, for our own heartbeats. What the system does
// not tell stays empty, and then nobody concludes anything from it.
func thisProcess() process {
	host, _ := os.Hostname() // only told to people
	boot, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	pid := os.Getpid()
	start, _, _ := processStart(pid)
	return process{host: host, boot: strings.TrimSpace(string(boot)), pidNS: pidNamespace(), pid: pid, start: start}
}

// pidNamespace returns the inode of our pid namespace, 0 if unknown: two
// containers of one host share the boot id, but not the meaning of a pid.
func pidNamespace() uint64 {
	var stat unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &stat); err != nil {
		return 0
	}
	return stat.Ino
}

// pidGone reports whether the process that had this pid and start time surely
// runs no more, in our pid namespace.
func pidGone(pid int, start uint64) bool {
	err := unix.Kill(pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return true
	}
	// From here on some process has this pid. /proc may be hidden from us: then
	// we do not know.
	now, dead, err := processStart(pid)
	return err == nil && (dead || now != start)
}

// processStart returns field 22 of /proc/<pid>/stat, the start in clock ticks
// since boot, and whether the process is a zombie without further threads
// (proc_pid_stat(5)).
func processStart(pid int) (start uint64, dead bool, err error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, false, err
	}
	// Field 2 is the command in parentheses and may hold anything.
	end := bytes.LastIndexByte(stat, ')')
	fields := bytes.Fields(stat[end+1:])
	const state, threads, started = 0, 17, 19 // fields 3, 20 and 22 of proc(5)
	if end < 0 || len(fields) <= started {
		return 0, false, fmt.Errorf("process %d: %w", pid, ErrBadRecord)
	}
	start, err = strconv.ParseUint(string(fields[started]), 10, 64)
	count, _ := strconv.Atoi(string(fields[threads])) // 0 would be no thread
	zombie := fields[state][0] == 'Z' || fields[state][0] == 'X'
	return start, zombie && count <= 1, err
}
