package collections_test

import (
	"archive/zip"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"testing"

	"raptorpack/clients"
	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/archive"
)

func (w *world) importer() *collections.Importer {
	return collections.NewImporter(collections.ImporterOptions{
		Writer: w.committer, Incarnation: "n1-1", Store: w.store, Flows: w.flows, Clients: w.clients, Forget: w.committer.Forget, Scratch: w.t.TempDir(),
	})
}

// bring imports a zip and records it.
func (w *world) bring(data []byte, wish collections.Wish) (*collections.Imported, error) {
	w.t.Helper()
	in, err := w.importer().Import(w.t.Context(), wish, bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	m, err := w.clients.PlanAdd(in.Arrival.Org, in.Arrival.Client)
	w.apply(m, err)
	m, err = flows.PlanImport(in.Arrival)
	must(w.t, err)
	return in, w.ledger.Propose(m)
}

func TestAFlowComesBackRowByRow(t *testing.T) {
	w := newWorld(t)
	key := w.flow()
	before := members(t, w.zip(key, "", collections.ExportOptions{}), "")
	data := w.zip(key, "secret", collections.ExportOptions{})
	other := newWorld(t)
	in, err := other.bring(data, collections.Wish{Password: "secret", Creator: "ada"})
	must(t, err)
	if in.Arrival.Client != ids.ClientOfHost("WEB-1") {
		t.Errorf("client is %s", in.Arrival.Client)
	}
	f, err := other.flows.Flow(in.Arrival.Key)
	must(t, err)
	if f.State != flows.Completed || f.Rows() != 3 || f.Uploads.Len() != 2 || f.Totals.Logs != 1 || f.Spec.Origin.Session != key.Flow.String() {
		t.Errorf("flow is %+v, origin %+v", f, f.Spec.Origin)
	}
	if f.CPU != (flows.CPU{Used: 7, Told: true}) {
		t.Errorf("processor time %+v", f.CPU)
	}
	after := members(t, other.zip(in.Arrival.Key, "", collections.ExportOptions{}), "")
	for _, name := range []string{"uploads.jsonl", "flow.json", "client_info.json", "manifest.json"} { // they say whose and when
		delete(before, name)
		delete(after, name)
	}
	if !maps.Equal(before, after) {
		t.Errorf("came back as %v, was %v", slices.Sorted(maps.Keys(after)), slices.Sorted(maps.Keys(before)))
	}
	list, err := other.flows.Uploads(t.Context(), in.Arrival.Key)
	must(t, err)
	if len(list) != 2 || !list[1].Sparse || list[1].Size != 1<<20 || list[0].Source != "/etc/passwd" {
		t.Errorf("uploads are %+v", list)
	}
}

func TestAZipIsTakenOnce(t *testing.T) {
	w := newWorld(t)
	data := w.zip(w.flow(), "", collections.ExportOptions{})
	first, err := w.bring(data, collections.Wish{Client: w.one.String()})
	must(t, err)
	var known *collections.KnownError
	if _, err := w.bring(data, collections.Wish{Client: w.one.String()}); !errors.As(err, &known) || known.Flow.Flow != first.Arrival.Flow {
		t.Fatalf("a second time: %v", err)
	}
	// Two at the same time: the ledger takes one.
	second := first.Arrival
	second.Flow = w.start().Flow
	second.Flow = ids.NewFlow(second.Started)
	m, err := flows.PlanImport(second)
	must(t, err)
	if err := w.ledger.Propose(m); !errors.Is(err, flows.ErrExists) {
		t.Errorf("recorded twice: %v", err)
	}
	// A flow that was deleted may come again.
	w.apply(w.flows.PlanDelete(first.Arrival.Key, "ada"))
	again, err := w.bring(data, collections.Wish{Client: w.one.String()})
	must(t, err)
	if again.Arrival.Flow == first.Arrival.Flow {
		t.Error("a flow id was used twice")
	}
}

func TestImportedStateSurvivesASnapshot(t *testing.T) {
	w := newWorld(t)
	in, err := w.bring(w.zip(w.flow(), "", collections.ExportOptions{}), collections.Wish{Hostname: "other"})
	must(t, err)
	var image, again bytes.Buffer
	_, err = w.flows.Table.View().WriteTo(&image)
	must(t, err)
	other := newWorld(t)
	must(t, other.flows.Table.Restore(bytes.NewReader(image.Bytes())))
	_, err = other.flows.Table.View().WriteTo(&again)
	must(t, err)
	f, err := other.flows.Flow(in.Arrival.Key)
	if err != nil || !bytes.Equal(image.Bytes(), again.Bytes()) || f.Spec.Origin.SHA256 != in.Arrival.Origin.SHA256 || f.Spec.Origin.Hostname != "other" {
		t.Errorf("restored: %v", err)
	}
}

func TestAClientWithoutAnAgentHasNoKey(t *testing.T) {
	w := newWorld(t)
	silent := ids.ClientOfHost("lab")
	for range 2 {
		m, err := w.clients.PlanAdd(ids.RootOrg, silent)
		w.apply(m, err)
	}
	if _, err := w.clients.Key(ids.RootOrg, silent); err == nil {
		t.Error("it has a key")
	}
	if _, err := w.clients.Lookup(ids.RootOrg, silent); err != nil || w.clients.Count(ids.RootOrg) != 2 {
		t.Errorf("%v, %d clients", err, w.clients.Count(ids.RootOrg))
	}
	w.apply(w.clients.PlanInfo(ids.RootOrg, silent, []byte(`{"Hostname":"lab"}`), ids.Flow{}, nil))
}

// stock is a container as a stock offline collector makes one.
func stock(t testing.TB, files map[string]string) []byte {
	t.Helper()
	var out bytes.Buffer
	z := zip.NewWriter(&out)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		f, err := z.Create(name)
		must(t, err)
		_, err = io.WriteString(f, files[name])
		must(t, err)
	}
	must(t, z.Close())
	return out.Bytes()
}

