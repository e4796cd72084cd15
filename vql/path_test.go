package vql_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"raptorpack/vql"
)

func TestPathSyntaxes(t *testing.T) {
	for _, c := range []struct {
		syntax vql.PathSyntax
		text   string
		parts  []string
		prints string
	}{
		{vql.PathLinux, "/a//b/./c/../d", []string{"a", "b", "d"}, "/a/b/d"},
		{vql.PathLinux, "../../etc", []string{"etc"}, "/etc"},
		{vql.PathLinux, "", nil, "/"},
		{vql.PathLinux, "/a\\b", []string{"a\\b"}, "/a\\b"},
		{vql.PathWindows, `C:\Users/x\y`, []string{"C:", "Users", "x", "y"}, `C:\Users\x\y`},
		{vql.PathWindows, `c:`, []string{"c:"}, `c:\`},
		{vql.PathWindows, `\\?\C:\x`, []string{"C:", "x"}, `C:\x`},
		{vql.PathWindows, `\\.\PhysicalDrive0`, []string{`\\.\PhysicalDrive0`}, `\\.\PhysicalDrive0`},
		{vql.PathNTFS, `\\.\C:\Windows`, []string{`\\.\C:`, "Windows"}, `\\.\C:\Windows`},
		{vql.PathRegistry, `HKLM\Software\"a\b"\c`, []string{"HKEY_LOCAL_MACHINE", "Software", `a\b`, "c"}, `HKEY_LOCAL_MACHINE\Software\"a\b"\c`},
		{vql.PathRegistry, `HKU\"say ""hi"""`, []string{"HKEY_USERS", `say "hi"`}, `HKEY_USERS\say "hi"`},
		{vql.PathZip, "a/b", []string{"a", "b"}, "a/b"},
		{vql.PathGeneric, `/a/"b/c"/d`, []string{"a", "b/c", "d"}, `/a/"b/c"/d`},
		{vql.PathOpaque, "any/../thing", []string{"any/../thing"}, "any/../thing"},
	} {
		p := vql.ParsePath(c.syntax, c.text)
		if diff := cmp.Diff(c.parts, append([]string(nil), p.Components()...)); diff != "" {
			t.Errorf("%s %q: %s", c.syntax.Name(), c.text, diff)
		}
		if p.String() != c.prints {
			t.Errorf("%s %q prints %q, want %q", c.syntax.Name(), c.text, p, c.prints)
		}
		if again := vql.ParsePath(c.syntax, p.String()); !again.Equal(p) {
			t.Errorf("%s %q: %q comes back as %q", c.syntax.Name(), c.text, p, again)
		}
		if s, ok := vql.SyntaxByName(c.syntax.Name()); !ok || s != c.syntax {
			t.Errorf("%s is not found by its name", c.syntax.Name())
		}
	}
}

func TestPathsInContainers(t *testing.T) {
	const text = `{"DelegateAccessor":"zip","Delegate":{"DelegateAccessor":"file","DelegatePath":"/x.zip","Path":"/in.zip"},"Path":"/a/b"}`
	p := vql.ParsePath(vql.PathLinux, text)
	if p.String() != text || p.Path() != "/a/b" || p.DelegateAccessor() != "zip" || !p.HasDelegate() {
		t.Errorf("%s", p)
	}
	if p.Delegate().DelegatePath() != "/x.zip" || p.Dirname().DelegateAccessor() != "zip" {
		t.Errorf("%s", p.Delegate())
	}
	q := vql.NewPath(vql.PathZip, "m").InsideText("file", "/a.zip")
	scope, _ := session(t, vql.SessionOptions{Env: vql.NewDict().Set("P", p).Set("Q", q).Set("R", vql.NewPath(vql.PathLinux, "x"))})
	got, err := query(t, scope, `SELECT P.Delegate.DelegatePath AS P, Q.Delegate.Basename AS Q, R.Delegate AS R FROM scope()`)
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"P":"/x.zip","Q":"a.zip","R":null}`)
	if q.String() != `{"DelegateAccessor":"file","DelegatePath":"/a.zip","Path":"m"}` {
		t.Errorf("%s", q)
	}
	if got := q.Append("n").With([]string{"z"}).Path(); got != "z" {
		t.Errorf("%s", got)
	}
}

func FuzzPath(f *testing.F) {
	f.Add("registry", `HKLM\"a\b"`)
	f.Add("windows", `\\.\C:\x`)
	f.Add("linux", `{"Path":"/a"}`)
	f.Fuzz(func(t *testing.T, name, text string) {
		syntax, ok := vql.SyntaxByName(name)
		if !ok {
			return
		}
		p := vql.ParsePath(syntax, text)
		if p.HasDelegate() {
			return
		}
		if again := vql.NewPath(syntax, syntax.Split(p.Path())...); !again.Equal(p) && name != "windows" && name != "ntfs" {
			t.Errorf("%q: %q comes back as %q", text, p, again)
		}
	})
}
