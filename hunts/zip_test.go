package hunts_test

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/filestore/filestoretest"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/ids"
)

func (g *rig) uploadSet() filestore.Set {
	return filestore.Set(filestore.HuntDir(g.key.Org, g.key.Hunt) + "/uploads")
}

// upload stores an upload of a client, and lists it.
func (g *rig) upload(client, number int, data string, index []filestore.Range, components ...string) *filestore.StoredUpload {
	g.t.Helper()
	c := g.node("a-1")
	key := filestore.UploadKey{Org: g.key.Org, Client: id(client), Flow: g.key.Hunt.Flow(0), Number: int64(number)}
	if data != "" {
		g.check(c.Submit(context.Background(), &filestore.Commit{Uploads: []filestore.UploadWrite{{Key: key, Data: []byte(data)}}}))
	}
	size := int64(len(data))
	for _, r := range index {
		size = max(size, r.OriginalOffset+r.Length)
	}
	stored, err := c.FinishUpload(context.Background(), filestore.UploadFinish{
		Key: key, Accessor: "file", Components: components, Size: size, StoredSize: int64(len(data)), Index: index, Whole: true,
	})
	g.check(err)
	line, err := json.Marshal(flows.Upload{
		Number: int64(number), Source: strings.Join(components, "/"), Accessor: "file", Components: components, Size: size,
		StoredSize: stored.StoredSize, SHA256: stored.SHA256, StoredPath: stored.Path, Sparse: len(index) > 0, Finished: "2026-11-22T12:00:00Z",
	})
	g.check(err)
	g.store1("a-1", g.uploadSet(), flows.UploadName, client, number, g.row(client, ","+string(line[1:len(line)-1])))
	return stored
}

// filled is a hunt with rows, logs and uploads.
func filled(t testing.TB) *rig {
	g := newRig(t, 4)
	g.put("a-1", 0, 0, g.row(0, `,"A":1.50`), g.row(0, `,"A":"=x"`))
	g.put("b-1", 1, 3, g.row(1, `,"B":{"x":1}`))
	g.numbers("b-1", 2, 0, 10)
	logs := filestore.HuntLogs(g.key.Org, g.key.Hunt)
	g.store1("a-1", logs, "log", 0, 0, g.row(0, `,"level":"INFO","message":"one"`))
	g.store1("b-1", logs, "log", 1, 0, g.row(1, `,"level":"ERROR","message":"two"`))
	g.upload(0, 0, "hello", nil, "etc", "passwd")
	g.upload(0, 1, "other", nil, "etc", "passwd")
	g.upload(1, 0, "hello", nil, "etc", "passwd")
	g.upload(1, 1, "", nil, "..", "C:", "a/b", "emp\\ty")
	g.upload(2, 7, "sparse", []filestore.Range{
		{FileOffset: 0, OriginalOffset: 0, FileLength: 6, Length: 6}, {FileOffset: 6, OriginalOffset: 6, FileLength: 0, Length: 1 << 20},
	}, "pagefile.sys")
	g.store1("b-1", g.uploadSet(), "uploads.about", 2, 7, g.row(2, `,"number":7,"mtime_ns":5`))
	g.must(t)(g.PlanAdd(g.key, idsOf(0), "ada", noon)) // no change: it took part
	return g
}

// zip makes a zip, and checks it in Go and by unzip if that is there.
func (g *rig) zip(o hunts.ZipOptions) ([]byte, *hunts.Manifest) {
	g.t.Helper()
	var out bytes.Buffer
	m, err := g.results.Zip(context.Background(), g.key, &out, o)
	g.check(err)
	verified, err := hunts.Verify(context.Background(), bytes.NewReader(out.Bytes()), int64(out.Len()))
	g.check(err)
	if len(verified.Findings) != 0 || verified.Members != len(m.Members) {
		g.t.Errorf("%d members, findings %v", verified.Members, verified.Findings)
	}
	if unzip, err := exec.LookPath("unzip"); err == nil {
		file := filepath.Join(g.t.TempDir(), "hunt.zip")
		g.check(os.WriteFile(file, out.Bytes(), 0o600))
		if text, err := exec.Command(unzip, "-t", file).CombinedOutput(); err != nil {
			g.t.Errorf("unzip -t: %v: %s", err, text)
		}
	}
	return out.Bytes(), m
}

// members reads a zip without us, and holds it to its manifest.
func members(t testing.TB, data []byte) map[string]string {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, f := range z.File {
		in, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		if _, twice := out[f.Name]; twice {
			t.Errorf("%s is there twice", f.Name)
		}
		out[f.Name] = string(text)
	}
	var m hunts.Manifest
	if last := z.File[len(z.File)-1].Name; last != "manifest.json" || json.Unmarshal([]byte(out[last]), &m) != nil {
		t.Fatalf("the last member is %s", last)
	}
	for _, member := range m.Members {
		sum := sha256.Sum256([]byte(out[member.Path]))
		if text, ok := out[member.Path]; !ok || int64(len(text)) != member.Size || hex.EncodeToString(sum[:]) != member.SHA256 {
			t.Errorf("%s is not as the manifest says", member.Path)
		}
	}
	if len(m.Members)+1 != len(out) {
		t.Errorf("%d members, the manifest has %d", len(out), len(m.Members))
	}
	return out
}