func stockFiles() map[string]string {
	return map[string]string{
		"client_info.json":                 `{"Hostname":"Lab-7","OS":"windows"}`,
		"collection_context.json":          `{"session_id":"F.ABC","create_time":"1700000000000000","state":"FINISHED","request":{"artifacts":["Windows.Test"],"specs":[{"artifact":"Windows.Test","parameters":{"env":[{"key":"Glob","value":"*"}]}}]}}`,
		"results/Windows.Test.json":        `{"a":1}` + "\n" + `{"a":2}` + "\n",
		"results/Windows.Test%2FMore.json": `{"b":"x"}`,
		"results/Windows.Test.csv":         "a\n1\n2\n",
		"log.json":                         `{"client_time":1,"level":"INFO","message":"hi"}` + "\n",
		"uploads.json": `{"vfs_path":"uploads/auto/C%3A/a.txt","_Components":["uploads","auto","C:","a.txt"],"file_size":5,"uploaded_size":5}` + "\n" +
			`{"vfs_path":"uploads/ntfs/big","_Components":["uploads","ntfs","big"],"file_size":100,"uploaded_size":4}` + "\n" +
			`{"vfs_path":"uploads/ntfs/big.idx","Type":"idx","_Components":["uploads","ntfs","big.idx"]}` + "\n" +
			`{"vfs_path":"uploads/auto/gone","_Components":["uploads","auto","gone"],"file_size":3}` + "\n",
		"uploads/auto/C%3A/a.txt": "hello", "uploads/ntfs/big": "tail",
		"uploads/ntfs/big.idx": `{"ranges":[{"file_offset":0,"original_offset":0,"file_length":0,"length":96},{"file_offset":0,"original_offset":96,"file_length":4,"length":4}]}`,
		"odd.bin":              "?",
	}
}

func TestStockContainersAreRead(t *testing.T) {
	w := newWorld(t)
	in, err := w.bring(stock(t, stockFiles()), collections.Wish{Client: "auto"})
	must(t, err)
	if in.Arrival.Client != ids.ClientOfHost("lab-7") || len(in.Skipped) != 1 || len(in.Problems) != 1 {
		t.Errorf("client %s, skipped %v, problems %v", in.Arrival.Client, in.Skipped, in.Problems)
	}
	got := members(t, w.zip(in.Arrival.Key, "", collections.ExportOptions{Expand: true}), "")
	want := map[string]string{
		"results/Windows.Test.jsonl": `{"a":1}` + "\n" + `{"a":2}` + "\n", "results/Windows.Test/More.jsonl": `{"b":"x"}` + "\n",
		"uploads/auto/C%3A/a.txt": "hello", "uploads/ntfs/big": strings.Repeat("\x00", 96) + "tail",
		"logs.jsonl": `{"client_time":1,"level":"INFO","message":"hi"}` + "\n",
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s is %q, expected %q", name, got[name], text)
		}
	}
	f, err := w.flows.Flow(in.Arrival.Key)
	must(t, err)
	if f.Spec.Artifacts[0].Parameters[0] != (flows.Parameter{Name: "Glob", Value: "*"}) || f.Spec.Origin.Created.Unix() != 1700000000 || f.State != flows.Completed {
		t.Errorf("flow is %s, %+v", f.State, f.Spec)
	}
}

// rezip makes a zip anew, with some files other than they were.
func rezip(t testing.TB, data []byte, edit func(map[string]string)) []byte {
	t.Helper()
	files := members(t, data, "")
	edit(files)
	return stock(t, files)
}

