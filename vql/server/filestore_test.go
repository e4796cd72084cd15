package server_test

import (
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/inventory"
)

func TestFileStoreNamesFilesOfTheStore(t *testing.T) {
	w := newWorld(t)
	key := w.flowWithUpload()
	s := w.admin()
	got := s.rows(`SELECT file_store(path=vfs_path) AS P FROM uploads(client_id='%s', flow_id='%s')`, key.Client, key.Flow)
	if len(got) != 1 || !strings.HasPrefix(got[0], `{"P":"`+w.store.Root()+`/clients/`) {
		t.Fatalf("%v\n%s", got, s.log())
	}
	data, err := os.ReadFile(strings.TrimSuffix(strings.TrimPrefix(got[0], `{"P":"`), `"}`))
	if err != nil || string(data) != "hello" {
		t.Errorf("%q, %v", data, err)
	}
	for _, bad := range []string{"''", "'/ledger/x'", "'/clients/../ledger'", "'../../etc/passwd'", "NULL"} {
		s.want(`SELECT file_store(path=`+bad+`) AS P FROM scope()`, `{"P":null}`)
	}
	w.as("ann", "analyst").want(`SELECT file_store(path='/clients') AS P FROM scope()`, `{"P":null}`)
}

// aged puts a file on the store that was written two days ago.
func (w *world) aged(name string) string {
	w.t.Helper()
	full := filepath.Join(w.store.Root(), name)
	must(w.t, os.MkdirAll(filepath.Dir(full), 0o755))
	must(w.t, os.WriteFile(full, []byte("x"), 0o644))
	old := time.Now().Add(-48 * time.Hour)
	must(w.t, os.Chtimes(full, old, old))
	return full
}

func TestFileStoreDeletesOnlyWhatNobodyOwns(t *testing.T) {
	w := newWorld(t)
	h := w.host("ada")
	h.Tools = inventory.New(inventory.Options{})
	s := w.session(roles{"administrator"}, nil, h)
	key := w.flowWithUpload()
	uploads, err := w.flows.Uploads(t.Context(), key)
	must(t, err)
	in := func(name string) string { return path.Join(filestore.ClientDir(ids.RootOrg, w.one), name) }
	day := func(ago int) string {
		return "events/Old.Artifact/" + time.Now().UTC().AddDate(0, 0, ago).Format(time.DateOnly) + "/n9-1.jsonl.gz"
	}
	w.watchLogins()
	for name, gone := range map[string]bool{
		"public/0123456789abcdef":                                 true,
		"public/deeper/0123":                                      false,
		in("uploads/F.AAAAAAAAAAAAA/auto/x"):                      true,
		in("uploads/.tmp-1"):                                      true,
		in("collections/F.AAAAAAAAAAAAA/results/A/n1-1.jsonl.gz"): false,
		in("key"):                         false,
		"hunts/H.AAAAAAAAAAAAA/hunt.json": false,
		"events/Old.Artifact/2020-01-01/n1-1.jsonl.gz":           true,
		"eventlogs/Old.Artifact/Source/2020-01-01/n1-1.jsonl.gz": true,
		day(0):                  false,
		day(-1):                 false,
		"events/Old.Artifact/x": false,
		"events/Linux.Test.Logins/SSH/2020-01-01/n1-1.jsonl.gz": false,
		uploads[0].StoredPath: false,
	} {
		full := w.aged(name)
		s.want(`SELECT file_store_delete(path='/`+name+`') AS P FROM scope()`, `{"P":null}`)
		if _, err := os.Stat(full); (err != nil) != gone {
			t.Errorf("%s: gone is to be %v: %v\n%s", name, gone, err, s.log())
		}
	}
	s.wantLog("belongs to something that is still there")
	must(t, w.store.ReplaceFile(t.Context(), "public/fresh", []byte("x")))
	s.want(`SELECT file_store_delete(path='public/fresh') AS P FROM scope()`, `{"P":null}`)
	s.wantLog("was written less than")
	full := w.aged("public/other")
	w.as("ann", "analyst").want(`SELECT file_store_delete(path='public/other') AS P FROM scope()`, `{"P":null}`)
	if _, err := os.Stat(full); err != nil {
		t.Error("somebody without the permission deleted a file")
	}
	if !slices.ContainsFunc(w.audit, func(line string) bool { return strings.HasPrefix(line, "ada filestore.delete public/0123456789abcdef") }) {
		t.Errorf("audit %q", w.audit)
	}
}
