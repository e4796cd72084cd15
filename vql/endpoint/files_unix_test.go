//go:build !windows

package endpoint_test

import (
	"path/filepath"
	"syscall"
	"testing"
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
