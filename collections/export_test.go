package collections_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

func TestZipHasAllOfAFlow(t *testing.T) {
	w := newWorld(t)
	key := w.flow()
	data := w.zip(key, "", collections.ExportOptions{})
	got := members(t, data, "")
	want := map[string]string{
		"results/Linux.Test/Files.jsonl": `{"n":0,"name":"=evil"}` + "\n" + `{"n":1,"name":"b","more":[1,2]}` + "\n" + `{"n":2}` + "\n",
		"results/Linux.Test/Files.csv":   "n,name,more\r\n0,'=evil,\r\n1,b,\"[1,2]\"\r\n2,,\r\n",
		"results/Linux.Test/Empty.jsonl": "",
		"logs.jsonl":                     `{"client_time":1,"level":"DEFAULT","message":"hello"}` + "\n",
		"uploads/file/etc/passwd":        "hello",
		"uploads/file/C%3A/$MFT":         "datatail",
	}
	for name, text := range want {
		if got[name] != text {
			t.Errorf("%s is %q, expected %q", name, got[name], text)
		}
	}
	for _, name := range []string{"flow.json", "client_info.json", "uploads.jsonl", "manifest.json", "uploads/file/C%3A/$MFT.idx", "results/Linux.Test/Empty.csv"} {
		if _, has := got[name]; !has {
			t.Errorf("no %s; there is %v", name, slices.Sorted(maps.Keys(got)))
		}
	}
	var record container.Record
	must(t, json.Unmarshal([]byte(got["flow.json"]), &record))
	if record.Client != w.one.String() || record.Hostname != "web-1" || record.State != "completed" || record.Rows["Linux.Test/Files"] != 3 || record.Artifacts[0].Parameters["Path"] != "/etc" {
		t.Errorf("record is %+v", record)
	}
	checkManifest(t, got)
	unzips(t, data)
}

// checkManifest holds each member to the manifest.
func checkManifest(t *testing.T, got map[string]string) {
	t.Helper()
	var m container.Manifest
	must(t, json.Unmarshal([]byte(got[container.ManifestName]), &m))
	if !m.Whole || len(m.Members) != len(got)-1 {
		t.Errorf("manifest: whole %t, %d members of %d", m.Whole, len(m.Members), len(got)-1)
	}
	for _, one := range m.Members {
		sum := sha256.Sum256([]byte(got[one.Path]))
		if one.SHA256 != hex.EncodeToString(sum[:]) || one.Size != int64(len(got[one.Path])) {
			t.Errorf("%s is not as the manifest says", one.Path)
		}
	}
}

func unzips(t *testing.T, data []byte) {
	t.Helper()
	tool, err := exec.LookPath("unzip")
	if err != nil {
		t.Log("no unzip here")
		return
	}
	name := filepath.Join(t.TempDir(), "flow.zip")
	must(t, os.WriteFile(name, data, 0o600))
	if out, err := exec.Command(tool, "-t", name).CombinedOutput(); err != nil {
		t.Errorf("unzip -t: %v: %s", err, out)
	}
}

func TestFormatsOfAZip(t *testing.T) {
	w := newWorld(t)
	key := w.flow()
	for format, ends := range map[string]string{"": ".csv .jsonl", "csv": ".csv .jsonl", "json": ".jsonl", "csv_only": ".csv"} {
		got := members(t, w.zip(key, "secret", collections.ExportOptions{Format: format, Expand: true}), "secret")
		var have []string
		for name := range got {
			if strings.HasPrefix(name, "results/Linux.Test/Files") {
				have = append(have, filepath.Ext(name))
			}
		}
		slices.Sort(have)
		if strings.Join(have, " ") != ends {
			t.Errorf("format %q has %v", format, have)
		}
		mft := got["uploads/file/C%3A/$MFT"]
		if len(mft) != 1<<20 || !strings.HasPrefix(mft, "data\x00") || !strings.HasSuffix(mft, "\x00tail") || got["uploads/file/C%3A/$MFT.idx"] != "" {
			t.Errorf("expanded upload has %d bytes", len(mft))
		}
	}
	if _, err := w.exporter.Zip(t.Context(), key, io.Discard, collections.ExportOptions{Format: "xml"}); !errors.Is(err, collections.ErrInvalid) {
		t.Errorf("format xml: %v", err)
	}
	if _, err := w.exporter.Zip(t.Context(), flows.Key{Client: w.one, Flow: ids.Monitoring}, io.Discard, collections.ExportOptions{}); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("unknown flow: %v", err)
	}
}

