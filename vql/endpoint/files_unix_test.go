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

func TestPipesDevicesAndFoldersDoNotBlock(t *testing.T) {
	root := tree(t, map[string]string{"dir/": ""})
	fifo := filepath.Join(root, "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Skip(err)
	}
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT Name, read_file(filename=OSPath) AS R, hash(path=OSPath) AS H FROM glob(root=Root, globs='*')`,
		`{"Name":"dir","R":"","H":null}`, `{"Name":"fifo","R":"","H":null}`)
	s.want(`SELECT read_file(filename='/dev/zero') AS R FROM scope()`, `{"R":""}`)
	s.want(`SELECT len(list=read_file(filename='/dev/zero', accessor='raw_file', length=10)) AS L FROM scope()`, `{"L":10}`)
	s.want(`SELECT * FROM parse_lines(filename=Root + '/fifo')`)
	s.wantLog("not a regular file")
	s.want(`SELECT copy(filename=Root + '/dir', dest=Root + '/fifo') AS C FROM scope()`, `{"C":null}`)
}

func TestParseBinaryKeepsFewFilesOpen(t *testing.T) {
	onLinux(t)
	files := map[string]string{}
	for i := range 100 {
		files[strconv.Itoa(i)] = "AB"
	}
	root := tree(t, files)
	open := func() (n int) {
		fds, err := os.ReadDir("/proc/self/fd")
		if err != nil {
			t.Fatal(err)
		}
		for _, fd := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + fd.Name()); err == nil && strings.HasPrefix(to, root) {
				n++
			}
		}
		return n
	}
	s := newSession(t, map[string]any{"Root": root, "Profile": `[["S", 2, [["A", 0, "uint8"], ["B", 1, "uint8"]]]]`})
	// The members of files that gave way are read from files opened anew.
	s.want(`LET All <= SELECT parse_binary(filename=OSPath, profile=Profile, struct='S') AS S FROM glob(root=Root, globs='*')
	   SELECT sum(item=S.A) AS A, sum(item=S.B) AS B FROM All GROUP BY 1`, `{"A":6500,"B":6600}`)
	// Several calls open the same files at the same time.
	s.want(`SELECT count() AS N FROM foreach(row={SELECT * FROM range(end=200)}, workers=8, query={
	     SELECT parse_binary(filename=Root + '/' + str(str=int(int=_value / 4)), profile=Profile, struct='S').A AS A FROM scope() WHERE A = 65
	   }) GROUP BY 1`, `{"N":200}`)
	if n := open(); n == 0 || n > 32 {
		t.Errorf("%d files are open", n)
	}
	s.scope.Close()
	if n := open(); n != 0 {
		t.Errorf("%d files stay open", n)
	}
}

func TestParseCSVEndsInsideARecord(t *testing.T) {
	onLinux(t)
	s := newSession(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1) // one value, when the statement has ended
	go func() {
		done <- s.each(ctx, `SELECT * FROM parse_csv(filename='/dev/zero', accessor='raw_file')`, func(*vql.Dict) error { return nil })
	}()
	waitFor(t, "ops to be charged", func() bool { return s.scope.Stats().Ops > 10 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.scope.Close()
	if strings.Contains(s.log(), "did not stop") {
		t.Error(s.log())
	}
}
