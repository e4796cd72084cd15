package archive_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	foreign "github.com/alexmullins/zip"

	"raptorpack/internal/archive"
)

// made writes members into a zip, sealed if there is a password.
func made(t testing.TB, password string, members map[string][]byte) []byte {
	t.Helper()
	var out bytes.Buffer
	err := archive.Seal(&out, password, func(w io.Writer) error {
		z := archive.NewWriter(w)
		for _, name := range sorted(members) {
			if _, err := z.Member(name, time.Unix(1700000000, 0), func(w io.Writer) error {
				_, err := w.Write(members[name])
				return err
			}); err != nil {
				return err
			}
		}
		return z.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func sorted(members map[string][]byte) (names []string) {
	for name := range members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func opened(data []byte, password string, l archive.Limits) (*archive.Reader, error) {
	return archive.Open(context.Background(), bytes.NewReader(data), int64(len(data)), password, l)
}

// samples are members around the sizes where buffers and blocks end.
func samples() map[string][]byte {
	out := map[string][]byte{"empty": {}, "dir/text.txt": []byte(strings.Repeat("hello, world\n", 5000))}
	for _, n := range []int{1, 15, 16, 17, 32<<10 - 1, 32 << 10, 32<<10 + 1, 1 << 20} {
		data := make([]byte, n)
		rand.Read(data)
		out[fmt.Sprint("random/", n)] = data
	}
	return out
}

func TestWhatWasWrittenIsRead(t *testing.T) {
	for _, password := range []string{"", "secret", "пароль 🔑"} {
		want := samples()
		r, err := opened(made(t, password, want), password, archive.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if names := r.Names(); !slices.Equal(names, sorted(want)) {
			t.Errorf("members %v", names)
		}
		for name, data := range want {
			in, err := r.Open(name)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(in)
			if err != nil || !bytes.Equal(got, data) {
				t.Errorf("password %q: %s: %d bytes, %v", password, name, len(got), err)
			}
		}
	}
}

func TestAnotherReaderOpensSealedZips(t *testing.T) {
	want := samples()
	data := made(t, "secret", want)
	outer, err := foreign.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	if len(outer.File) != 1 || outer.File[0].Name != archive.SealedName || !outer.File[0].IsEncrypted() {
		t.Fatalf("outer zip has %v", outer.File)
	}
	outer.File[0].SetPassword("secret")
	in, err := outer.File[0].Open()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := io.ReadAll(in)
	if err != nil {
		t.Fatal(err)
	}
	z, err := zip.NewReader(bytes.NewReader(inner), int64(len(inner)))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(in); err != nil || !bytes.Equal(got, want[f.Name]) {
			t.Errorf("%s: %d bytes, %v", f.Name, len(got), err)
		}
	}
}

func TestWeReadWhatAnotherWriterEncrypted(t *testing.T) {
	var out bytes.Buffer
	z := foreign.NewWriter(&out)
	text := strings.Repeat("deflated and encrypted\n", 1000)
	w, err := z.Encrypt("a/b.txt", "secret")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := opened(out.Bytes(), "secret", archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := r.Open("a/b.txt")
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(in); err != nil || string(got) != text {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestUnzipAgrees(t *testing.T) {
	tool, err := exec.LookPath("unzip")
	if err != nil {
		t.Skip("no unzip here")
	}
	name := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(name, made(t, "", samples()), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(tool, "-t", name).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

func TestWrongPasswordIsRefused(t *testing.T) {
	data := made(t, "secret", samples())
	for _, password := range []string{"", "Secret", "secret "} {
		if _, err := opened(data, password, archive.Limits{}); !errors.Is(err, archive.ErrPassword) && !errors.Is(err, archive.ErrUnsound) {
			t.Errorf("password %q: %v", password, err)
		}
	}
	if _, err := archive.NewSealed(io.Discard, "", time.Now(), nil); !errors.Is(err, archive.ErrPassword) {
		t.Errorf("sealed without a password: %v", err)
	}
}

func TestChangedBytesOfASealedZipAreSeen(t *testing.T) {
	data := made(t, "secret", map[string][]byte{"a": []byte("bytes that must stay as they are")})
	start := bytes.Index(data, []byte(archive.SealedName)) + len(archive.SealedName) + 30
	for at := start; at < start+60; at++ {
		bad := bytes.Clone(data)
		bad[at] ^= 0x40
		if _, err := opened(bad, "secret", archive.Limits{}); err == nil {
			t.Errorf("byte %d is another one, and nobody noticed", at)
		}
	}
}

// hostile writes a zip as its author likes, past our own writer.
func hostile(t *testing.T, names ...string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range names {
		w, err := z.Create(name)
		if err == nil && !strings.HasSuffix(name, "/") {
			_, err = io.WriteString(w, "x")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestUnsafeAndEqualNamesRefuseTheWhole(t *testing.T) {
	for _, names := range [][]string{
		{"../a"},
		{"/etc/passwd"},
		{"a/../../b"},
		{`a\..\b`},
		{"C:/windows"},
		{"a//b"},
		{"./a"},
		{"nul\x00l"},
		{"../"},
		{"a", "a"},
	} {
		if _, err := opened(hostile(t, append(names, "good")...), "", archive.Limits{}); !errors.Is(err, archive.ErrUnsound) {
			t.Errorf("%q: %v", names, err)
		}
	}
	z := archive.NewWriter(io.Discard)
	if _, err := z.Member("../a", time.Now(), func(io.Writer) error { return nil }); !errors.Is(err, archive.ErrUnsound) {
		t.Errorf("our writer makes unsafe names: %v", err)
	}
}

func TestBombsAreBounded(t *testing.T) {
	zeros := made(t, "", map[string][]byte{"a": make([]byte, 10<<20), "b": make([]byte, 10<<20)})
	if len(zeros) > 200<<10 {
		t.Fatalf("%d bytes", len(zeros))
	}
	if _, err := opened(zeros, "", archive.Limits{Bytes: 15 << 20}); !errors.Is(err, archive.ErrUnsound) {
		t.Errorf("20 MiB where 15 may be: %v", err)
	}
	if _, err := opened(zeros, "", archive.Limits{Members: 1}); !errors.Is(err, archive.ErrUnsound) {
		t.Errorf("two members where one may be: %v", err)
	}
	// The directory lies: it claims one byte of ten million.
	lie := bytes.Clone(zeros)
	at := bytes.LastIndex(lie, []byte("PK\x01\x02"))
	copy(lie[at+24:], []byte{1, 0, 0, 0})
	r, err := opened(lie, "", archive.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	in, err := r.Open("b")
	if err != nil {
		t.Fatal(err)
	}
	if n, err := io.Copy(io.Discard, in); !errors.Is(err, archive.ErrUnsound) || n > 1 {
		t.Errorf("%d bytes, %v", n, err)
	}
}

func TestTruncatedIsRefused(t *testing.T) {
	for _, password := range []string{"", "secret"} {
		data := made(t, password, map[string][]byte{"a": []byte("some bytes")})
		for n := range len(data) {
			if _, err := opened(data[:n], password, archive.Limits{}); err == nil {
				t.Errorf("the first %d of %d bytes are taken for a zip", n, len(data))
			}
		}
	}
}

func FuzzReader(f *testing.F) {
	for _, password := range []string{"", "p"} {
		f.Add(made(f, password, map[string][]byte{"a/b": []byte("text"), "c": bytes.Repeat([]byte("z"), 5000)}))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := opened(data, "p", archive.Limits{Bytes: 1 << 20, Members: 100})
		if err != nil {
			return
		}
		for _, name := range r.Names() {
			if !archive.SafePath(name) {
				t.Fatalf("unsafe name %q", name)
			}
			in, err := r.Open(name)
			if err != nil {
				continue
			}
			size, _ := r.Size(name)
			if n, err := io.Copy(io.Discard, in); n > size || err == nil && n != size {
				t.Fatalf("%s: %d bytes of %d, %v", name, n, size, err)
			}
		}
	})
}
