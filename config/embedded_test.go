package config_test

import (
	"bytes"
	"errors"
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

func repacked(t testing.TB, program, text, zip []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := config.Repack(&out, bytes.NewReader(program), int64(len(program)), text, zip); err != nil {
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
	once := repacked(t, program, client, []byte("zip"))
	other := append(bytes.Clone(client), "# another\n"...)
	twice := repacked(t, once, other, nil)
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

func TestDamageOfWhatIsPackedIsSeen(t *testing.T) {
	client, _ := clientFile(t)
	program := []byte("a program")
	good := repacked(t, program, client, []byte("zip"))
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
	f.Add(repacked(f, []byte("p"), client, []byte("zip")))
	f.Add([]byte("raptorpack tail\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if e, err := embedded(data); err == nil && e != nil && e.Base+int64(len(e.Config))+e.Zip+64 != int64(len(data)) {
			t.Fatalf("%+v of %d", e, len(data))
		}
	})
}
