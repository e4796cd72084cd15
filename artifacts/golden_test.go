package artifacts_test

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"raptorpack/artifacts"
	"raptorpack/vql"
)

var update = flag.Bool("update", false, "write the golden files anew")

// fixtureTime is when every file of a fixture was last written: a checkout does
// not keep times.
var fixtureTime = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// Each folder of testdata/builtin is named for a built-in artifact: files/ is a
// piece of a host, call.vql reads it (the variable Dir is where it lies), and
// want.jsonl has the rows. The file modes, where there is one, has lines of octal
// rights and a file, since a checkout keeps only who may execute it.
func TestBuiltInsReadWhatHostsHave(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the definitions are for Linux")
	}
	repo := builtIn(t)
	cases, err := os.ReadDir("testdata/builtin")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		t.Run(c.Name(), func(t *testing.T) {
			if _, err := repo.Lookup(c.Name()); err != nil {
				t.Fatalf("no such artifact: %v", err)
			}
			golden(t, repo, filepath.Join("testdata/builtin", c.Name()))
		})
	}
}

// noFixture lists built-in client artifacts that no piece of a host can show:
// they ask the kernel, the agent or the network.
var noFixture = strings.Fields(`Generic.Client.Info Generic.Client.VQL Generic.System.Pstree Generic.Utils.FetchBinary
	Generic.Utils.LogTime System.VFS.DownloadFile System.VFS.ListDirectory
	Linux.Network.Interfaces Linux.Network.Listening Linux.Network.Netstat Linux.Network.NetstatEnriched Linux.Sys.Pslist`)

func TestBuiltInsHaveFixtures(t *testing.T) {
	for _, d := range builtIn(t).List() {
		_, err := os.Stat(filepath.Join("testdata/builtin", d.Name, "want.jsonl"))
		if listed := slices.Contains(noFixture, d.Name); d.Type == artifacts.Client && (err == nil) == listed {
			t.Errorf("%s: has a fixture: %v, listed as having none: %v", d.Name, err == nil, listed)
		}
	}
}

// Hosts have files that were cut short by a crash and files that are something
// else than their name says. No definition may fail for them, whatever rows it has.
func TestBuiltInsBearDamage(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("the definitions are for Linux")
	}
	repo := builtIn(t)
	cases, err := os.ReadDir("testdata/builtin")
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 5000)
	chance := rand.New(rand.NewPCG(1, 2))
	for i := range noise {
		noise[i] = byte(chance.Uint32())
	}
	damages := map[string]func([]byte) []byte{
		"cut short": func(data []byte) []byte { return data[:len(data)*2/3] },
		"noise":     func([]byte) []byte { return noise },
		"empty":     func([]byte) []byte { return nil },
	}
	for _, c := range cases {
		for name, damage := range damages {
			t.Run(c.Name()+"/"+name, func(t *testing.T) {
				folder, dir := filepath.Join("testdata/builtin", c.Name()), t.TempDir()
				layOut(t, filepath.Join(folder, "files"), dir)
				damageAll(t, dir, damage)
				s := newSession(t, repo)
				s.run(callOf(t, folder), vql.NewDict().Set("Dir", dir))
				for _, line := range s.errors() {
					t.Errorf("log: %.300s", line)
				}
			})
		}
	}
}

func damageAll(t *testing.T, dir string, damage func([]byte) []byte) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, damage(data), 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func callOf(t *testing.T, folder string) string {
	t.Helper()
	call, err := os.ReadFile(filepath.Join(folder, "call.vql"))
	if err != nil {
		t.Fatal(err)
	}
	return string(call)
}

func golden(t *testing.T, repo *artifacts.Repository, folder string) {
	t.Helper()
	dir := t.TempDir()
	layOut(t, filepath.Join(folder, "files"), dir)
	setModes(t, filepath.Join(folder, "modes"), dir)
	s := newSession(t, repo)
	var got bytes.Buffer
	for _, row := range s.run(callOf(t, folder), vql.NewDict().Set("Dir", dir)) {
		got.Write(vql.AppendJSON(nil, row))
		got.WriteByte('\n')
	}
	for _, line := range s.errors() {
		t.Errorf("log: %.300s", line)
	}
	text := bytes.ReplaceAll(got.Bytes(), []byte(dir), []byte("$DIR"))
	path := filepath.Join(folder, "want.jsonl")
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(want) == 0 {
		t.Error("no rows are wanted, which proves nothing")
	}
	if !bytes.Equal(text, want) {
		t.Errorf("rows differ from %s (-update writes them)\ngot:\n%s\nwant:\n%s\nlog: %v", path, text, want, s.logs)
	}
}

// layOut copies a fixture. A name that begins with "dot-" stands for one that
// begins with a dot, and @DIR@ in a file for where the copy lies.
func layOut(t *testing.T, from, to string) {
	t.Helper()
	err := filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		dest := filepath.Join(to, hidden(rel))
		switch {
		case entry.IsDir():
			return os.MkdirAll(dest, 0o755)
		case entry.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(target, dest)
		}
		return copyFixture(path, dest, to)
	})
	if err != nil {
		t.Fatal(err)
	}
}

func setModes(t *testing.T, list, dir string) {
	t.Helper()
	text, err := os.ReadFile(list)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var mode uint32
		var name string
		if _, err := fmt.Sscanf(line, "%o %s", &mode, &name); err != nil {
			t.Fatalf("%s: %q: %v", list, line, err)
		}
		// Chmod of the os package has bits of its own for setuid and its like.
		if err := syscall.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
}

func hidden(rel string) string {
	parts := strings.Split(rel, string(filepath.Separator))
	for i, part := range parts {
		if rest, ok := strings.CutPrefix(part, "dot-"); ok {
			parts[i] = "." + rest
		}
	}
	return filepath.Join(parts...)
}

func copyFixture(from, to, dir string) error {
	info, err := os.Stat(from)
	if err != nil {
		return err
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o644)
	if info.Mode()&0o100 != 0 {
		mode = 0o755
	}
	if err := os.WriteFile(to, bytes.ReplaceAll(data, []byte("@DIR@"), []byte(dir)), mode); err != nil {
		return err
	}
	if err := os.Chmod(to, mode); err != nil { // whatever the umask is
		return err
	}
	return os.Chtimes(to, fixtureTime, fixtureTime)
}
