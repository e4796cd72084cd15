package hunts_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// abroad is another pack, which knows none of the clients, with a zip imported.
func abroad(t *testing.T, data []byte) (*rig, *hunts.Imported) {
	t.Helper()
	other := newRig(t, 0)
	in, err := hunts.Import(context.Background(), bytes.NewReader(data), int64(len(data)), hunts.ImportTarget{Writer: other.node("far-1")})
	other.check(err)
	m, err := other.PlanImport(hunts.Arrival{Imported: in, Creator: "eve", SHA256: strings.Repeat("ab", 32)}, noon)
	other.check(err)
	other.must(t)(m, nil)
	other.key = hunts.Key{Hunt: in.Hunt}
	return other, in
}

// An imported hunt is what it was, also in a snapshot, and nothing can be done to it
// but to delete it.
func TestImportedHuntIsPutAway(t *testing.T) {
	g := filled(t)
	was, err := g.Hunt(g.key)
	g.check(err)
	data, _ := g.zip(hunts.ZipOptions{})
	other, in := abroad(t, data)
	again, err := other.restored()
	other.check(err)
	for what, room := range map[string]*hunts.Room{"imported": other.Room, "restored": again.Room} {
		h, err := room.Hunt(other.key)
		if err != nil || h.State != hunts.Archived || h.Counts != was.Counts || h.Sums != was.Sums || h.Creator != "eve" ||
			!slices.Equal(h.Results, was.Results) || !room.Imported(other.key) || h.Description != was.Description {
			t.Fatalf("%s: %+v, %v, was %+v", what, h, err, was)
		}
		if o := h.Origin; o.Hunt != g.key.Hunt.String() || o.Creator != was.Creator || !o.Created.Equal(was.Created) || o.SHA256 == "" || o.Exported.IsZero() {
			t.Errorf("%s: origin %+v", what, o)
		}
	}
	for what, plan := range map[string]func() (*buspb.Mutation, error){
		"start":  func() (*buspb.Mutation, error) { return other.PlanStart(other.key, "eve", noon) },
		"stop":   func() (*buspb.Mutation, error) { return other.PlanStop(other.key, false, "eve", noon) },
		"cancel": func() (*buspb.Mutation, error) { return other.PlanStop(other.key, true, "eve", noon) },
		"edit":   func() (*buspb.Mutation, error) { return other.PlanEdit(other.key, hunts.Edit{}, "eve", noon) },
		"rerun":  func() (*buspb.Mutation, error) { return other.PlanRerun(other.key, nil, "eve", noon) },
		"add":    func() (*buspb.Mutation, error) { return other.PlanAdd(other.key, idsOf(1), "eve", noon) },
	} {
		if _, err := plan(); !errors.Is(err, hunts.ErrState) {
			t.Errorf("%s: %v", what, err)
		}
	}
	twice := hunts.Arrival{Imported: in, Creator: "eve", SHA256: strings.Repeat("ab", 32)}
	if _, err := other.PlanImport(twice, noon); !errors.Is(err, hunts.ErrExists) {
		t.Errorf("the same id again: %v", err)
	}
	lines, next, err := other.results.ClientsThere(context.Background(), other.key, "", 3)
	if err != nil || len(lines) != 3 || next == "" || lines[0].State != "pending" {
		t.Errorf("clients %+v, next %q, %v", lines, next, err)
	}
	rest, next, err := other.results.ClientsThere(context.Background(), other.key, next, 3)
	if err != nil || len(rest) != 1 || next != "" {
		t.Errorf("further clients %+v, next %q, %v", rest, next, err)
	}
	if _, _, err := g.results.ClientsThere(context.Background(), g.key, "", 3); !errors.Is(err, hunts.ErrNotFound) {
		t.Errorf("clients of a hunt that ran here: %v", err)
	}
}

