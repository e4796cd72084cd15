package endpoint

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

// listed gives what listDir finds, sorted.
func listed(t *testing.T, folder string) []string {
	t.Helper()
	var out []string
	err := listDir(folder, func() error { return nil }, func(name string, mode fs.FileMode) {
		out = append(out, fmt.Sprintf("%s %v", name, mode))
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(out)
	return out
}

func TestListingFindsWhatGoFinds(t *testing.T) {
	large := t.TempDir() // of more names than fit into one buffer
	for i := range 3000 {
		if err := os.WriteFile(filepath.Join(large, fmt.Sprintf("a file of a longer name %04d", i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("nowhere", filepath.Join(large, "link")); err != nil {
		t.Fatal(err)
	}
	for _, folder := range []string{large, t.TempDir(), "/etc", "/dev", "/proc/self"} {
		entries, err := os.ReadDir(folder)
		if err != nil {
			t.Fatal(err)
		}
		var want []string
		for _, e := range entries {
			want = append(want, fmt.Sprintf("%s %v", e.Name(), e.Type()))
		}
		slices.Sort(want)
		if got := listed(t, folder); !slices.Equal(got, want) {
			t.Errorf("%s: %d names, Go finds %d", folder, len(got), len(want))
		}
	}
	for _, name := range []string{"/etc/passwd", "/nonexistent"} {
		if err := listDir(name, nil, nil); err == nil {
			t.Errorf("%s was listed", name)
		}
	}
}

func FuzzDirents(f *testing.F) {
	f.Add([]byte{})
	f.Add(append(make([]byte, direntLength), 24, 0, 8, 'a', 0, 0, 0, 0))
	f.Add(append(make([]byte, direntLength), 24, 0, 0, '.', '.', 0, 0, 0))
	f.Add(append(make([]byte, direntLength), 255, 255, 8, 'a', 0, 0, 0, 0))
	f.Fuzz(func(t *testing.T, buffer []byte) {
		eachDirent("/nonexistent", buffer, func(name string, _ fs.FileMode) {
			if name == "." || name == ".." || len(name) > len(buffer) {
				t.Errorf("the name %q", name)
			}
		})
	})
}