func TestZipHasAllOfAHunt(t *testing.T) {
	g := filled(t)
	data, m := g.zip(hunts.ZipOptions{})
	all := members(t, data)
	rows, _ := g.export(hunts.ExportOptions{Format: hunts.JSONL})
	table, _ := g.export(hunts.ExportOptions{Format: hunts.CSV})
	for name, want := range map[string]string{
		"results/" + pslist + ".jsonl":       rows,
		"results/" + pslist + ".csv":         table,
		"logs.jsonl":                         g.row(0, `,"level":"INFO","message":"one"`) + "\n" + g.row(1, `,"level":"ERROR","message":"two"`) + "\n",
		"uploads.about.jsonl":                g.row(2, `,"number":7,"mtime_ns":5`) + "\n",
		g.uploadPath(0, "file/etc/passwd"):   "hello",
		g.uploadPath(0, "file/etc/passwd~1"): "other",
		g.uploadPath(1, "file/etc/passwd"):   "hello",
		g.uploadPath(2, "file/pagefile.sys"): "sparse",
	} {
		if got, ok := all[name]; !ok || got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for name := range all {
		if !filepath.IsLocal(name) || strings.ContainsAny(name, `\:`) {
			t.Errorf("path %s", name)
		}
	}
	if n := strings.Count(all["clients.jsonl"], "\n"); n != 4 || !strings.Contains(all["clients.csv"], id(3).String()) {
		t.Errorf("%d clients: %s", n, all["clients.csv"])
	}
	if m.Counts["file"] != 5 || m.Counts["index"] != 1 || m.Whole || len(m.Problems) != 1 || m.Problems[0].Client != id(1).String() {
		t.Errorf("counts %v, problems %v", m.Counts, m.Problems)
	}
	var h hunts.HuntFile
	g.check(json.Unmarshal([]byte(all["hunt.json"]), &h))
	if h.Hunt != g.key.Hunt.String() || h.Creator != "ada" || h.Counts["running"] != 4 || len(h.Artifacts) != 2 {
		t.Errorf("hunt %+v", h)
	}
	_, m = g.zip(hunts.ZipOptions{RowsOnly: true})
	if m.Counts["file"] != 0 || m.Counts["logs"] != 0 || m.Counts["rows"] != 1 {
		t.Errorf("rows only: %v", m.Counts)
	}
}

func (g *rig) uploadPath(client int, name string) string {
	return "uploads/" + id(client).String() + "/" + g.key.Hunt.Flow(0).String() + "/" + name
}

func TestZipTellsWhatIsMissingOrDamaged(t *testing.T) {
	g := newRig(t, 3)
	g.put("a-1", 0, 0, g.row(0, `,"N":"one"`))
	g.put("b-1", 0, 0, g.row(0, `,"N":"other"`))
	gone := g.upload(0, 0, "hello", nil, "gone")
	bad := g.upload(0, 1, "hello", nil, "changed")
	g.upload(1, 0, "fine", nil, "fine")
	g.upload(2, 0, "hidden", nil, "of a client that was deleted")
	g.check(os.Remove(filepath.Join(g.root, gone.Path)))
	g.check(os.Chmod(filepath.Join(g.root, bad.Path), 0o600))
	g.check(os.WriteFile(filepath.Join(g.root, bad.Path), []byte("hollo"), 0o600))
	g.store1("a-1", g.uploadSet(), flows.UploadName, 1, 5, g.row(1, `,"number":5,"stored_path":"clients/00/00/server/uploads/F.X/auto/secret"`))
	g.must(t)(g.clients.PlanDelete(ids.RootOrg, id(2)))
	data, m := g.zip(hunts.ZipOptions{})
	all := members(t, data)
	if m.Whole || m.Counts["file"] != 2 || all[g.uploadPath(1, "file/fine")] != "fine" || strings.Contains(fmt.Sprint(all), "hidden\"") {
		t.Errorf("counts %v", m.Counts)
	}
	var told []string
	for _, p := range m.Problems {
		told = append(told, p.Client+" "+p.Problem)
	}
	for _, want := range []string{"came twice with different bytes", "upload 0: open upload", "upload 1: 5 bytes with SHA-256", "upload 5: its line or its place"} {
		if !slices.ContainsFunc(told, func(p string) bool { return strings.Contains(p, want) }) {
			t.Errorf("%q is not told: %v", want, told)
		}
	}
	g.faulty.Inject(filestoretest.Fault{
		Op: filestoretest.Read, Path: bad.Path, Err: errors.New("broken"), Times: filestoretest.Always,
	})
	if _, m = g.zip(hunts.ZipOptions{}); !strings.Contains(fmt.Sprint(m.Problems), "only 0 of 5 bytes can be read") {
		t.Errorf("problems %v", m.Problems)
	}
}

func TestResultsOfLikeNamesHaveTheirOwnMembers(t *testing.T) {
	g := newRig(t, 1)
	names := map[string]string{"$a": "Data", "$b": "data", "$c": "Data.jsonl/X", "$d": "DATA.CSV/data", "$e": "a/b", "$f": "a"}
	g.key = g.create(t, func(c *hunts.Create) { c.Collect.Names = names })
	data, m := g.zip(hunts.ZipOptions{})
	files, folders := map[string]bool{}, map[string]bool{}
	for name := range members(t, data) {
		low := strings.ToLower(name)
		if files[low] {
			t.Errorf("%s is there in another case", name)
		}
		files[low] = true
		for dir := filepath.Dir(low); dir != "."; dir = filepath.Dir(dir) {
			folders[dir] = true
		}
	}
	for dir := range folders {
		if files[dir] {
			t.Errorf("%s is a file and a folder", dir)
		}
	}
	if m.Counts["rows"] != len(names) {
		t.Errorf("counts %v", m.Counts)
	}
}

func TestZipEndsWithItsCaller(t *testing.T) {
	g := filled(t)
	path := filestore.FlowUploadsDir(ids.RootOrg, id(0), g.key.Hunt.Flow(0)) + "/file/etc/passwd"
	hung := g.faulty.Inject(filestoretest.Fault{Op: filestoretest.Read, Path: path, Hang: true, Times: filestoretest.Always})
	t.Cleanup(hung.Lift)
	ctx, cancel := context.WithCancel(context.Background())
	var out bytes.Buffer
	ended := make(chan error, 1) // one answer
	go func() {
		_, err := g.results.Zip(ctx, g.key, &out, hunts.ZipOptions{})
		ended <- err
	}()
	g.waitFor("the zip to read an upload", func() bool { return hung.Hanging() > 0 })
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who left: %v", err)
	}
	if _, err := hunts.Verify(context.Background(), bytes.NewReader(out.Bytes()), int64(out.Len())); !errors.Is(err, hunts.ErrBadArchive) {
		t.Errorf("half a zip: %v", err)
	}
	broken := errors.New("the browser left")
	if _, err := g.results.Zip(context.Background(), g.key, failing{broken}, hunts.ZipOptions{RowsOnly: true}); !errors.Is(err, broken) {
		t.Errorf("a writer that fails: %v", err)
	}
}