// A plan of a stranger's word is refused where a wish would be.
func TestImportOfNonsenseIsNotPlanned(t *testing.T) {
	g := newRig(t, 0)
	for what, a := range map[string]hunts.Arrival{
		"no sum":            {Imported: &hunts.Imported{Origin: &hunts.HuntFile{}}},
		"a negative count":  {SHA256: strings.Repeat("ab", 32), Imported: &hunts.Imported{Origin: &hunts.HuntFile{Counts: map[string]int{"running": -1}}}},
		"no text":           {SHA256: strings.Repeat("ab", 32), Imported: &hunts.Imported{Origin: &hunts.HuntFile{Description: "\xff"}}},
		"a name of no text": {SHA256: strings.Repeat("ab", 32), Imported: &hunts.Imported{Origin: &hunts.HuntFile{Results: []string{"\xff"}}}},
	} {
		a.Imported.Hunt, a.Imported.Manifest = ids.NewHunt(noon), &hunts.Manifest{}
		if _, err := g.PlanImport(a, noon); !errors.Is(err, hunts.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// What was imported goes with its uploads, which no flow here accounts for; the same
// clients' own stay.
func TestDeletedImportLeavesNothing(t *testing.T) {
	g := filled(t)
	data, _ := g.zip(hunts.ZipOptions{})
	other, in := abroad(t, data)
	var there []string
	for _, of := range in.Uploaded {
		there = append(there, filestore.FlowUploadsDir(of.Org, of.Client, of.Flow))
	}
	there = append(there, filestore.HuntDir(other.key.Org, other.key.Hunt))
	for _, dir := range there {
		if _, err := os.Stat(filepath.Join(other.root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	other.must(t)(other.PlanDelete(other.key, "eve", noon))
	ctx, done := context.WithTimeout(context.Background(), time.Minute)
	defer done()
	other.check(hunts.NewManager(hunts.ManagerOptions{
		Room: other.Room, Flows: other.flows, Now: other.now, Connected: func(ids.Org, ids.Client) bool { return false },
		Propose: func(_ context.Context, m *buspb.Mutation) error {
			defer done() // a hunt without flows is forgotten at once
			return other.propose(m)
		},
	}).Run(ctx))
	if len(other.Deletions()) != 1 {
		t.Fatal("the hunt is not forgotten")
	}
	again, err := other.restored() // whoever removes it may have begun after
	other.check(err)
	other.check(again.RemoveTree(context.Background(), hunts.Files{Store: other.store, Reader: other.reader}, other.key))
	for _, dir := range there {
		if _, err := os.Stat(filepath.Join(other.root, dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", dir, err)
		}
	}
}

// An import that fails in the middle leaves nothing behind.
func TestFailedImportLeavesNothing(t *testing.T) {
	g := filled(t)
	data, _ := g.zip(hunts.ZipOptions{})
	bad := resealed(t, data, func(name, text string) string {
		if name == "uploads.jsonl" { // the last that is read: rows are there by then
			return strings.Replace(text, `"number":7`, `"number":-7`, 1)
		}
		return text
	})
	other := newRig(t, 0)
	node := other.node("far-1")
	importer := hunts.NewImporter(hunts.ImporterOptions{
		Writer: node, Forget: node.Forget, Scratch: t.TempDir(), Files: hunts.Files{Store: other.store, Reader: other.reader},
	})
	if in, _, err := importer.Import(context.Background(), ids.RootOrg, bytes.NewReader(bad)); !errors.Is(err, hunts.ErrBadArchive) {
		t.Fatal(in, err)
	}
	err := filepath.WalkDir(other.root, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Error(path, "is left")
		}
		return err
	})
	other.check(err)
	in, sum, err := importer.Import(context.Background(), ids.RootOrg, bytes.NewReader(data))
	want := sha256.Sum256(data)
	if err != nil || in.Rows != 13 || sum != hex.EncodeToString(want[:]) {
		t.Error(in, sum, err)
	}
	if _, _, err := importer.Import(context.Background(), ids.RootOrg, iotest.ErrReader(io.ErrUnexpectedEOF)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Error(err)
	}
}

// What was imported can be taken further, and back to where it came from.
func TestImportedHuntIsExportedAgain(t *testing.T) {
	g := filled(t)
	data, _ := g.zip(hunts.ZipOptions{})
	other, _ := abroad(t, data)
	again, m := other.zip(hunts.ZipOptions{})
	was, is := members(t, data), members(t, again)
	for _, name := range []string{"results/" + pslist + ".jsonl", "results/" + pslist + ".csv", "logs.jsonl", "uploads.about.jsonl"} {
		if was[name] != is[name] {
			t.Errorf("%s was %s, is %s", name, was[name], is[name])
		}
	}
	if strings.ReplaceAll(was["clients.csv"], g.key.Hunt.Flow(0).String(), other.key.Hunt.Flow(0).String()) != is["clients.csv"] {
		t.Errorf("clients were %s, are %s", was["clients.csv"], is["clients.csv"])
	}
	third := newRig(t, 0)
	if in, err := hunts.Import(context.Background(), bytes.NewReader(again), int64(len(again)), hunts.ImportTarget{Writer: third.node("c-1")}); err != nil || in.Rows != 13 || in.Uploads != 5 {
		t.Errorf("imported once more: %+v, %v", in, err)
	}
	if m.Counts["file"] != 5 || len(m.Problems) != 1 {
		t.Errorf("counts %v, problems %v", m.Counts, m.Problems)
	}
	back, err := hunts.Import(context.Background(), bytes.NewReader(data), int64(len(data)), hunts.ImportTarget{Writer: g.node("back-1")})
	g.check(err)
	if back.Uploads != 5 || back.Hunt == g.key.Hunt {
		t.Errorf("imported %+v", back)
	}
	if text, _ := g.export(hunts.ExportOptions{Format: hunts.JSONL}); text != was["results/"+pslist+".jsonl"] {
		t.Errorf("the hunt itself has changed: %s", text)
	}
}

func TestImportSkipsUploadsThatAreNotWhole(t *testing.T) {
	g := newRig(t, 1)
	g.numbers("a-1", 0, 0, 2)
	g.upload(0, 0, "hello", nil, "whole")
	g.store1("a-1", g.uploadSet(), flows.UploadName, 0, 1, g.row(0, `,"number":1,"stored_path":"nowhere","sha256":"00","stored_size":3`))
	data, _ := g.zip(hunts.ZipOptions{})
	_, in := abroad(t, data)
	if in.Uploads != 1 || len(in.Skipped) != 1 {
		t.Errorf("%d uploads, skipped %v", in.Uploads, in.Skipped)
	}
}

// resealed changes members of a zip and makes the manifest say so.
func resealed(t testing.TB, data []byte, change func(name, text string) string) []byte {
	t.Helper()
	all := members(t, data)
	var m hunts.Manifest
	if err := json.Unmarshal([]byte(all["manifest.json"]), &m); err != nil {
		t.Fatal(err)
	}
	for i := range m.Members {
		text := change(m.Members[i].Path, all[m.Members[i].Path])
		sum := sha256.Sum256([]byte(text))
		m.Members[i].Size, m.Members[i].SHA256 = int64(len(text)), hex.EncodeToString(sum[:])
	}
	return rezip(t, data, func(name, text string) []string {
		if name == "manifest.json" {
			text, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			return []string{string(text)}
		}
		return []string{change(name, text)}
	})
}

// A zip may have been made by anybody.
func TestImportRefusesWhatMakesNoSense(t *testing.T) {
	g := filled(t)
	data, _ := g.zip(hunts.ZipOptions{})
	rows := "results/" + pslist + ".jsonl"
	for what, c := range map[string]struct{ name, old, new string }{
		"a row of another client":  {rows, id(2).String(), id(3).String()},
		"a row that is none":       {rows, `"N":3`, `"N":`},
		"a line too many":          {rows, "{", "{}\n{"},
		"a line too few":           {"results/" + pslist + ".batches.jsonl", `"rows":10`, `"rows":11`},
		"negative rows":            {"results/" + pslist + ".batches.jsonl", `"rows":10`, `"rows":-1`},
		"numbers without end":      {"results/" + pslist + ".batches.jsonl", `"first":0`, `"first":9223372036854775807`},
		"no client":                {"results/" + pslist + ".batches.jsonl", id(2).String(), "../../x"},
		"a flow of another hunt":   {"results/" + pslist + ".batches.jsonl", g.key.Hunt.Flow(0).String(), "F.OTHER.H"},
		"no batches":               {"results/" + pslist + ".batches.jsonl", "{", "x"},
		"a result it has not":      {"hunt.json", `"results": [`, `"results": ["Other"], "others": [`},
		"a hunt without an id":     {"hunt.json", g.key.Hunt.String(), "../x"},
		"no hunt":                  {"hunt.json", "{", "x"},
		"an upload without number": {"uploads.jsonl", `"number":7`, `"number":-7`},
		"an upload of nobody":      {"uploads.jsonl", id(1).String(), "nobody!"},
		"a list that is none":      {"uploads.jsonl", "{", "x"},
		"an index that lies":       {g.uploadPath(2, "file/pagefile.sys.idx"), `"FileLength":6`, `"FileLength":7`},
		"a record of no client":    {"clients.jsonl", id(0).String(), "x y"},
	} {
		bad := resealed(t, data, func(name, text string) string {
			if name == c.name {
				changed := strings.Replace(text, c.old, c.new, 1)
				if changed == text {
					t.Fatalf("%s: nothing to change in %s", what, name)
				}
				return changed
			}
			return text
		})
		_, err := hunts.Import(context.Background(), bytes.NewReader(bad), int64(len(bad)), hunts.ImportTarget{Writer: g.node("bad-1")})
		if !errors.Is(err, hunts.ErrBadArchive) && !errors.Is(err, filestore.ErrBadIndex) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// keepsNothing is a writer for fuzzing.
type keepsNothing struct{}

func (keepsNothing) Submit(_ context.Context, c *filestore.Commit) error {
	for _, a := range c.Appends {
		if a.Extent.Client.IsZero() || a.Extent.Rows < 1 || a.Extent.FirstRow < 0 || int64(bytes.Count(a.Lines, []byte{'\n'})) != a.Extent.Rows {
			panic("a batch that no segment takes")
		}
	}
	return nil
}

func (keepsNothing) FinishUpload(context.Context, filestore.UploadFinish) (*filestore.StoredUpload, error) {
	return &filestore.StoredUpload{Path: "x", SHA256: "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}, nil
}

// small is what a zip of a hunt has at least, in its order.
var small = [][2]string{
	{"hunt.json", `{"hunt":"H.A1","creator":"ada","state":"stopped","results":["A"]}`},
	{"clients.jsonl", `{"ClientId":"C.0123456789abcdef","FlowId":"F.A1.H","State":"completed"}` + "\n"},
	{"results/A.jsonl", `{"ClientId":"C.0123456789abcdef","FlowId":"F.A1.H","x":1}` + "\n"},
	{"results/A.batches.jsonl", `{"client":"C.0123456789abcdef","flow":"F.A1.H","name":"A","first":0,"rows":1}` + "\n"},
	{"uploads.jsonl", `{"ClientId":"C.0123456789abcdef","FlowId":"F.A1.H","number":1,"accessor":"file","components":["a"],"stored_size":5,` +
		`"sha256":"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824","sparse":true,"member":"f"}` + "\n"},
	{"f", "hello"},
	{"f.idx", `{"ranges":[{"FileLength":5,"Length":5}]}`},
}

var smallKinds = map[string]string{
	"hunt.json": "hunt", "clients.jsonl": "clients", "results/A.jsonl": "rows", "results/A.batches.jsonl": "batches",
	"uploads.jsonl": "uploads", "f": "file", "f.idx": "index",
}

// smallZip makes a zip of small, with one member changed.
func smallZip(t testing.TB, changed, text string) []byte {
	m := hunts.Manifest{Version: 1, Hunt: "H.A1"}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	put := func(name, text string) {
		member, err := w.CreateHeader(&zip.FileHeader{Name: name})
		if err == nil {
			_, err = io.WriteString(member, text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, member := range small {
		if member[0] == changed {
			member[1] = text
		}
		put(member[0], member[1])
		sum := sha256.Sum256([]byte(member[1]))
		m.Members = append(m.Members, hunts.ZipMember{
			Path: member[0], Kind: smallKinds[member[0]], Size: int64(len(member[1])), SHA256: hex.EncodeToString(sum[:]), Result: "A",
		})
	}
	manifest, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	put("manifest.json", string(manifest))
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// FuzzImport changes members of a sound zip.
func FuzzImport(f *testing.F) {
	sound := smallZip(f, "", "")
	in, err := hunts.Import(context.Background(), bytes.NewReader(sound), int64(len(sound)), hunts.ImportTarget{Writer: keepsNothing{}})
	if err != nil || in.Rows != 1 || in.Uploads != 1 {
		f.Fatal(in, err)
	}
	for _, member := range small {
		f.Add(member[0], member[1])
	}
	f.Fuzz(func(t *testing.T, changed, text string) {
		bad := smallZip(t, changed, text)
		_, err := hunts.Import(context.Background(), bytes.NewReader(bad), int64(len(bad)), hunts.ImportTarget{Writer: keepsNothing{}})
		if err != nil && !errors.Is(err, hunts.ErrBadArchive) && !errors.Is(err, filestore.ErrDamaged) {
			t.Error(err)
		}
	})
}

// FuzzVerify gives bytes that may be no zip at all.
func FuzzVerify(f *testing.F) {
	f.Add(smallZip(f, "", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := hunts.Verify(context.Background(), bytes.NewReader(data), int64(len(data))); err != nil && !errors.Is(err, hunts.ErrBadArchive) {
			t.Error(err)
		}
	})
}
