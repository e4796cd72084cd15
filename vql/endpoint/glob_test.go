package endpoint_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"raptorpack/vql"
)

// names runs a glob in root and returns what it found, relative to root.
func globNames(s *session, root, args string) []string {
	s.t.Helper()
	var out []string
	err := s.each(s.t.Context(), "SELECT OSPath FROM glob(root=Root, "+args+")", func(row *vql.Dict) error {
		v, _ := row.Get("OSPath")
		out = append(out, strings.TrimPrefix(v.(*vql.Path).String(), root+"/"))
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return out
}

func TestGlobPatterns(t *testing.T) {
	root := tree(t, map[string]string{
		"a/one.txt": "1", "a/two.log": "22", "a/b/three.txt": "333", "a/b/c/four.txt": "4",
		"a/b/c/d/five.txt": "5", "z.txt": "z", "[x].txt": "b", ".hidden": "h", "empty/": "",
		"a/brace{1}": "q",
	})
	for _, c := range []struct{ args, want string }{
		{`globs='*'`, ".hidden [x].txt a empty z.txt"},
		{`globs='*.txt'`, "[x].txt z.txt"},
		{`globs='/a/*.txt'`, "a/one.txt"},
		{`globs='a/?ne.txt'`, "a/one.txt"},
		{`globs='a/*.{txt,log}'`, "a/one.txt a/two.log"},
		{`globs='a/{b/three,one}.txt'`, "a/one.txt a/b/three.txt"},
		{`globs='a/[n-p]*'`, "a/one.txt"},
		{`globs='a/[!n-p]*'`, "a/b a/brace{1} a/two.log"},
		{`globs='a/brace{1}'`, "a/brace{1}"},
		{`globs='[[]x].txt'`, "[x].txt"},
		{`globs='**'`, ".hidden [x].txt a empty z.txt a/b a/brace{1} a/one.txt a/two.log a/b/c a/b/three.txt a/b/c/d a/b/c/four.txt a/b/c/d/five.txt"},
		{`globs='**/*.txt'`, "[x].txt z.txt a/one.txt a/b/three.txt a/b/c/four.txt a/b/c/d/five.txt"},
		{`globs='**2/*.txt'`, "[x].txt z.txt a/one.txt a/b/three.txt"},
		{`globs='**1'`, ".hidden [x].txt a empty z.txt"},
		{`globs='a/**/c/*.txt'`, "a/b/c/four.txt"},
		{`globs='a/b/**/**/*.txt'`, "a/b/three.txt a/b/c/four.txt a/b/c/d/five.txt"},
		{`globs='nothing/*'`, ""},
		{`globs='z.txt/*'`, ""},
		{`globs='a/b/../one.txt'`, "a/one.txt"},
		{`globs=['*.txt', 'a/*.log']`, "[x].txt z.txt a/two.log"},
	} {
		s := newSession(t, map[string]any{"Root": root})
		if got := strings.Join(globNames(s, root, c.args), " "); got != c.want {
			t.Errorf("%s\n got %s\nwant %s", c.args, got, c.want)
		}
		if s.log() != "" {
			t.Errorf("%s logged %s", c.args, s.log())
		}
	}
}

func TestGlobShowsFactsAndAllGlobs(t *testing.T) {
	root := tree(t, map[string]string{"f.txt": "hello", "link": "->f.txt", "dir/": ""})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT Name, Size, IsDir, IsLink, Mode.String AS M, Globs FROM glob(root=Root, globs=['*.txt', 'f*', '{f.txt,f.*}'])`,
		`{"Name":"f.txt","Size":5,"IsDir":false,"IsLink":false,"M":"-rw-r--r--","Globs":["*.txt","f*","{f.txt,f.*}"]}`)
	s.want(`SELECT Name, IsDir, IsLink FROM glob(root=Root, globs='*') WHERE NOT Name =~ 'txt'`,
		`{"Name":"dir","IsDir":true,"IsLink":false}`, `{"Name":"link","IsDir":false,"IsLink":true}`)
	if runtime.GOOS == "linux" {
		s.want(`SELECT Data.Link AS L FROM glob(root=Root, globs='link')`, `{"L":"f.txt"}`)
	}
	got := strings.Join(s.rows(`SELECT * FROM glob(globs=Root + '/f.txt')`), "")
	for _, key := range []string{"Name", "OSPath", "Mtime", "Atime", "Ctime", "Btime", "Size", "Mode", "IsDir", "IsLink", "Data", "Globs"} {
		if !strings.Contains(got, `"`+key+`":`) {
			t.Errorf("no %s in %s", key, got)
		}
	}
}

func TestGlobFollowsLinksButNoLoops(t *testing.T) {
	root := tree(t, map[string]string{
		"real/f": "1", "real/up": "->..", "real/self": "->.", "other": "->real", "again": "->real",
		"a/x": "->../b", "b/y": "->../a", "dangling": "->nowhere",
	})
	s := newSession(t, map[string]any{"Root": root})
	got := strings.Join(globNames(s, root, `globs='**/f'`), " ")
	if got != "again/f real/f" {
		t.Errorf("got %s", got) // each folder once through links, besides its own place
	}
	if got := strings.Join(globNames(s, root, `globs='**/f', nosymlink=TRUE`), " "); got != "real/f" {
		t.Errorf("nosymlink: got %s", got)
	}
	// Without ** the length of the pattern ends it, so that every link counts.
	if got := strings.Join(globNames(s, root, `globs='*/f'`), " "); got != "again/f other/f real/f" {
		t.Errorf("one level: got %s", got)
	}
	if got := strings.Join(globNames(s, root, `globs='other/*', nosymlink=TRUE`), " "); got != "other/f other/self other/up" {
		t.Errorf("a named link: got %s", got)
	}
}

func TestGlobRecursionCallbackKeepsOut(t *testing.T) {
	root := tree(t, map[string]string{"keep/f": "", "skip/f": "", "skip/deep/f": ""})
	s := newSession(t, map[string]any{"Root": root})
	got := strings.Join(globNames(s, root, `globs='**', recursion_callback="x=>x.Name != 'skip'"`), " ")
	if got != "keep skip keep/f" {
		t.Errorf("got %s", got)
	}
}

func TestGlobBearsHostileNames(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"new\nline", "bad\xff\xfeutf8", "back\\slash", "quote\"s", "{\"Path\":\"x\"}", "sp ace", "*"} {
		if err := os.WriteFile(filepath.Join(root, name), []byte("content"), 0o600); err != nil {
			t.Skip("the file system refuses such names:", err)
		}
	}
	s := newSession(t, map[string]any{"Root": root})
	if got := s.rows(`SELECT OSPath, read_file(filename=OSPath) AS Data FROM glob(root=Root, globs='*') WHERE Data = 'content'`); len(got) != 7 {
		t.Errorf("got %d rows:\n%s\n%s", len(got), strings.Join(got, "\n"), s.log())
	}
}

func TestGlobStreamsAndStopsAtOnce(t *testing.T) {
	files := map[string]string{}
	for i := range 300 {
		files[fmt.Sprintf("d%03d/f", i)] = ""
	}
	root := tree(t, files)
	s := newSession(t, map[string]any{"Root": root})
	if got := s.rows(`SELECT Name FROM glob(root=Root, globs='**') LIMIT 3`); len(got) != 3 {
		t.Errorf("got %d rows", len(got))
	}
	ctx, cancel := context.WithCancel(t.Context())
	count := 0
	err := s.each(ctx, `SELECT Name FROM glob(root=Root, globs='**')`, func(*vql.Dict) error {
		if count++; count == 5 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || count > 50 {
		t.Errorf("%d rows after the cancel, error %v", count, err)
	}
}

func TestGlobTellsWhatItCouldNotList(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may list everything")
	}
	root := tree(t, map[string]string{"closed/f": ""})
	if err := os.Chmod(filepath.Join(root, "closed"), 0); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(root, "closed"), 0o700) })
	s := newSession(t, map[string]any{"Root": root})
	s.rows(`SELECT * FROM glob(root=Root, globs='**')`)
	s.wantLog("1 names could not be looked into")
}

func TestGlobRefusesTooManyAlternatives(t *testing.T) {
	s := newSession(t, map[string]any{"G": strings.Repeat("{a,b}", 20)})
	s.want(`SELECT * FROM glob(globs=G)`)
	s.wantLog("more than 4096 alternatives")
}

// Artifacts of old ask for FullPath, by name and through stored queries.
func TestGlobAnswersToFullPath(t *testing.T) {
	root := tree(t, map[string]string{"a/one.txt": "1", "b/two.txt": "2"})
	for _, query := range []string{
		`SELECT FullPath FROM glob(root=Root, globs='*/*.txt') WHERE FullPath =~ 'o'`,
		`LET files = SELECT FullPath, Size FROM glob(root=Root, globs='*/*.txt') SELECT FullPath FROM files`,
		`LET files = SELECT * FROM glob(root=Root, globs='*/*.txt') SELECT FullPath FROM files WHERE FullPath =~ 'o'`,
		`SELECT * FROM foreach(row={SELECT * FROM glob(root=Root, globs='*/*.txt')}, query={SELECT FullPath FROM stat(filename=FullPath)})`,
		`SELECT * FROM foreach(row={SELECT FullPath FROM glob(root=Root, globs='*/*.txt')}, query={SELECT FullPath FROM stat(filename=FullPath)})`,
	} {
		s := newSession(t, map[string]any{"Root": root})
		s.want(query, fmt.Sprintf(`{"FullPath":%q}`, root+"/a/one.txt"), fmt.Sprintf(`{"FullPath":%q}`, root+"/b/two.txt"))
		s.wantLog("FullPath is deprecated")
		if strings.Contains(s.log(), "ERROR") {
			t.Errorf("%s: %s", query, s.log())
		}
	}
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT * FROM items(item={SELECT * FROM glob(root=Root, globs='a/*.txt') LIMIT 1}) WHERE _key =~ 'FullPath'`)
}

func TestGlobUnknownAccessorIsALogLine(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT * FROM glob(globs='/*', accessor='nosuch')`)
	s.wantLog("unknown accessor nosuch")
}

func BenchmarkGlob20k(b *testing.B) {
	root := b.TempDir()
	for i := range 200 {
		dir := filepath.Join(root, fmt.Sprintf("d%d", i%20), fmt.Sprintf("e%d", i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			b.Fatal(err)
		}
		for j := range 100 {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d.txt", j)), nil, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	for b.Loop() {
		s := newSession(b, map[string]any{"Root": root})
		count := 0
		if err := s.each(b.Context(), `SELECT OSPath, Size FROM glob(root=Root, globs='**/*.txt')`, func(*vql.Dict) error {
			count++
			return nil
		}); err != nil || count != 20_000 {
			b.Fatal(count, err)
		}
	}
}
