package endpoint_test

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/internal/archive"
)

// collected is a zip with some files, sealed by a password.
func collected(t *testing.T, password string, files map[string]string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "c.zip")
	file, err := os.Create(name)
	if err == nil {
		err = archive.Seal(file, password, func(w io.Writer) error {
			z := archive.NewWriter(w)
			for name, text := range files {
				if _, err := z.Member(name, time.Now(), func(w io.Writer) error { _, err := io.WriteString(w, text); return err }); err != nil {
					return err
				}
			}
			return z.Close()
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestCollectorsZipsAreOpened(t *testing.T) {
	files := map[string]string{
		"results/A.jsonl": `{"n":1}` + "\n", "uploads/file/big": "headtail",
		"uploads/file/big.idx": `{"ranges":[{"file_offset":0,"original_offset":0,"file_length":4,"length":4},{"file_offset":4,"original_offset":4,"file_length":0,"length":8},{"file_offset":4,"original_offset":12,"file_length":4,"length":4}]}`,
		"uploads/file/bad":     "x", "uploads/file/bad.idx": `{"ranges":[{"original_offset":5,"file_length":9,"length":9}]}`,
	}
	for _, password := range []string{"", "secret"} {
		name := collected(t, password, files)
		s := newSession(t, map[string]any{"ZIP_PASSWORDS": "other," + password})
		in := func(path string) string {
			return fmt.Sprintf("pathspec(DelegatePath='%s', Path='%s'), accessor='collector'", name, path)
		}
		got := s.rows(`SELECT read_file(filename=` + in("results/A.jsonl") + `) AS A, len(list=read_file(filename=` + in("uploads/file/big") + `)) AS L,
			read_file(filename=` + in("uploads/file/big") + `, offset=10, length=4) AS M, read_file(filename=` + in("uploads/file/bad") + `) AS B,
			stat(filename=` + in("uploads/file/big") + `).Size AS S FROM scope()`)
		if want := `{"A":"{\"n\":1}\n","L":16,"M":"\u0000\u0000ta","B":"","S":16}`; strings.Join(got, "\n") != want {
			t.Errorf("password %q: %v, want %s", password, got, want)
		}
		if got := s.rows(`SELECT OSPath.Path AS P FROM glob(globs='/**', root=pathspec(DelegatePath='` + name + `'), accessor='collector') WHERE NOT IsDir`); len(got) != len(files) {
			t.Errorf("glob gives %v", got)
		}
	}
	s := newSession(t, map[string]any{"ZIP_PASSWORDS": "wrong"})
	name := collected(t, "secret", files)
	if got := s.rows(`SELECT read_file(filename=pathspec(DelegatePath='` + name + `', Path='results/A.jsonl'), accessor='collector') AS A FROM scope()`); got[0] != `{"A":""}` {
		t.Errorf("with a wrong password: %v", got)
	}
}
