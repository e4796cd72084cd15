package client

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

func accessors() map[string]vql.Accessor { return endpoint.Accessors() }

func TestDeferredUploadRunsBesideItsQueryAndTellsItsResult(t *testing.T) {
	s := newTestServer(t)
	path, hash := bigFile(t, 3<<20)
	o := testOptions(t, t.TempDir(), s.URL+"/")
	o.Accessors = accessors()
	a := start(t, o)
	s.send(flowRequest("F.1", func(r *wirepb.FlowRequest) {
		r.VqlClientActions[0].Env = []*wirepb.VQLEnv{{Key: "UPLOAD_IS_RESUMABLE", Value: "Y"}}
	}, fmt.Sprintf("SELECT take(file='%s') AS Upload FROM numbers(count=1)", path)))
	final := a.waitFinal(s, "F.1")
	wantStatus(t, final, wirepb.VeloStatus_OK, "")
	if rows := s.results("F.1", "Q0"); strings.Contains(rows[0], hash) {
		t.Fatal("the row waited for the upload")
	}
	data, end := s.upload("F.1", 0)
	if len(data) != 3<<20 || end == nil {
		t.Fatalf("%d bytes, end %v", len(data), end)
	}
	var told string
	for _, m := range s.received() {
		if r := m.GetUploadTransaction().GetResponse(); r != "" {
			told = r
		}
	}
	if !strings.Contains(told, hash) {
		t.Fatalf("result %q", told)
	}
}

func TestDeferredUploadThatFailedIsAFailureInTheNextRunToo(t *testing.T) {
	var log []string
	scope := testEngine(t).NewScope(vql.SessionOptions{
		Env: vql.NewDict().Set("UPLOAD_IS_RESUMABLE", "Y"),
		Log: func(level, message string) { log = append(log, level+" "+message) },
	})
	defer scope.Close()
	state := &upload{
		Key: uploadKey(0, "file", "/dir/f", "/dir/f"), Size: 4, Deferred: true, Done: true,
		Result: `{"Path":"/dir/f","Size":0,"Error":"permission denied"}`,
	}
	s := &sink{}
	u := testUploader(t, s, state)
	if n := u.output.status.snapshot(time.Now()).GetUploadedFiles(); n != 0 {
		t.Fatalf("%d files counted", n)
	}
	result, err := u.Upload(t.Context(), scope, rawUpload("f", []byte("text")))
	if err != nil || result.Path != "/dir/f" || len(s.messages) != 0 {
		t.Fatal(result, err, s.messages)
	}
	if len(log) != 1 || !strings.Contains(log[0], "ERROR upload: /dir/f: permission denied") {
		t.Fatalf("log %q", log)
	}
}

func TestServerResumesUploadsOfAFlow(t *testing.T) {
	s := newTestServer(t)
	path := filepath.Join(t.TempDir(), "f")
	os.WriteFile(path, bytes.Repeat([]byte("0123456789"), 1000), 0o600)
	o := testOptions(t, t.TempDir(), s.URL+"/")
	o.Accessors = accessors()
	a := start(t, o)
	s.send(&wirepb.VeloMessage{SessionId: "F.9", ResumeTransactions: &wirepb.ResumeTransactions{
		FlowId: "F.9", Transactions: []*wirepb.UploadTransaction{
			{Filename: path, Accessor: "file", StoreAsName: "f", Components: []string{"f"}, UploadId: 4, StartOffset: 9990, ExpectedSize: 10000},
			{Filename: path + ".gone", Accessor: "file", StoreAsName: "g", Components: []string{"g"}, UploadId: 5},
		},
		QueryStats: []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_OK, ResultRows: 12}},
	}})
	final := a.waitFinal(s, "F.9")
	if final.GetQueryStatus()[0].GetResultRows() != 12 || len(final.GetQueryStatus()) != 2 {
		t.Fatalf("final %v", final)
	}
	rows := s.results("F.9", resumedName)
	if len(rows) != 2 || !strings.Contains(rows[1], "Error") {
		t.Fatalf("rows %q", rows)
	}
	for _, m := range s.received() {
		if b := m.GetFileBuffer(); b != nil && !b.GetEof() && (b.GetOffset() != 9990 || string(b.GetData()) != "0123456789") {
			t.Fatalf("buffer %v", b)
		}
	}
}
