package endpoint_test

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/vql"
)

// ext4Image unpacks an image that mke2fs made; testdata/ext4/README.md says how.
func ext4Image(t testing.TB, name string) []byte {
	t.Helper()
	packed, err := os.ReadFile("testdata/ext4/" + name + ".img.gz")
	if err != nil {
		t.Fatal(err)
	}
	r, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestExt4Images(t *testing.T) {
	for _, name := range []string{"ext4", "ext2", "inline", "meta"} {
		t.Run(name, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, ext4Image(t, name), 0o600); err != nil {
				t.Fatal(err)
			}
			s := newSession(t, map[string]any{"Image": image})
			s.rows(`LET At(X) = pathspec(DelegateAccessor='file', DelegatePath=Image, Path=X)`)
			s.want(`SELECT OSPath.Path AS P, Size, Mode.String AS M, IsDir AS D, IsLink AS L, Data.Link AS T
			   FROM glob(globs='{small.txt,link,dir/*,big}', root=At(X='/'), accessor='raw_ext4') WHERE NOT IsDir ORDER BY P`,
				`{"P":"/big","Size":409600,"M":"-rw-r--r--","D":false,"L":false,"T":null}`,
				`{"P":"/dir/five.txt","Size":5000,"M":"urwxr-xr-x","D":false,"L":false,"T":null}`,
				`{"P":"/dir/sparse","Size":300003,"M":"-rw-r--r--","D":false,"L":false,"T":null}`,
				`{"P":"/link","Size":9,"M":"Lrwxrwxrwx","D":false,"L":true,"T":"small.txt"}`,
				`{"P":"/small.txt","Size":6,"M":"-rw-r--r--","D":false,"L":false,"T":null}`)
			s.want(`SELECT count() AS N FROM glob(globs='many/file*', root=At(X='/'), accessor='raw_ext4') GROUP BY 1`, `{"N":400}`)
			s.want(`SELECT read_file(filename=At(X='/small.txt'), accessor='raw_ext4') AS A, read_file(filename=At(X='/many/file399'), accessor='raw_ext4') AS B,
			   read_file(filename=At(X='/dir/five.txt'), accessor='raw_ext4')[4990:5010] AS C FROM scope()`, `{"A":"hello\n","B":"399","C":"aaaaaaaaaa"}`)
			s.want(`SELECT stat(filename=At(X='/longlink'), accessor='raw_ext4').Data.Link AS L FROM scope()`, `{"L":"/`+strings.Repeat("long", 30)+`"}`)
			var big strings.Builder
			for b := range 400 {
				big.WriteString(strings.Repeat(string(rune('A'+b%26)), 1024))
			}
			sparse := "begin" + strings.Repeat("\x00", 300000-5) + "end"
			s.scope.Set("Big", big.String())
			s.scope.Set("Sparse", sparse)
			s.want(`SELECT read_file(filename=At(X='/big'), accessor='raw_ext4') = Big AS A, read_file(filename=At(X='/dir/sparse'), accessor='raw_ext4') = Sparse AS B FROM scope()`,
				`{"A":true,"B":true}`)
			s.want(`SELECT Mtime FROM stat(filename=At(X='/small.txt'), accessor='raw_ext4')`, `{"Mtime":"2020-02-02T02:02:02Z"}`) // mke2fs leaves fractions out
			if s.log() != "" {
				t.Errorf("an honest image gives log lines:\n%s", s.log())
			}
		})
	}
}

func TestExt4TellsBadInput(t *testing.T) {
	image := ext4Image(t, "ext4")
	broken := bytes.Clone(image)
	binary.LittleEndian.PutUint32(broken[1024+40:], 0) // no inodes in a group
	s := newSession(t, map[string]any{"Image": string(image), "Broken": string(broken), "Short": "x"})
	s.rows(`LET At(C, X) = pathspec(DelegateAccessor='data', DelegatePath=C, Path=X)`)
	s.want(`SELECT read_file(filename=At(C=Image, X='/none'), accessor='raw_ext4') AS A, read_file(filename=At(C=Image, X='/small.txt/x'), accessor='raw_ext4') AS B,
	   read_file(filename=At(C=Image, X='/dir'), accessor='raw_ext4') AS C, read_file(filename=At(C=Broken, X='/dir'), accessor='raw_ext4') AS D,
	   read_file(filename=At(C=Short, X='/dir'), accessor='raw_ext4') AS E, read_file(filename='/x', accessor='raw_ext4') AS F FROM scope()`,
		`{"A":"","B":"","C":"","D":"","E":"","F":""}`)
	for _, line := range []string{
		"open /none: file does not exist", "open /small.txt/x: file does not exist", "open /dir: not a regular file",
		"damaged file system: its superblock", "not an ext2, ext3 or ext4 file system", "the image is missing",
	} {
		s.wantLog(line)
	}
	s.want(`SELECT * FROM stat(filename='/proc/version', accessor='ext4')`) // a mount of another kind
}

func FuzzExt4(f *testing.F) {
	for _, name := range []string{"ext4", "ext2", "inline", "meta"} {
		f.Add(name, uint32(1024+24), []byte{1})
		f.Add(name, uint32(0x8000), []byte("\xff\xff\xff\xff\x0a\xf3\x05\x00"))
	}
	images := map[string][]byte{}
	f.Fuzz(func(t *testing.T, name string, at uint32, change []byte) {
		switch name {
		case "ext4", "ext2", "inline", "meta":
		default:
			t.Skip("no such image")
		}
		if images[name] == nil {
			images[name] = ext4Image(t, name)
		}
		image := bytes.Clone(images[name])
		copy(image[int(at)%len(image):], change)
		file := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(file, image, 0o600); err != nil {
			t.Fatal(err)
		}
		s := newSession(t, map[string]any{"Image": file})
		err := s.each(t.Context(), `SELECT read_file(filename=OSPath, accessor='raw_ext4', length=500000) AS D
		   FROM glob(globs='**3', root=pathspec(DelegateAccessor='file', DelegatePath=Image, Path='/'), accessor='raw_ext4') WHERE Name =~ 'big|sparse|txt' LIMIT 50`,
			func(*vql.Dict) error { return nil })
		if err != nil || strings.Contains(s.log(), "PANIC") {
			t.Error(err, s.log())
		}
	})
}