// rezip makes a zip of members, changed; nil leaves one out.
func rezip(t testing.TB, data []byte, change func(name, text string) []string) []byte {
	t.Helper()
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	w := zip.NewWriter(&out)
	all := members(t, data)
	for _, f := range z.File {
		for _, text := range change(f.Name, all[f.Name]) {
			name := f.Name
			if renamed, rest, ok := strings.Cut(text, "\x00"); ok {
				name, text = renamed, rest
			}
			member, err := w.Create(name)
			if err == nil {
				_, err = io.WriteString(member, text)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestVerifyFindsWhatWasChanged(t *testing.T) {
	g := filled(t)
	data, _ := g.zip(hunts.ZipOptions{})
	for what, c := range map[string]struct {
		change func(name, text string) []string
		want   string
	}{
		"another byte": {func(name, text string) []string {
			return []string{strings.Replace(text, "message", "massage", 1)}
		}, "SHA-256 differs"},
		"shorter": {func(name, text string) []string {
			return []string{strings.TrimSuffix(text, "sparse")}
		}, "has 0 of 6 bytes"},
		"longer": {func(name, text string) []string {
			if name == "logs.jsonl" {
				text += "{}\n"
			}
			return []string{text}
		}, "has more than"},
		"left out": {func(name, text string) []string {
			if name == "clients.csv" {
				return nil
			}
			return []string{text}
		}, "is missing"},
		"added":   {func(name, text string) []string { return []string{"more/" + name + "\x00x", text} }, "does not list"},
		"twice":   {func(name, text string) []string { return []string{text, text} }, "not so often"},
		"outside": {func(name, text string) []string { return []string{"../" + name + "\x00x", text} }, "not safe"},
	} {
		changed := rezip(t, data, c.change)
		v, err := hunts.Verify(context.Background(), bytes.NewReader(changed), int64(len(changed)))
		if err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		if !slices.ContainsFunc(v.Findings, func(p hunts.ZipProblem) bool { return strings.Contains(p.Problem, c.want) }) {
			t.Errorf("%s: findings %v", what, v.Findings)
		}
		if _, err := hunts.Import(context.Background(), bytes.NewReader(changed), int64(len(changed)), hunts.ImportTarget{}); !errors.Is(err, hunts.ErrBadArchive) {
			t.Errorf("%s: imported: %v", what, err)
		}
	}
	for _, bad := range [][]byte{nil, []byte("no zip"), data[:len(data)/2], rezip(t, data, func(name, text string) []string {
		if name == "manifest.json" {
			return []string{strings.Replace(text, `"version": 1`, `"version": 9`, 1)}
		}
		return []string{text}
	})} {
		if _, err := hunts.Verify(context.Background(), bytes.NewReader(bad), int64(len(bad))); !errors.Is(err, hunts.ErrBadArchive) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
}
