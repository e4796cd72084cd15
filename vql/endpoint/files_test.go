package endpoint_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"raptorpack/vql"
)

func TestReadFile(t *testing.T) {
	root := tree(t, map[string]string{"f": "0123456789"})
	s := newSession(t, map[string]any{"F": filepath.Join(root, "f"), "Root": root})
	s.want(`SELECT read_file(filename=F) AS A, read_file(filename=F, offset=7) AS B, read_file(filename=F, length=3, offset=2) AS C,
	   read_file(filename=F, offset=100) AS D FROM scope()`, `{"A":"0123456789","B":"789","C":"234","D":""}`)
	s.want(`SELECT Data, Offset FROM read_file(filenames=F, chunk=4)`,
		`{"Data":"0123","Offset":0}`, `{"Data":"4567","Offset":4}`, `{"Data":"89","Offset":8}`)
	s.want(`SELECT Data FROM read_file(filenames=(F, F), max_length=2)`, `{"Data":"01"}`, `{"Data":"01"}`)
}

func TestMissingInputIsALogLineAndNoResult(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT read_file(filename='/nonexistent/f') AS A, hash(path='/nonexistent/f') AS B, stat(filename='/nonexistent/f') AS C FROM scope()`,
		`{"A":"","B":null,"C":null}`)
	s.wantLog("read_file: ")
	s.wantLog("hash: ")
	for _, q := range []string{
		`SELECT * FROM read_file(filenames='/nonexistent')`, `SELECT * FROM stat(filename='/nonexistent')`,
		`SELECT * FROM parse_lines(filename='/nonexistent')`, `SELECT * FROM parse_csv(filename='/nonexistent')`,
		`SELECT * FROM split_records(filenames='/nonexistent')`, `SELECT * FROM parse_jsonl(filename='/nonexistent')`,
		`SELECT * FROM parse_records_with_regex(file='/nonexistent', regex='x')`,
	} {
		s.want(q)
	}
	s.wantLog("parse_csv: ")
	s.wantLog("parse_lines: ")
}

func TestHash(t *testing.T) {
	root := tree(t, map[string]string{"f": "hello", "big": strings.Repeat("x", 2000)})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT hash(path=Root + '/f') AS H FROM scope()`,
		`{"H":{"MD5":"5d41402abc4b2a76b9719d911017c592","SHA1":"aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d","SHA256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}}`)
	s.want(`SELECT hash(path=Root + '/f', hashselect='md5') AS H FROM scope()`,
		`{"H":{"MD5":"5d41402abc4b2a76b9719d911017c592","SHA1":"","SHA256":""}}`)
	s.want(`SELECT hash(path=Root + '/big', max_size=1000) AS H FROM scope()`, `{"H":null}`)
	s.wantLog("too large")
	s.want(`SELECT hash(path='hello', accessor='data').MD5 AS H FROM scope()`, `{"H":"5d41402abc4b2a76b9719d911017c592"}`)
	limited := newSession(t, map[string]any{"Root": root, "HASH_MAX_SIZE": int64(10)})
	limited.want(`SELECT hash(path=Root + '/big') AS H, hash(path=Root + '/f').MD5 != NULL AS F FROM scope()`, `{"H":null,"F":true}`)
	s.want(`SELECT hash(path=Root + '/f', hashselect='crc') AS H FROM scope()`, `{"H":null}`)
}

