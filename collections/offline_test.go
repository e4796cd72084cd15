package collections_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"
	"time"

	"raptorpack/collections"
	"raptorpack/collector"
	"raptorpack/container"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

// offline is what an offline collector packs.
func offline(t *testing.T, password string) []byte {
	t.Helper()
	name := filepath.Join(t.TempDir(), "a.zip")
	b, err := collector.NewBundle(collector.BundleOptions{Output: name, Password: password})
	must(t, err)
	must(t, b.Begin("A/Empty"))
	for _, row := range []string{`{"n":1,"text":"=1+1"}`, `{"n":2,"more":{"x":[1]}}`} {
		must(t, b.Row("A/Rows", []byte(row)))
	}
	must(t, b.Log("INFO", "hello"))
	for path, text := range map[string]string{"/etc/a": "hello", "/etc/A": "HELLO"} {
		_, err = b.Upload(t.Context(), nil, vql.UploadRequest{Path: vql.ParsePath(vql.PathLinux, path), Accessor: "file", Reader: bytes.NewReader([]byte(text))})
		must(t, err)
	}
	_, err = b.Upload(t.Context(), nil, vql.UploadRequest{
		Path: vql.ParsePath(vql.PathLinux, "/sparse"), Accessor: "file", Reader: bytes.NewReader(append(make([]byte, 96), "tail"...)),
		Ranges: []vql.Range{{Offset: 0, Length: 96, Sparse: true}, {Offset: 96, Length: 4}},
	})
	must(t, err)
	started, ended := time.Unix(1_700_000_000, 0), time.Unix(1_700_000_060, 0)
	must(t, b.Close(&container.Record{
		Session: "F.OFFLINE", Hostname: "lab-9", State: "completed", Started: &started, Ended: &ended,
		Artifacts: []container.Artifact{{Name: "A", Parameters: map[string]string{"Glob": "/etc/*"}}}, Results: []string{"A/Rows", "A/Empty"},
	}))
	data, err := os.ReadFile(name)
	must(t, err)
	return data
}

func TestAnOfflineCollectionComesIn(t *testing.T) {
	for _, password := range []string{"", "secret"} {
		w := newWorld(t)
		in, err := w.bring(offline(t, password), collections.Wish{Password: password, Creator: "ada"})
		must(t, err)
		f, err := w.flows.Flow(in.Arrival.Key)
		must(t, err)
		if f.State != flows.Completed || f.Client != ids.ClientOfHost("lab-9") || f.Duration != time.Minute || f.Spec.Creator != "ada" ||
			f.Spec.Artifacts[0].Parameters[0].Value != "/etc/*" || len(f.Spec.Results()) != 2 || len(in.Skipped) != 0 {
			t.Errorf("flow %+v, skipped %v", f, in.Skipped)
		}
		got := members(t, w.zip(in.Arrival.Key, "", collections.ExportOptions{}), "")
		want := map[string]string{
			"results/A/Rows.jsonl": `{"n":1,"text":"=1+1"}` + "\n" + `{"n":2,"more":{"x":[1]}}` + "\n", "results/A/Empty.jsonl": "",
			"uploads/file/etc/a": "hello", "uploads/file/etc/A": "HELLO", "uploads/file/sparse": "tail",
		}
		for name, text := range want {
			if got[name] != text {
				t.Errorf("%s is %q, expected %q", name, got[name], text)
			}
		}
	}
}
