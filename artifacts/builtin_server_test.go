package artifacts_test

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"raptorpack/artifacts"
	"raptorpack/vql"
)

// answer serves each path with its text; others are not found. A request to
// VirusTotal without the key is refused.
func answer(t *testing.T, pages map[string]string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		page, ok := pages[r.URL.Path]
		switch {
		case strings.HasPrefix(r.URL.Path, "/files/") && r.Header.Get("X-Apikey") != "a-key":
			w.WriteHeader(http.StatusUnauthorized)
		case !ok:
			w.WriteHeader(http.StatusNotFound)
		default:
			_, _ = w.Write([]byte(page)) // the test fails without it
		}
	}))
	t.Cleanup(s.Close)
	return s.URL
}

func TestVirustotalIsAskedAboutHashes(t *testing.T) {
	const known = "44d88612fea8a8f36de82e1278abb02f"
	url := answer(t, map[string]string{"/files/" + known: `{"data":{"attributes":{
		"last_analysis_stats":{"malicious":60,"suspicious":1,"undetected":8,"harmless":0,"timeout":2},
		"sha256":"275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f","meaningful_name":"eicar.com",
		"first_submission_date":1148301722,"tags":["eicar"],"reputation":-3}}}`})
	cases := []struct {
		name, hash, key string
		rows            int
		rating          string
	}{
		{"known", known, "a-key", 1, "60 out of 69"},
		{"never seen", "00000000000000000000000000000000", "a-key", 1, "not known"},
		{"no hash", "../../etc", "a-key", 0, ""},
		{"no key", known, "", 0, ""},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := newSession(t, builtIn(t))
			rows := s.run("SELECT * FROM Artifact.Server.Enrichment.Virustotal(VirustotalKey=Key, Hash=Hash, VirustotalUrl=Url)",
				vql.NewDict().Set("Key", c.key).Set("Hash", c.hash).Set("Url", url+"/files/"))
			if len(rows) != c.rows {
				t.Fatalf("%d rows, want %d; log %v", len(rows), c.rows, s.logs)
			}
			for _, row := range rows {
				if got, _ := row.Get("VTRating"); got != c.rating {
					t.Errorf("rating %v, want %q in %s", got, c.rating, vql.AppendJSON(nil, row))
				}
			}
			if errs := s.errors(); len(errs) > 0 {
				t.Errorf("log: %v", errs)
			}
		})
	}
}

func TestHealthComesFromMetrics(t *testing.T) {
	url := answer(t, map[string]string{"/metrics": `# HELP go_goroutines Number of goroutines that currently exist.
go_goroutines 77
process_cpu_seconds_total 12.5
process_resident_memory_bytes 1.048576e+08
raptorpack_frontend_connections{kind="reader"} 3
raptorpack_frontend_connections{kind="ws"} 4
`})
	s := newSession(t, builtIn(t))
	rows := s.run("SELECT client_comms_current_connections AS C, MemoryUse AS M, Goroutines AS G FROM Artifact.Server.Monitor.Health(MetricsUrl=Url, Frequency=1) LIMIT 1",
		vql.NewDict().Set("Url", url+"/metrics"))
	if len(rows) != 1 || string(vql.AppendJSON(nil, rows[0])) != `{"C":7,"M":100,"G":77}` {
		t.Errorf("rows %v, log %v", rows, s.logs)
	}
	if errs := s.errors(); len(errs) > 0 {
		t.Errorf("log: %v", errs)
	}
}

// What people upload for a collection is fetched from a URL, and lasts as long as
// the collection.
func TestUploadedParametersAreFetched(t *testing.T) {
	const definition = `name: Custom.Takes
parameters: [{name: Text, type: upload}, {name: File, type: upload_file}]
sources: [{query: "SELECT Text, read_file(filename=File) AS Read, File AS Name FROM scope()"}]
`
	url := answer(t, map[string]string{"/a": "some text", "/b": "a file's text"})
	d, err := artifacts.Parse("takes.yaml", []byte(definition))
	if err != nil {
		t.Fatal(err)
	}
	repo := artifacts.NewRepository(builtIn(t))
	if err := repo.Add(d); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, repo)
	got := s.run("SELECT Text, Read FROM Artifact.Custom.Takes(Text=Url + '/a', File=Url + '/b')", vql.NewDict().Set("Url", url))
	if len(got) != 1 || string(vql.AppendJSON(nil, got[0])) != `{"Text":"some text","Read":"a file's text"}` {
		t.Errorf("rows %v, log %v", got, s.logs)
	}
	got = s.run("SELECT Text, Name FROM Artifact.Custom.Takes(Text=Url + '/none', File=Url + '/none')", vql.NewDict().Set("Url", url))
	if len(got) != 1 || string(vql.AppendJSON(nil, got[0])) != `{"Text":null,"Name":null}` {
		t.Errorf("rows %v of what cannot be fetched, log %v", got, s.logs)
	}
}
