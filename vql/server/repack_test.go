package server_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestRepackCopiesAProgram(t *testing.T) {
	w := newWorld(t)
	host := w.host("ada")
	host.Repack = func(to io.Writer, program io.ReaderAt, size int64, config []byte) error {
		if string(config) == "bad" {
			return io.ErrUnexpectedEOF
		}
		_, err := io.Copy(to, io.NewSectionReader(program, 0, size))
		fmt.Fprintf(to, "+%s", config)
		return err
	}
	s := w.session(roles{"administrator"}, nil, host)
	dir := t.TempDir()
	exe := filepath.Join(dir, "exe")
	must(t, os.WriteFile(exe, []byte("program"), 0o600))
	call := func(more string) string {
		return `SELECT repack(exe='` + exe + `', config='text', dest_filename='` + dir + `/out'` + more + `) AS R FROM scope()`
	}
	s.want(call(""), `{"R":{"Path":"`+dir+`/out"}}`)
	if got, err := os.ReadFile(filepath.Join(dir, "out")); err != nil || string(got) != "program+text" {
		t.Errorf("%q, %v", got, err)
	}
	s.want(call(""), `{"R":null}`) // it never replaces
	s.wantLog("exists")
	s.want(call(`, binaries='x'`), `{"R":null}`)
	s.wantLog("not available")
	s.want(`SELECT repack(exe='`+exe+`', config='bad', dest_filename='`+dir+`/bad') AS R FROM scope()`, `{"R":null}`)
	if _, err := os.Stat(filepath.Join(dir, "bad")); err == nil {
		t.Error("a half program is left behind")
	}
	s.want(`SELECT repack(exe='`+exe+`', config='text') AS R FROM scope()`, `{"R":null}`)
	s.wantLog("nowhere to upload")
	analyst := w.session(roles{"analyst"}, nil, host)
	analyst.want(call(""), `{"R":null}`)
	analyst.wantLog("COLLECT_SERVER")
}
