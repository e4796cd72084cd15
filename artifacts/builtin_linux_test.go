package artifacts_test

import (
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/vql"
)

// A program that deletes itself is the one whose hash is wanted most.
func TestPslistHashesDeletedPrograms(t *testing.T) {
	program, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Skipf("no program to copy: %v", err)
	}
	path := filepath.Join(t.TempDir(), "gone")
	if err := os.WriteFile(path, program, 0o700); err != nil {
		t.Fatal(err)
	}
	gone := exec.Command(path, "600")
	if err := gone.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = gone.Process.Kill() // it may have ended
		_ = gone.Wait()         // with the signal
	})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, builtIn(t))
	rows := s.run(fmt.Sprintf("SELECT Exe, Hash.MD5 AS MD5 FROM Artifact.Linux.Sys.Pslist(ProcessRegex='^gone$') WHERE Pid = %d", gone.Process.Pid), vql.NewDict())
	sum := md5.Sum(program)
	want := fmt.Sprintf(`[{"Exe":"%s (deleted)","MD5":"%s"}]`, path, hex.EncodeToString(sum[:]))
	if got := string(vql.AppendJSON(nil, rows)); got != want {
		t.Errorf("got %s, want %s; log %v", got, want, s.logs)
	}
}

func TestFetchBinaryRefusesWhatNobodyDeclared(t *testing.T) {
	s := newSession(t, builtIn(t))
	if rows := s.run("SELECT * FROM Artifact.Generic.Utils.FetchBinary(ToolName='nosuch', SleepDuration=0)", vql.NewDict()); len(rows) != 0 {
		t.Errorf("rows of a tool that there is not: %s", vql.AppendJSON(nil, rows))
	}
	if log := strings.Join(s.logs, "\n"); !strings.Contains(log, `No tool "nosuch" is declared`) || strings.Contains(log, "hash") {
		t.Errorf("log: %s", log)
	}
}

// Threads of the kernel have no memory to scan: a line for each would hide others.
func TestYaraProcessLeavesThreadsOfTheKernelAlone(t *testing.T) {
	if link, err := os.Readlink("/proc/2/exe"); err == nil {
		t.Skipf("process 2 is a program here: %s", link)
	}
	s := newSession(t, builtIn(t))
	s.run("SELECT * FROM Artifact.Linux.Detection.Yara.Process(PidRegex='^2$')", vql.NewDict())
	if len(s.logs) != 0 {
		t.Errorf("log: %v", s.logs)
	}
}

// On most hosts /bin is a link to /usr/bin.
func TestSUIDTellsOfEachFileOnce(t *testing.T) {
	s := newSession(t, builtIn(t))
	seen := map[string]string{}
	for _, row := range s.run("SELECT str(str=OSPath) AS Path FROM Artifact.Linux.Sys.SUID(SUIDGlob='/{bin,sbin,usr/bin,usr/sbin}/*')", vql.NewDict()) {
		path, _ := row.GetString("Path")
		real, err := filepath.EvalSymlinks(path)
		if err != nil {
			t.Fatal(err)
		}
		if seen[real] != "" {
			t.Errorf("%s is %s, too", path, seen[real])
		}
		seen[real] = path
	}
	if len(seen) == 0 {
		t.Skip("this machine has no such file at all")
	}
}