func TestUnsoundZipsAreRefusedWhole(t *testing.T) {
	w := newWorld(t)
	data := w.zip(w.flow(), "", collections.ExportOptions{})
	sealed := w.zip(w.flow(), "secret", collections.ExportOptions{})
	const result = "results/Linux.Test/Files.jsonl"
	bad := map[string][]byte{
		"no zip":        []byte("hello"),
		"truncated":     data[:len(data)-1],
		"other bytes":   rezip(t, data, func(f map[string]string) { f[result] += "{}\n" }),
		"one less":      rezip(t, data, func(f map[string]string) { delete(f, result) }),
		"one more":      rezip(t, data, func(f map[string]string) { f["more"] = "x" }),
		"no record":     rezip(t, data, func(f map[string]string) { f["manifest.json"] = `{"version":1,"kind":"collection"}`; clear(f) }),
		"other version": rezip(t, data, func(f map[string]string) { f["manifest.json"] = `{"version":9,"kind":"collection"}` }),
		"csv only":      w.zip(w.flow(), "", collections.ExportOptions{Format: container.FormatCSVOnly}),
		"password":      sealed,
		"no rows":       stock(t, map[string]string{"results/A.json": "[1]\n", "client_info.json": `{"Hostname":"h"}`}),
		"no line":       stock(t, map[string]string{"results/A.json": "{\"a\":", "client_info.json": `{"Hostname":"h"}`}),
		"leaves":        stock(t, map[string]string{"results/A.json": "", "../../x": "y"}),
		"a hunt":        stock(t, map[string]string{"hunt.json": "{}", "manifest.json": "{}"}),
		"a bad index": func() []byte {
			f := stockFiles()
			f["uploads/ntfs/big.idx"] = `{"ranges":[{"file_offset":0,"original_offset":-5,"file_length":4,"length":4}]}`
			return stock(t, f)
		}(),
	}
	flowsBefore := len(w.flows.List(ids.RootOrg, w.one, ids.Flow{}, 0))
	for what, zipped := range bad {
		in, err := w.bring(zipped, collections.Wish{Client: w.one.String()})
		if err == nil {
			t.Errorf("%s: taken as %+v", what, in.Arrival)
		}
	}
	if n := len(w.flows.List(ids.RootOrg, w.one, ids.Flow{}, 0)); n != flowsBefore {
		t.Errorf("%d flows, were %d", n, flowsBefore)
	}
	if _, err := w.bring(bad["a hunt"], collections.Wish{}); !errors.Is(err, container.ErrHunt) {
		t.Errorf("a hunt: %v", err)
	}
	if _, err := w.bring(sealed, collections.Wish{Password: "x"}); !errors.Is(err, archive.ErrPassword) && !errors.Is(err, container.ErrUnsound) {
		t.Errorf("wrong password: %v", err)
	}
	if _, err := w.bring(data, collections.Wish{Client: "C.0000000000000000"}); !errors.Is(err, clients.ErrUnknownClient) {
		t.Errorf("unknown client: %v", err)
	}
	if _, err := w.bring(stock(t, map[string]string{"results/A.json": ""}), collections.Wish{}); !errors.Is(err, collections.ErrInvalid) {
		t.Errorf("no host: %v", err)
	}
}

func TestStrangersNamesStayWhereTheyBelong(t *testing.T) {
	w := newWorld(t)
	lines := ""
	for i, parts := range [][]string{{"..", "..", "etc"}, {"/abs"}, {"nul\x00"}, {}} {
		text, err := json.Marshal(parts)
		must(t, err)
		lines += fmt.Sprintf(`{"vfs_path":"uploads/u%d","_accessor":"../up","_client_components":%s,"file_size":1}`, i, text) + "\n"
	}
	in, err := w.bring(stock(t, map[string]string{
		"client_info.json": `{"Hostname":"h"}`, "uploads.json": lines, "uploads/u0": "x", "uploads/u1": "x", "uploads/u2": "x", "uploads/u3": "x",
		"results/..%2F..%2Fx.json": `{"ClientId":"C.1111111111111111","_ts":5}` + "\n",
	}), collections.Wish{})
	must(t, err)
	list, err := w.flows.Uploads(t.Context(), in.Arrival.Key)
	must(t, err)
	dir := flows.Dirs(in.Arrival.Key)[1] + "/"
	for _, u := range list {
		if !strings.HasPrefix(u.StoredPath, dir) || !archive.SafePath(u.StoredPath) {
			t.Errorf("stored at %q", u.StoredPath)
		}
	}
	if len(list) != 4 {
		t.Errorf("%d uploads", len(list))
	}
	page, err := w.flows.Results(t.Context(), in.Arrival.Key, "../../x", flows.Page{})
	must(t, err)
	if got := string(page.Rows[0].Line); got != `{"client_ClientId":"C.1111111111111111","client__ts":5}` {
		t.Errorf("row is %s", got)
	}
}

func FuzzImport(f *testing.F) {
	w := newWorld(f)
	f.Add(stock(f, stockFiles()))
	f.Add(w.zip(w.flow(), "", collections.ExportOptions{}))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := container.Open(t.Context(), bytes.NewReader(data), int64(len(data)), "p")
		if err != nil {
			return
		}
		for _, result := range r.Results {
			_ = r.Lines(t.Context(), result.Member, func([]byte) error { return nil })
		}
		_ = r.Logs(t.Context(), func([]byte) error { return nil })
		_ = r.Uploads(t.Context(), func(u *container.Upload) error {
			if u.Member != "" && !archive.SafePath(u.Member) && r.Stock {
				t.Fatalf("member %q", u.Member)
			}
			return nil
		})
	})
}
