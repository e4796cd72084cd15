package endpoint_test

import (
	"archive/tar"
	"archive/zip"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFileNocaseAccessor(t *testing.T) {
	onLinux(t)
	root := tree(t, map[string]string{"Dir/Sub/File.TXT": "x", "Dir/same": "lower", "Dir/SAME": "upper"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT read_file(filename=Root + '/dIR/sub/file.txt', accessor='file_nocase') AS A, read_file(filename=Root + '/DIR/same', accessor='file_nocase') AS B,
	   read_file(filename=Root + '/dir/Same', accessor='file_nocase') AS C, read_file(filename=Root + '/dir/none', accessor='file_nocase') AS D FROM scope()`,
		`{"A":"x","B":"lower","C":"upper","D":""}`)
	s.want(`SELECT relpath(path=str(str=OSPath), base=Root) AS P FROM stat(filename=Root + '/dir/SUB', accessor='file_nocase')`, `{"P":"Dir/Sub"}`)
}

func TestOverlayAccessor(t *testing.T) {
	root := tree(t, map[string]string{"a/both": "of a", "a/only a": "1", "b/both": "of b", "b/sub/only b": "2"})
	s := newSession(t, map[string]any{"Root": root, "OVERLAY_ACCESSOR_DELEGATES": []any{root + "/a", root + "/none", root + "/b"}})
	s.want(`SELECT OSPath, IsDir, read_file(filename=OSPath, accessor='overlay') AS D FROM glob(globs='**', accessor='overlay') WHERE NOT IsDir`,
		`{"OSPath":"/both","IsDir":false,"D":"of a"}`, `{"OSPath":"/only a","IsDir":false,"D":"1"}`, `{"OSPath":"/sub/only b","IsDir":false,"D":"2"}`)
	s.want(`SELECT read_file(filename='/none', accessor='overlay') AS D FROM scope()`, `{"D":""}`)
	s.wantLog("open /none: file does not exist")
	bare := newSession(t, nil)
	bare.want(`SELECT * FROM glob(globs='*', accessor='overlay')`)
	bare.wantLog("OVERLAY_ACCESSOR_DELEGATES lists no folders")
}

func TestRangedAccessor(t *testing.T) {
	index := `{"ranges":[{"file_offset":0,"original_offset":0,"file_length":3,"length":3},{"file_offset":3,"original_offset":3,"file_length":0,"length":4},
		{"file_offset":3,"original_offset":7,"file_length":2,"length":2}]}`
	root := tree(t, map[string]string{"f": "abcde", "f.idx": index, "plain": "whole", "bad": "x", "bad.idx": `{"ranges":[{"original_offset":5,"length":-1}]}`, "worse": "x", "worse.idx": "{"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT read_file(filename=Root + '/f', accessor='ranged') AS A, read_file(filename=Root + '/f', accessor='ranged', offset=2, length=6) AS B,
	   read_file(filename=Root + '/plain', accessor='ranged') AS C, read_file(filename=Root + '/bad', accessor='ranged') AS D,
	   read_file(filename=Root + '/worse', accessor='ranged') AS E, stat(filename=Root + '/f', accessor='ranged').Size AS S FROM scope()`,
		`{"A":"abc\u0000\u0000\u0000\u0000de","B":"c\u0000\u0000\u0000\u0000d","C":"whole","D":"","E":"","S":9}`)
	s.wantLog("is out of order")
	s.wantLog("read the index of")
}

func FuzzRangedIndex(f *testing.F) {
	f.Add(`{"ranges":[{"file_offset":0,"original_offset":9223372036854775807,"file_length":3,"length":3}]}`)
	f.Add(`{"ranges":[{"file_offset":9223372036854775807,"original_offset":0,"file_length":3,"length":9223372036854775807}]}`)
	f.Fuzz(func(t *testing.T, index string) {
		if !json.Valid([]byte(index)) {
			t.Skip("no index")
		}
		root := tree(t, map[string]string{"f": "abcde", "f.idx": index})
		s := newSession(t, map[string]any{"Root": root})
		s.rows(`SELECT read_file(filename=Root + '/f', accessor='ranged', length=100000) AS A FROM scope()`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}

// zipOf and tarOf make archives of names and contents, in order.
func zipOf(t testing.TB, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for i := 0; i < len(members); i += 2 {
		h := &zip.FileHeader{Name: members[i], Method: zip.Deflate}
		h.SetMode(0o644)
		if strings.HasSuffix(members[i], ".sh") {
			h.SetMode(0o755)
		}
		if strings.HasPrefix(members[i+1], "->") {
			h.SetMode(os.ModeSymlink | 0o777)
		}
		m, err := w.CreateHeader(h)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Write([]byte(members[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func tarOf(t testing.TB, members ...string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	for i := 0; i < len(members); i += 2 {
		h := &tar.Header{Name: members[i], Mode: 0o644, Size: int64(len(members[i+1])), Typeflag: tar.TypeReg}
		if target, ok := strings.CutPrefix(members[i+1], "->"); ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeSymlink, target, 0
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if h.Size > 0 {
			if _, err := w.Write([]byte(members[i+1])); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestUnzipStaysInItsFolder(t *testing.T) {
	members := []string{
		"a.txt", "one", "sub/tool.sh", "#!", "../outside", "x", "/abs", "x", `c:\win`, "x", "link", "->/etc", "link/passwd", "x", "out/file", "x", "z.txt", "last",
	}
	for name, archive := range map[string]string{"zip": zipOf(t, members...), "tar.gz": tarOf(t, members...)} {
		root := tree(t, map[string]string{"to/": "", "elsewhere/": "", "to/out": "->../elsewhere"})
		s := newSession(t, map[string]any{"Root": root, "A": archive})
		var want []string
		for _, m := range []struct{ name, size string }{{"a.txt", "3"}, {"sub/tool.sh", "2"}, {"link/passwd", "1"}, {"z.txt", "4"}} {
			want = append(want, `{"OriginalPath":"`+m.name+`","NewPath":"`+root+`/to/`+m.name+`","Size":`+m.size+`}`)
		}
		s.want(`SELECT * FROM unzip(filename=A, accessor='data', output_directory=Root + '/to')`, want...)
		for _, line := range []string{`"../outside" would leave the folder`, `"/abs" would leave`, `"link" is no file`, `unzip: "out/file": `} {
			s.wantLog(line)
		}
		for _, path := range []string{"outside", "elsewhere/file"} {
			if _, err := os.Lstat(filepath.Join(root, path)); err == nil {
				t.Errorf("%s: %s was written", name, path)
			}
		}
	}
}

func TestUnzipFiltersAndKeepsPrograms(t *testing.T) {
	root := t.TempDir()
	s := newSession(t, map[string]any{"Root": root, "A": zipOf(t, "bin/tool.sh", "#!", "notes", "x"), "Cut": tarOf(t, "f", strings.Repeat("x", 100_000))[:60]})
	s.want(`SELECT OriginalPath FROM unzip(filename=A, accessor='data', output_directory=Root + '/new/deep', filename_filter='no such')`)
	s.want(`SELECT OriginalPath FROM unzip(filename=A, accessor='data', output_directory=Root + '/new/deep', filename_filter='[.]sh$')`, `{"OriginalPath":"bin/tool.sh"}`)
	if info, err := os.Stat(root + "/new/deep/bin/tool.sh"); err != nil || info.Mode()&0o111 == 0 {
		t.Errorf("%v, %v", info, err)
	}
	s.want(`SELECT * FROM unzip(filename=Cut, accessor='data', output_directory=Root + '/cut')`)
	s.wantLog("unexpected EOF")
	s.want(`SELECT * FROM unzip(filename='neither', accessor='data', output_directory=Root + '/x')`)
	s.wantLog("neither a zip nor a tar.gz archive")
	s.want(`SELECT * FROM unzip(filename=Root + '/none', output_directory=Root + '/x')`)
	s.wantLog("no such file")
	if left, err := os.ReadDir(root + "/cut"); err != nil || len(left) > 0 {
		t.Errorf("half a file stays: %v, %v", left, err)
	}
}
