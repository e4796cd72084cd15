//go:build unix

package config_test

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"raptorpack/config"
)

func TestReplaceKeepsOwnerAndMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(path, []byte("a"), 0o600); err != nil {
		t.Fatal(err)
	}
	want := [2]uint32{uint32(os.Getuid()), uint32(os.Getgid())}
	if os.Getuid() == 0 { // only root gives files away
		want = [2]uint32{4711, 4712}
		if err := os.Chown(path, 4711, 4712); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if err := config.Replace(path, []byte("b")); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	owner := info.Sys().(*syscall.Stat_t)
	if got := [2]uint32{owner.Uid, owner.Gid}; got != want || info.Mode().Perm() != 0o640 {
		t.Errorf("owner and group %v, want %v; mode %v", got, want, info.Mode())
	}
	if text, err := os.ReadFile(path); string(text) != "b" {
		t.Errorf("%q, %v", text, err)
	}
}
