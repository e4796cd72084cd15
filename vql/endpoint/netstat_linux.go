package endpoint

import (
	"bufio"
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"raptorpack/vql"
)

// eachSocket hands on every socket with each process that holds it. The sockets
// are read first and their holders after, so that a socket that is made meanwhile
// is missing rather than without its process.
func eachSocket(ctx context.Context, scope *vql.Scope, each func(*socket, holder) error) error {
	var sockets []socket
	for _, protocol := range []string{"tcp", "tcp6", "udp", "udp6"} {
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		found, err := readSockets(protocol)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // no IPv6 here
			scope.Log(vql.LevelWarn, "sockets of %s: %v", protocol, err)
		}
		sockets = append(sockets, found...)
	}
	holders, err := socketHolders(ctx, scope)
	if err != nil {
		return err
	}
	for i := range sockets {
		s := &sockets[i]
		held := holders[s.inode]
		if s.inode == 0 || len(held) == 0 {
			held = []holder{{}} // nobody's any more, as in TIME_WAIT, or not ours to see
		}
		for _, h := range held {
			if err := each(s, h); err != nil {
				return err
			}
		}
	}
	return nil
}

func readSockets(protocol string) ([]socket, error) {
	file, err := os.Open("/proc/net/" + protocol)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	var out []socket
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		if s, ok := parseSocket(lines.Text(), protocol); ok {
			out = append(out, s)
		}
	}
	return out, lines.Err()
}

// socketHolders finds who holds which socket, once for each process.
func socketHolders(ctx context.Context, scope *vql.Scope) (map[uint64][]holder, error) {
	pids, err := listPids(ctx)
	if err != nil {
		return nil, err
	}
	out := map[uint64][]holder{}
	for _, pid := range pids {
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		dir, err := os.Open(procName(pid, "fd"))
		if err != nil {
			continue // ended, or another user's
		}
		names, _ := dir.Readdirnames(-1) // what we got before it ended will do
		_ = dir.Close()                  // opened for listing only
		for _, name := range names {
			addHolder(out, pid, name)
		}
	}
	return out, nil
}

func addHolder(out map[uint64][]holder, pid int, name string) {
	target, err := os.Readlink(procName(pid, "fd/"+name))
	if err != nil {
		return
	}
	rest, ok := strings.CutPrefix(target, "socket:[")
	if !ok {
		return
	}
	inode, err1 := strconv.ParseUint(strings.TrimSuffix(rest, "]"), 10, 64)
	fd, err2 := strconv.Atoi(name)
	if err1 != nil || err2 != nil {
		return
	}
	held := out[inode]
	if n := len(held); n > 0 && held[n-1].pid == pid {
		held[n-1].fd = min(held[n-1].fd, fd)
		return
	}
	out[inode] = append(held, holder{pid, fd})
}