func TestWhatIsMissingOfAFlowIsTold(t *testing.T) {
	w := newWorld(t)
	key := w.start()
	w.ingest(key, rows("result-1", 0, `{"n":0}`), rows("result-1", 5, `{"n":5}`))
	m, err := w.exporter.Zip(t.Context(), key, io.Discard, collections.ExportOptions{})
	must(t, err)
	var all []string
	for _, p := range m.Problems {
		all = append(all, p.Problem)
	}
	if text := strings.Join(all, "; "); m.Whole || !strings.Contains(text, "rows 1 to 4 are missing") || !strings.Contains(text, "had not ended") {
		t.Errorf("whole %t: %s", m.Whole, text)
	}
}

func (w *world) download(key flows.Key, name string, wait bool) (string, error) {
	return w.downloads.Make(w.t.Context(), collections.Download{
		Dir: filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow), Name: name, Password: "secret", Wait: wait,
		Write: func(ctx context.Context, to io.Writer) error {
			_, err := w.exporter.Zip(ctx, key, to, collections.ExportOptions{})
			return err
		},
		Wanted: func() bool {
			_, err := w.flows.Flow(key)
			return err == nil
		},
	})
}

func TestDownloadsLieInTheFolderOfTheirFlowAndGoWithIt(t *testing.T) {
	w := newWorld(t)
	w.run(w.downloads.Run)
	key := w.flow()
	dir := filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow)
	names := map[string]bool{}
	for _, wish := range []string{"web-1", "web-1", "../../../../ledger/x", "", strings.Repeat("lang", 100)} {
		place, err := w.download(key, wish, true)
		must(t, err)
		if filepath.Dir(place) != dir || names[place] {
			t.Errorf("name %q lies at %s", wish, place)
		}
		names[place] = true
		data, err := w.store.ReadFile(t.Context(), place, 1<<20)
		must(t, err)
		checkManifest(t, members(t, data, "secret"))
	}
	left, err := w.store.ReadDir(t.Context(), dir)
	must(t, err)
	if len(left) != len(names) {
		t.Errorf("the folder has %v", left)
	}
	w.apply(w.flows.PlanDelete(key, "ada"))
	must(t, w.flows.RemoveTree(t.Context(), key))
	if _, err := w.store.ReadDir(t.Context(), dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("after the deletion: %v", err)
	}
	// One that was on its way then is taken away again.
	if _, err := w.download(key, "late", true); err == nil {
		t.Error("a download of a deleted flow was made")
	}
}

func TestABrokenDownloadLeavesNothing(t *testing.T) {
	w := newWorld(t)
	broke := errors.New("broke")
	wish := collections.Download{Dir: "downloads/x", Wait: true, Write: func(_ context.Context, to io.Writer) error {
		_, err := to.Write(make([]byte, 3<<20))
		return errors.Join(err, broke)
	}}
	w.run(w.downloads.Run)
	if _, err := w.downloads.Make(t.Context(), wish); !errors.Is(err, broke) {
		t.Fatalf("made: %v", err)
	}
	gone, cancel := context.WithCancel(t.Context())
	wish.Write = func(ctx context.Context, to io.Writer) error {
		cancel()
		<-ctx.Done() // who no longer waits is not worked for
		return ctx.Err()
	}
	if _, err := w.downloads.Make(gone, wish); !errors.Is(err, context.Canceled) {
		t.Fatalf("made: %v", err)
	}
	wish.Write = func(context.Context, io.Writer) error { return nil }
	_, err := w.downloads.Make(t.Context(), wish) // after those before
	must(t, err)
	left, err := w.store.ReadDirEntries(t.Context(), "downloads/x")
	must(t, err)
	if len(left) != 1 {
		t.Errorf("left are %v", left)
	}
}

func TestDownloadsAreBounded(t *testing.T) {
	w := newWorld(t)
	wish := collections.Download{Dir: "downloads/x", Write: func(context.Context, io.Writer) error { return nil }}
	for n := 0; ; n++ {
		if _, err := w.downloads.Make(t.Context(), wish); errors.Is(err, collections.ErrBusy) {
			break
		} else if err != nil || n > 1000 {
			t.Fatalf("%d wait: %v", n, err)
		}
	}
}