func TestStat(t *testing.T) {
	root := tree(t, map[string]string{"f": "hello", "l": "->f"})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT Name, Size, IsLink FROM stat(filename=Root + '/f')`, `{"Name":"f","Size":5,"IsLink":false}`)
	s.want(`SELECT stat(filename=Root + '/l').IsLink AS L, stat(filename=Root + '/f').Size AS S FROM scope()`, `{"L":true,"S":5}`)
}

func TestTextAccessors(t *testing.T) {
	s := newSession(t, map[string]any{"Content": "line one\nline two"})
	s.want(`SELECT * FROM parse_lines(filename=Content, accessor='data')`, `{"Line":"line one"}`, `{"Line":"line two"}`)
	s.want(`SELECT * FROM parse_lines(filename='Content', accessor='scope')`, `{"Line":"line one"}`, `{"Line":"line two"}`)
	s.want(`SELECT read_file(filename='{"Path": "x", "DelegateAccessor": "file"}', accessor='data') AS D FROM scope()`,
		`{"D":"{\"Path\": \"x\", \"DelegateAccessor\": \"file\"}"}`)
	s.want(`SELECT * FROM parse_lines(filename='NoSuchVariable', accessor='scope')`)
}

func zipFile(t testing.TB, path string, files map[string]string) {
	t.Helper()
	var buf bytes.Buffer
	w := zip.NewWriter(&buf)
	for name, content := range files {
		m, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := m.Write([]byte(content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestZipAccessor(t *testing.T) {
	root := t.TempDir()
	zipFile(t, filepath.Join(root, "inner.zip"), map[string]string{"deep.txt": "deeper"})
	inner, err := os.ReadFile(filepath.Join(root, "inner.zip"))
	if err != nil {
		t.Fatal(err)
	}
	zipFile(t, filepath.Join(root, "a.zip"), map[string]string{
		"one.txt": "first", "folder/two.txt": "second", "../../escape.txt": "out", "nested.zip": string(inner),
	})
	s := newSession(t, map[string]any{"Zip": filepath.Join(root, "a.zip")})
	s.want(`SELECT OSPath.Path AS P, Size, read_file(accessor='zip', filename=OSPath) AS D
	   FROM glob(globs='**/*.txt', accessor='zip', root=pathspec(DelegateAccessor='file', DelegatePath=Zip))`,
		`{"P":"escape.txt","Size":3,"D":"out"}`, `{"P":"one.txt","Size":5,"D":"first"}`, `{"P":"folder/two.txt","Size":6,"D":"second"}`)
	s.want(`SELECT read_file(accessor='zip', filename=pathspec(DelegatePath=Zip, Path='folder/two.txt'), offset=3) AS D FROM scope()`, `{"D":"ond"}`)
	s.want(`SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='zip',
	   Delegate=pathspec(DelegateAccessor='file', DelegatePath=Zip, Path='nested.zip'), Path='deep.txt')) AS D FROM scope()`, `{"D":"deeper"}`)
	s.want(`SELECT read_file(accessor='zip', filename=pathspec(DelegatePath=Zip, Path='missing')) AS D FROM scope()`, `{"D":""}`)
	s.want(`SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='data', DelegatePath='no zip', Path='x')) AS D FROM scope()`, `{"D":""}`)
	s.wantLog("read archive")
}

func TestZipCacheClosesWhatItEvicts(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{"a", "b", "c"} {
		zipFile(t, filepath.Join(root, name+".zip"), map[string]string{"f": name})
	}
	s := newSession(t, map[string]any{"Root": root, "ZIP_FILE_CACHE_SIZE": int64(1)})
	for range 3 {
		s.want(`SELECT read_file(accessor='zip', filename=pathspec(DelegatePath=OSPath, Path='f')) AS D FROM glob(root=Root, globs='*.zip')`,
			`{"D":"a"}`, `{"D":"b"}`, `{"D":"c"}`)
	}
	if runtime.GOOS != "linux" {
		return
	}
	open, err := filepath.Glob("/proc/self/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	count := 0
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && strings.HasPrefix(target, root) {
			count++
		}
	}
	if count != 1 {
		t.Errorf("%d archives are open, want 1", count)
	}
}

func TestStreamOffsetAndSparseAccessors(t *testing.T) {
	root := t.TempDir()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	if _, err := w.Write([]byte("packed content")); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(root, "f.gz"), buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"F": filepath.Join(root, "f.gz")})
	s.want(`SELECT read_file(accessor='gzip', filename=F) AS A, read_file(accessor='gzip', filename=F, offset=7) AS B,
	   read_file(accessor='gzip', filename=pathspec(DelegatePath=F, Path='/')) AS C FROM scope()`,
		`{"A":"packed content","B":"content","C":"packed content"}`)
	s.want(`SELECT read_file(accessor='offset', filename=pathspec(DelegateAccessor='data', DelegatePath='0123456789', Path='4'), length=3) AS A FROM scope()`,
		`{"A":"456"}`)
	s.want(`SELECT read_file(accessor='sparse', filename=pathspec(DelegateAccessor='data', DelegatePath='0123456789',
	   Path='[{"Offset":2,"Length":2},{"Offset":6,"Length":1}]', accessor='sparse')) AS A FROM scope()`,
		`{"A":"\u0000\u000023\u0000\u00006"}`)
}

func TestPathFunctions(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT dirname(path='/a/b/c') AS D, basename(path='/a/b/c') AS B, path_join(components=['/a', 'b/c', 'd']) AS J,
	   path_split(path='/a/b') AS S, relpath(path='/a/b/c', base='/a/x') AS R FROM scope()`,
		`{"D":"/a/b","B":"c","J":"/a/b/c/d","S":["a","b"],"R":"../b/c"}`)
	s.want(`SELECT basename(path='C:\\Windows\\notepad.exe') AS B, dirname(path='C:\\Windows\\notepad.exe') AS D,
	   path_join(components=['C:\\Windows', 'x'], path_type='windows') AS J FROM scope()`,
		`{"B":"notepad.exe","D":"C:\\Windows","J":"C:\\Windows\\x"}`)
	s.want(`SELECT pathspec(Path='a/b') AS A, pathspec(Path='a', DelegateAccessor='file', DelegatePath='/x.zip') AS B,
	   pathspec(parse='HKLM\\x', path_type='registry') AS C FROM scope()`,
		`{"A":"/a/b","B":"{\"DelegateAccessor\":\"file\",\"DelegatePath\":\"/x.zip\",\"Path\":\"/a\"}","C":"HKEY_LOCAL_MACHINE\\x"}`)
	s.want(`SELECT basename(path='x', path_type='nosuch') AS B FROM scope()`, `{"B":null}`)
}

