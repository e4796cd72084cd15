package server_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"testing"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

const rowsInAll = 10_500

func (w *world) bigFlow() flows.Key {
	w.t.Helper()
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	for first := 0; first < rowsInAll; first += 1500 {
		w.ingest(key, numbered("Linux.Test.Procs", first, 1500))
	}
	w.ingest(key, ended(rowsInAll, 0))
	return key
}

func TestSourcePagesThroughAllRowsOnceInOrder(t *testing.T) {
	w := newWorld(t)
	key := w.bigFlow()
	s := w.as("rex", "reader")
	at := fmt.Sprintf("client_id='%s', flow_id='%s'", key.Client, key.Flow)
	cases := []struct {
		call        string
		first, rows int
	}{
		{"source(" + at + ")", 0, rowsInAll},
		{"flow_results(" + at + ")", 0, rowsInAll},
		{"source(" + at + ", artifact='Linux.Test.Procs')", 0, rowsInAll},
		{"source(" + at + ", start_row=9999)", 9999, 501},
		{"source(" + at + ", start_row=999, count=2002)", 999, 2002},
		{"source(" + at + ", count=1000)", 0, 1000},
		{"source(" + at + ", count=1001)", 0, 1001},
		{"source(" + at + ", count=1)", 0, 1},
		{"source(" + at + ", start_row=20000)", 0, 0},
	}
	for _, c := range cases {
		got := s.rows("SELECT * FROM %s", c.call)
		if len(got) != c.rows {
			t.Errorf("%s: %d rows, want %d; log:\n%s", c.call, len(got), c.rows, s.log())
			continue
		}
		for i, row := range got {
			if want := fmt.Sprintf(`{"n":%d}`, c.first+i); row != want {
				t.Errorf("%s: row %d is %s, want %s", c.call, i, row, want)
				break
			}
		}
	}
}

func TestSourceTakesItsPlaceFromTheScope(t *testing.T) {
	w := newWorld(t)
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Listing"})
	w.ingest(key, numbered("Linux.Test.Listing/Users", 0, 2), ended(2, 0))
	env := vql.NewDict().Set("ClientId", key.Client.String()).Set("FlowId", key.Flow.String()).Set("StartRow", 1)
	s := w.session(roles{"reader"}, env, w.host("rex"))
	s.want(`SELECT * FROM source()`, `{"n":1}`)
	s.wantLog("several results (Linux.Test.Listing/Files, Linux.Test.Listing/Users): reading Linux.Test.Listing/Users")
	s.want(`SELECT * FROM source(start_row=0, source='Users')`, `{"n":0}`, `{"n":1}`)
	s.want(`SELECT * FROM source(artifact='Linux.Test.Listing', source='Files')`)
	s.want(`SELECT * FROM source(artifact='Linux.Test.Listing/Users', count=1)`, `{"n":1}`)
	s.want(`SELECT * FROM source(artifact='Linux.Test.Other')`)
	s.wantLog("has no result of artifact")
	for _, call := range []string{"hunt_id='H.1'", "notebook_id='N.1'", "start_time=1", "orgs='O123'"} {
		if got := s.rows(`SELECT * FROM source(%s)`, call); len(got) != 0 {
			t.Errorf("source(%s) gave %v", call, got)
		}
	}
	s.wantLog("not available in this version")
}

// What a client sent comes out as it went in.
func TestRowsKeepTheirValues(t *testing.T) {
	w := newWorld(t)
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	row := `{"z":1,"a":{"b":[1,"2",null,true,{"c":[]}]},"t":"2020-01-02T03:04:05.100Z","big":18446744073709551615,"min":-9223372036854775808,"f":1.5,"s":"<é\u0000\n>","e":""}`
	w.ingest(key, lines("Linux.Test.Procs", 0, 1, row+"\n"), ended(1, 0))
	s := w.as("rex", "reader")
	got := s.rows("SELECT * FROM source(client_id='%s', flow_id='%s')", key.Client, key.Flow)
	if len(got) != 1 || got[0] != row {
		t.Errorf("got  %v\nwant %s\n%s", got, row, s.log())
	}
}

func TestMissingRowsAreTold(t *testing.T) {
	w := newWorld(t)
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	w.ingest(key, numbered("Linux.Test.Procs", 0, 3), numbered("Linux.Test.Procs", 5, 2), ended(7, 0))
	s := w.as("rex", "reader")
	if got := s.rows("SELECT * FROM source(client_id='%s', flow_id='%s')", key.Client, key.Flow); len(got) != 5 {
		t.Errorf("rows %v", got)
	}
	s.wantLog("WARN: Linux.Test.Procs of " + key.Flow.String() + ": rows 3 to 4 are missing")
}

