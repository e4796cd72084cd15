package pool_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"raptorpack/ids"
	"raptorpack/pool"
)

func load(t *testing.T, path string, count int) []ids.Client {
	t.Helper()
	identities, err := pool.LoadIdentities(t.Context(), path, count)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]ids.Client, count)
	for n := range out {
		identity, err := identities.At(n)
		if err != nil {
			t.Fatal(err)
		}
		if identity.Key.N.BitLen() != 2048 {
			t.Errorf("identity %d has %d bits", n, identity.Key.N.BitLen())
		}
		out[n] = identity.ID
	}
	return out
}

func TestIdentitiesAreDistinctAndStayWhenTheFileGrows(t *testing.T) {
	path := filepath.Join(t.TempDir(), "pool.keys")
	few := load(t, path, 3)
	many := load(t, path, 6)
	seen := map[ids.Client]bool{}
	for n, id := range many {
		if n < len(few) && few[n] != id {
			t.Errorf("identity %d was %v and is %v", n, few[n], id)
		}
		if seen[id] {
			t.Errorf("identity %d is there twice", n)
		}
		seen[id] = true
	}
	again := load(t, path, 6)
	for n := range many {
		if many[n] != again[n] {
			t.Errorf("identity %d changed from %v to %v", n, many[n], again[n])
		}
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("file: %v, %v", info, err)
	}
}

func TestForeignFileIsNotTakenForIdentities(t *testing.T) {
	for name, text := range map[string]string{
		"yaml": "Client:\n  nonce: x\n", "short prime": "ff\n", "install time": "install yesterday\n",
	} {
		path := filepath.Join(t.TempDir(), "pool.keys")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := pool.LoadIdentities(t.Context(), path, 1); !errors.Is(err, pool.ErrIdentities) {
			t.Errorf("%s: %v", name, err)
		}
		if kept, err := os.ReadFile(path); err != nil || string(kept) != text {
			t.Errorf("%s: the file was changed: %q, %v", name, kept, err)
		}
	}
}