func TestTemporaryFilesGoWithTheirScope(t *testing.T) {
	s := newSession(t, nil)
	var name, dir string
	err := s.each(t.Context(), `LET F <= tempfile(data=['one', 'two'], extension='.x') LET D <= tempdir()
	   SELECT F, D, read_file(filename=F) AS Data FROM scope()`, func(row *vql.Dict) error {
		name, _ = row.GetString("F")
		dir, _ = row.GetString("D")
		if data, _ := row.GetString("Data"); data != "onetwo" {
			t.Errorf("content %q, log %s", data, s.log())
		}
		return nil
	})
	if err != nil || !strings.HasSuffix(name, ".x") {
		t.Fatal(name, err)
	}
	s.scope.Close()
	for _, gone := range []string{name, dir} {
		if _, err := os.Stat(gone); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", gone, err)
		}
	}
}

func TestCopyRmAndWriters(t *testing.T) {
	root := tree(t, map[string]string{"f": "hello", "dir/": ""})
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT copy(filename=Root + '/f', dest=Root + '/new/g', create_directories=TRUE) = Root + '/new/g' AS A,
	   copy(filename='!', accessor='data', dest=Root + '/new/g', append=TRUE) != NULL AS B, read_file(filename=Root + '/new/g') AS C FROM scope()`,
		`{"A":true,"B":true,"C":"hello!"}`)
	s.want(`SELECT rm(filename=Root + '/f') AS A, rm(filename=Root + '/f') AS B, rm(filename=Root + '/dir') AS C FROM scope()`,
		`{"A":true,"B":false,"C":false}`)
	s.want(`SELECT * FROM write_csv(filename=Root + '/o.csv', query={SELECT 1 AS A, 'x,"y' AS B FROM scope()})`, `{"A":1,"B":"x,\"y"}`)
	s.want(`SELECT read_file(filename=Root + '/o.csv') AS D FROM scope()`, `{"D":"A,B\n1,\"x,\"\"y\"\n"}`)
	s.want(`SELECT * FROM write_jsonl(filename=Root + '/o.json', query={SELECT 1 AS A FROM scope()})`, `{"A":1}`)
	s.want(`SELECT * FROM parse_jsonl(filename=Root + '/o.json')`, `{"A":1}`)
}

func TestUploadSendsEachFileOnce(t *testing.T) {
	root := tree(t, map[string]string{"f": "hello"})
	u := &uploads{}
	s := newSession(t, map[string]any{"Root": root}, u)
	s.want(`SELECT upload(file=OSPath).StoredSize AS A, upload(file=OSPath).Size AS B, upload(file=OSPath, name='other').Size AS C FROM glob(root=Root, globs='f')`,
		`{"A":5,"B":5,"C":5}`)
	if len(u.requests) != 2 || u.data[0] != "hello" {
		t.Fatalf("%d uploads: %q", len(u.requests), u.data)
	}
	r := u.requests[0]
	if r.Path.String() != filepath.Join(root, "f") || r.Accessor != "auto" || r.Mtime.IsZero() || u.requests[1].StoreAs.Basename() != "other" {
		t.Errorf("request %+v", r)
	}
	s.want(`SELECT upload(file='content', accessor='data', name='made/up.txt', mtime='2024-01-02T03:04:05Z').Size AS A FROM scope()`, `{"A":7}`)
	if last := u.requests[2]; last.StoreAs.String() != "/made/up.txt" || last.Mtime.Year() != 2024 {
		t.Errorf("request %+v", last)
	}
	none := newSession(t, nil)
	none.want(`SELECT upload(file='/etc/hostname') AS A FROM scope()`, `{"A":null}`)
	none.wantLog("takes no uploads")
}

func TestUploadTellsHoles(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("holes are asked for on Linux")
	}
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt([]byte("end"), 8<<20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	u := &uploads{}
	s := newSession(t, map[string]any{"F": path}, u)
	s.want(`SELECT upload(file=F).Size AS S FROM scope()`, `{"S":8388611}`)
	ranges := u.requests[0].Ranges
	if len(ranges) < 2 || !ranges[0].Sparse || ranges[len(ranges)-1].Sparse {
		t.Skipf("the file system does not tell holes: %+v", ranges)
	}
}