func TestSourceStopsWhenItsQueryDoes(t *testing.T) {
	w := newWorld(t)
	key := w.bigFlow()
	s := w.as("rex", "reader")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	seen := 0
	err := s.each(ctx, fmt.Sprintf("SELECT * FROM source(client_id='%s', flow_id='%s')", key.Client, key.Flow), func(*vql.Dict) error {
		if seen++; seen == 1500 {
			cancel()
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) || seen >= rowsInAll {
		t.Errorf("saw %d rows, %v", seen, err)
	}
	if got := s.rows("SELECT * FROM source(client_id='%s', flow_id='%s') LIMIT 3", key.Client, key.Flow); len(got) != 3 {
		t.Errorf("LIMIT gave %v", got)
	}
}

func TestFlowsAreListedWithWhatCameOfThem(t *testing.T) {
	w := newWorld(t)
	var keys []flows.Key
	for range 250 {
		keys = append(keys, w.start(w.two, flows.Artifact{Name: "Linux.Test.Procs", Parameters: []flows.Parameter{{Name: "P", Value: "v"}}}))
	}
	w.ingest(keys[0], numbered("Linux.Test.Procs", 0, 4), logLine("hello"), ended(4, 0))
	s := w.as("rex", "reader")
	got := s.rows("SELECT session_id FROM flows(client_id='%s')", w.two)
	if len(got) != len(keys) {
		t.Fatalf("%d flows, want %d", len(got), len(keys))
	}
	for i, row := range got {
		if want := fmt.Sprintf(`{"session_id":%q}`, keys[len(keys)-1-i].Flow); row != want {
			t.Fatalf("flow %d is %s, want %s", i, row, want)
		}
	}
	at := fmt.Sprintf("client_id='%s', flow_id='%s'", w.two, keys[0].Flow)
	s.want(`SELECT state, detailed_state, total_collected_rows, artifacts_with_results, query_stats, request.creator AS C,
		request.specs[0].parameters.env[0].value AS V, execution_duration, cpu_ns FROM flows(`+at+`)`,
		`{"state":"FINISHED","detailed_state":"completed","total_collected_rows":4,"artifacts_with_results":["Linux.Test.Procs"],`+
			`"query_stats":[{"names_with_response":["Linux.Test.Procs"],"result_rows":4}],"C":"ada","V":"v","execution_duration":5,"cpu_ns":null}`)
	s.want(`SELECT get_flow(`+at+`).state AS S, get_flow(client_id='`+w.two.String()+`', flow_id='`+keys[1].Flow.String()+`').state AS R FROM scope()`,
		`{"S":"FINISHED","R":"RUNNING"}`)
	s.want(`SELECT level, message FROM flow_logs(`+at+`)`, `{"level":"INFO","message":"hello"}`)
	s.want(`SELECT * FROM flows(` + strings.Replace(at, "F.", "F.X", 1) + `)`)
	s.wantLog("no such flow")
}

// What is written of flows one after the other is what flows() shows of each, whatever
// was written before.
func TestFlowRowsAreWhatFlowsShows(t *testing.T) {
	w := newWorld(t)
	hostile := flows.Artifact{Name: "Linux.Test.Procs", Parameters: []flows.Parameter{{Name: "P", Value: "a\"b\n\x00\u2028</script>"}}}
	several := []flows.Key{
		w.start(w.one, hostile),
		w.start(w.two, flows.Artifact{Name: "Linux.Test.Procs"}),
		w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"}),
	}
	w.ingest(several[0], numbered("Linux.Test.Procs", 0, 4), logLine("hello"), ended(4, 0))
	s := w.as("rex", "reader")
	rows := server.NewFlowRows(w.flows)
	for _, n := range []int{1, 0, 0, 2, 1} {
		f, err := w.flows.Flow(several[n])
		must(t, err)
		got := string(rows.AppendJSON([]byte("before"), f))
		want := s.rows("SELECT * FROM flows(client_id='%s', flow_id='%s')", f.Client, f.Flow)
		if !json.Valid([]byte(want[0])) || got != "before"+want[0] {
			t.Errorf("flow %d is written as\n%s\nshown as\n%s", n, got, want[0])
		}
	}
}

func logLine(text string) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{LogMessage: &wirepb.LogMessage{
		NumberOfRows: 1, Jsonl: fmt.Sprintf("{\"client_time\":1,\"level\":\"INFO\",\"message\":%q}\n", text),
	}}
}

func upload(number int64, data string) []*wirepb.VeloMessage {
	spec := &wirepb.PathSpec{Path: "/etc/passwd", Accessor: "file", Components: []string{"etc", "passwd"}}
	return []*wirepb.VeloMessage{
		{UploadTransaction: &wirepb.UploadTransaction{Filename: "/etc/passwd", Accessor: "file", UploadId: number, Mode: 0o644}},
		{FileBuffer: &wirepb.FileBuffer{Pathspec: spec, Data: []byte(data), UploadNumber: number, StoredSize: uint64(len(data))}},
		{FileBuffer: &wirepb.FileBuffer{
			Pathspec: spec, Offset: uint64(len(data)), UploadNumber: number, StoredSize: uint64(len(data)), Eof: true, Size: uint64(len(data)),
		}},
	}
}

func (w *world) flowWithUpload() flows.Key {
	w.t.Helper()
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	w.ingest(key, append([]*wirepb.VeloMessage{numbered("Linux.Test.Procs", 0, 2), logLine("x")}, append(upload(0, "hello"), ended(2, 1))...)...)
	return key
}

func TestUploadsAreListedAndReadThroughFs(t *testing.T) {
	w := newWorld(t)
	key := w.flowWithUpload()
	s := w.admin()
	at := fmt.Sprintf("client_id='%s', flow_id='%s'", key.Client, key.Flow)
	s.want(`SELECT file_size, client_path, Upload.sha256 =~ '^2cf24dba' AS Sum, read_file(filename=vfs_path, accessor='fs') AS Data FROM uploads(`+at+`)`,
		`{"file_size":5,"client_path":"/etc/passwd","Sum":true,"Data":"hello"}`)
	dir := filestore.FlowDir(key.Org, key.Client, key.Flow)
	s.want(`SELECT n FROM parse_jsonl(filename=pathspec(DelegateAccessor='fs', DelegatePath='/`+dir+`/results/Linux.Test.Procs/n1-1.jsonl.gz'), accessor='gzip')`,
		`{"n":0}`, `{"n":1}`)
	if got := s.rows(`SELECT OSPath FROM glob(globs='/clients/**/passwd', accessor='fs')`); len(got) != 1 {
		t.Errorf("glob finds %v, log:\n%s", got, s.log())
	}
	// What is there and not for queries: accounts, keys and other orgs.
	for _, name := range []string{"audit/x", "ledger/x", "snapshots/x", "lease/x", "nodes/x", "orgs/O1/clients/x", "x"} {
		must(t, w.store.MkdirAll(t.Context(), path.Dir(name)))
		must(t, w.store.ReplaceFile(t.Context(), name, []byte("secret")))
		for _, way := range []string{"/", "", "/clients/../"} {
			s.want(`SELECT read_file(filename='`+way+name+`', accessor='fs') AS X, stat(filename='`+way+name+`', accessor='fs') AS Y FROM scope()`, `{"X":"","Y":null}`)
		}
	}
	s.want(`SELECT Name FROM glob(globs='/*', accessor='fs')`, `{"Name":"clients"}`)
}

func TestDeleteFlowListsThenDeletes(t *testing.T) {
	w := newWorld(t)
	key := w.flowWithUpload()
	s := w.admin()
	at := fmt.Sprintf("client_id='%s', flow_id='%s'", key.Client, key.Flow)
	files := s.rows(`SELECT type, data.VFSPath AS P FROM enumerate_flow(%s)`, at)
	for _, kind := range []string{"Result", "Log", "Upload", "UploadMetadata"} {
		if !strings.Contains(strings.Join(files, "\n"), `{"type":"`+kind+`","P":"clients/`) {
			t.Errorf("no %s in:\n%s", kind, strings.Join(files, "\n"))
		}
	}
	if got := s.rows(`SELECT type, data.VFSPath AS P, error FROM delete_flow(%s)`, at); len(got) != len(files) {
		t.Errorf("a dry run lists %v", got)
	}
	if _, err := w.flows.Flow(key); err != nil {
		t.Fatalf("a dry run deleted: %v", err)
	}
	running := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	s.rows(`SELECT * FROM delete_flow(client_id='%s', flow_id='%s', really_do_it=TRUE)`, running.Client, running.Flow)
	s.wantLog("flow has not ended yet")
	if got := s.rows(`SELECT * FROM delete_flow(%s, really_do_it=TRUE)`, at); len(got) != len(files) || strings.Contains(got[0], "not ended") {
		t.Errorf("deleting lists %v", got)
	}
	if _, err := w.flows.Flow(key); !errors.Is(err, flows.ErrNotFound) {
		t.Errorf("the flow is there: %v", err)
	}
}

func TestClientDeleteTakesItsFlowsAlong(t *testing.T) {
	w := newWorld(t)
	key := w.flowWithUpload()
	running := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	s := w.admin()
	dry := s.rows(`SELECT * FROM client_delete(client_id='%s')`, w.one)
	if _, err := w.clients.Lookup(key.Org, w.one); err != nil || len(dry) == 0 {
		t.Fatalf("a dry run gave %v, %v", dry, err)
	}
	got := s.rows(`SELECT type, error FROM client_delete(client_id='%s', really_do_it=TRUE)`, w.one)
	if len(got) != len(dry)+1 || got[len(got)-1] != `{"type":"ClientRecord","error":""}` {
		t.Errorf("deleting gave %v\n%s", got, s.log())
	}
	for _, k := range []flows.Key{key, running} {
		if _, err := w.flows.Flow(k); !errors.Is(err, flows.ErrNotFound) {
			t.Errorf("flow %s: %v", k.Flow, err)
		}
	}
	if got := s.rows(`SELECT * FROM clients()`); len(got) != 1 {
		t.Errorf("clients left: %v", got)
	}
	s.want(`SELECT * FROM client_delete(client_id='` + w.one.String() + `', really_do_it=TRUE)`)
	s.wantLog("unknown client")
}
