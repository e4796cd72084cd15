//go:build !windows

package endpoint_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"raptorpack/vql"
)

func TestExecveStreamsAndKillsTheWholeGroup(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	child := 0
	err := s.each(ctx, `SELECT Stdout FROM execve(argv=['sh', '-c', 'sleep 1000 & echo $!; wait'], sep='\n')`, func(row *vql.Dict) error {
		line, _ := row.GetString("Stdout")
		child, _ = strconv.Atoi(line)
		cancel() // the row came while the program runs
		return nil
	})
	if !errors.Is(err, context.Canceled) || child == 0 {
		t.Fatalf("child %d, error %v", child, err)
	}
	waitFor(t, "the child to end", func() bool { return !running(child) })
	// A LIMIT ends the program as well.
	s.want(`SELECT Stdout FROM execve(argv=['sh', '-c', 'while true; do echo x; done'], sep='\n') LIMIT 2`, `{"Stdout":"x"}`, `{"Stdout":"x"}`)
}

// running tells whether a process exists and is no zombie.
func running(pid int) bool {
	if syscall.Kill(pid, 0) != nil {
		return false
	}
	data, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	return err == nil && !strings.Contains(string(data), ") Z ")
}
