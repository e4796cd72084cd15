package config_test

import (
	"archive/zip"
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"raptorpack/config"
)

// clientFile is a deployment's file for clients, and the whole.
func clientFile(t testing.TB) (client, server []byte) {
	t.Helper()
	server, err := config.Generate(config.GenerateOptions{Now: time.Now(), Datastore: "/tmp/x"})
	if err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Parse("server.yaml", server, config.Options{})
	if err == nil {
		client, err = loaded.ClientFile()
	}
	if err != nil {
		t.Fatal(err)
	}
	return client, server
}

func packed(name, content string) config.Packed {
	return config.Packed{Name: name, Open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil }}
}

func repacked(t testing.TB, program, text []byte, files ...config.Packed) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := config.Repack(&out, bytes.NewReader(program), int64(len(program)), text, files); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func embedded(program []byte) (*config.Embedded, error) {
	return config.ReadEmbedded(bytes.NewReader(program), int64(len(program)))
}

func TestAProgramIsRepackedAgainAndAgain(t *testing.T) {
	client, server := clientFile(t)
	program := bytes.Repeat([]byte("program "), 1000)
	if e, err := embedded(program); e != nil || err != nil {
		t.Fatalf("nothing is packed: %v, %v", e, err)
	}
	once := repacked(t, program, client, packed("tool", "its bytes"))
	other := append(bytes.Clone(client), "# another\n"...)
	twice := repacked(t, once, other)
	e, err := embedded(twice)
	if err != nil || !bytes.Equal(e.Config, other) || e.Zip != 0 || e.Base != int64(len(program)) || !bytes.Equal(twice[:e.Base], program) {
		t.Fatalf("%+v, %v", e, err)
	}
	if _, err := config.Parse("packed", e.Config, config.Options{ClientOnly: true}); err != nil {
		t.Error(err)
	}
	for what, text := range map[string][]byte{"server's keys": server, "no file": []byte("hello: [")} {
		if err := config.Repack(&bytes.Buffer{}, bytes.NewReader(program), int64(len(program)), text, nil); err == nil {
			t.Errorf("%s: packed", what)
		}
	}
}

func TestFilesInAProgramAreAZipOfTheWhole(t *testing.T) {
	client, _ := clientFile(t)
	program := repacked(t, []byte("a program"), client, packed("a", "first"), packed("b.exe", "second"))
	z, err := zip.NewReader(bytes.NewReader(program), int64(len(program)))
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		got[f.Name] = string(text)
	}
	if len(got) != 2 || got["a"] != "first" || got["b.exe"] != "second" {
		t.Errorf("the zip holds %v", got)
	}
	for what, files := range map[string][]config.Packed{
		"the same name twice": {packed("a", "1"), packed("a", "2")},
		"a way out":           {packed("../a", "1")},
		"no name":             {packed("", "1")},
		"a file that is gone": {{Name: "a", Open: func() (io.ReadCloser, error) { return nil, io.ErrUnexpectedEOF }}},
	} {
		if err := config.Repack(io.Discard, bytes.NewReader(program), int64(len(program)), client, files); err == nil {
			t.Errorf("%s: packed", what)
		}
	}
}

func TestDamageOfWhatIsPackedIsSeen(t *testing.T) {
	client, _ := clientFile(t)
	program := []byte("a program")
	good := repacked(t, program, client, packed("tool", "its bytes"))
	for at := len(program); at < len(good); at += 7 {
		bad := bytes.Clone(good)
		bad[at] ^= 1
		if e, err := embedded(bad); err == nil && e != nil || err != nil && !errors.Is(err, config.ErrEmbedded) {
			t.Errorf("byte %d: %v, %v", at, e, err)
		}
	}
}

func FuzzReadEmbedded(f *testing.F) {
	client, _ := clientFile(f)
	f.Add(repacked(f, []byte("p"), client, packed("tool", "its bytes")))
	f.Add([]byte("raptorpack tail\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := embedded(data); err == nil && e != nil && e.Base+int64(len(e.Config))+e.Zip+64 != int64(len(data)) {
			t.Fatalf("%+v of %d", e, len(data))
		}
	})
}
