package client_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	"raptorpack/client"
	"raptorpack/proto/wirepb"
)

func openWriteback(t *testing.T, path, suffix string) *client.Writeback {
	t.Helper()
	w, err := client.OpenWriteback(path, suffix)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func table(version uint64) *wirepb.VQLEventTable {
	return &wirepb.VQLEventTable{Version: version, Event: []*wirepb.VQLCollectorArgs{{
		Query: []*wirepb.VQLRequest{{Name: "E", Vql: "SELECT * FROM clock()"}},
	}}}
}

func TestWritebackKeepsIdentityAndEventTable(t *testing.T) {
	for _, suffix := range []string{"", ".bak"} {
		path := filepath.Join(t.TempDir(), "writeback.yaml")
		first := openWriteback(t, path, suffix)
		if first.Identity().InstallTime.IsZero() {
			t.Fatal("no install time")
		}
		if err := first.SetEvents(table(7)); err != nil {
			t.Fatal(err)
		}
		if err := first.SetServerPEM([]byte("-----BEGIN CERTIFICATE-----\nabc\n-----END CERTIFICATE-----\n")); err != nil {
			t.Fatal(err)
		}
		again := openWriteback(t, path, suffix)
		if again.Identity().ID != first.Identity().ID || !again.Identity().InstallTime.Equal(first.Identity().InstallTime) {
			t.Fatalf("suffix %q: identity changed", suffix)
		}
		if !proto.Equal(again.Events(), table(7)) {
			t.Fatalf("suffix %q: event table is %v", suffix, again.Events())
		}
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Fatalf("mode %v, %v", info.Mode(), err)
		}
	}
}

func TestWritebackKeepsKeysItDoesNotKnow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "writeback.yaml")
	openWriteback(t, path, "")
	text, _ := os.ReadFile(path)
	text = append(text, "checkpoints:\n- flow_id: F.1\n  path: /x\nhunt_last_timestamp: 12\n"...)
	os.WriteFile(path, text, 0o600)
	if err := openWriteback(t, path, "").SetEvents(table(1)); err != nil {
		t.Fatal(err)
	}
	text, _ = os.ReadFile(path)
	for _, kept := range []string{"flow_id: F.1", "hunt_last_timestamp: 12"} {
		if !strings.Contains(string(text), kept) {
			t.Fatalf("%s is gone:\n%s", kept, text)
		}
	}
}

func TestEitherLevelRestoresTheIdentity(t *testing.T) {
	path := filepath.Join(t.TempDir(), "writeback.yaml")
	first := openWriteback(t, path, ".bak")
	if err := first.SetEvents(table(3)); err != nil {
		t.Fatal(err)
	}
	for name, harm := range map[string]func(){
		"main lost":       func() { os.Remove(path) },
		"main garbage":    func() { os.WriteFile(path, []byte("\x00\x01 garbage"), 0o600) },
		"main empty":      func() { os.WriteFile(path, nil, 0o600) },
		"level 2 lost":    func() { os.Remove(path + ".bak") },
		"level 2 garbage": func() { os.WriteFile(path+".bak", []byte("{"), 0o600) },
	} {
		harm()
		if again := openWriteback(t, path, ".bak"); again.Identity().ID != first.Identity().ID {
			t.Fatalf("%s: a new identity", name)
		}
	}
}

func TestGarbageWritebackIsAnErrorNotANewIdentity(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "whole.yaml")
	openWriteback(t, whole, "")
	good, _ := os.ReadFile(whole)
	cases := map[string][]byte{
		"empty":     {},
		"binary":    {0, 1, 2, 255},
		"a list":    []byte("- a\n- b\n"),
		"no key":    []byte("install_time: 12\n"),
		"half":      good[:len(good)/2],
		"wrong key": []byte("private_key: |\n  -----BEGIN RSA PRIVATE KEY-----\n  AAAA\n  -----END RSA PRIVATE KEY-----\n"),
	}
	for name, text := range cases {
		path := filepath.Join(t.TempDir(), "writeback.yaml")
		os.WriteFile(path, text, 0o600)
		if _, err := client.OpenWriteback(path, ""); !errors.Is(err, client.ErrWriteback) {
			t.Fatalf("%s: %v", name, err)
		}
		if after, _ := os.ReadFile(path); !bytes.Equal(after, text) {
			t.Fatalf("%s: the file was changed", name)
		}
	}
	folder := filepath.Join(t.TempDir(), "folder")
	os.Mkdir(folder, 0o700)
	if _, err := client.OpenWriteback(folder, ""); !errors.Is(err, client.ErrWriteback) {
		t.Fatal(err)
	}
}

func TestWritebackOfTheStockAgentIsTakenOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "writeback.yaml")
	openWriteback(t, path, "")
	text, _ := os.ReadFile(path)
	text = append(text, "event_queries:\n  event:\n  - Query:\n    - VQL: SELECT 1\n  version: 99\n"...)
	os.WriteFile(path, text, 0o600)
	if got := openWriteback(t, path, "").Events(); got.GetVersion() != 0 || len(got.GetEvent()) != 0 {
		t.Fatalf("foreign table was read as %v", got)
	}
}

func FuzzWriteback(f *testing.F) {
	path := filepath.Join(f.TempDir(), "w")
	if _, err := client.OpenWriteback(path, ""); err != nil {
		f.Fatal(err)
	}
	text, _ := os.ReadFile(path)
	f.Add(text)
	f.Add([]byte("private_key: &a [*a]"))
	f.Add([]byte("? {}\n: x"))
	f.Fuzz(func(t *testing.T, text []byte) {
		identity, err := client.ReadIdentity(text)
		if err != nil {
			if !errors.Is(err, client.ErrWriteback) {
				t.Fatalf("%v is not ErrWriteback", err)
			}
			return
		}
		if identity.Key.N == nil || identity.ID.IsZero() {
			t.Fatal("identity without a key")
		}
	})
}
