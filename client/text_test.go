package client

import (
	"bytes"
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

func TestTextIsCutBetweenCharactersAndMadeUTF8(t *testing.T) {
	for text, want := range map[string]string{
		"short": "short", "123456789": "1234567...", "123456é9": "123456...", "a\xffb": "a\uFFFDb", "123456\xff\xff": "123456...",
	} {
		if got := shortText(text, 7); got != want {
			t.Errorf("%q became %q, want %q", text, got, want)
		}
	}
}

// rawUpload is the upload of a file whose name is no UTF-8.
func rawUpload(name string, data []byte) vql.UploadRequest {
	return vql.UploadRequest{
		Path: vql.ParsePath(vql.PathLinux, "/dir/"+name), Accessor: "file", Reader: bytes.NewReader(data), Size: int64(len(data)),
		Mtime: time.Unix(1, 0),
	}
}

func TestFilesWhoseNamesAreNoUTF8AreUploadedAndKnownAgain(t *testing.T) {
	scope := testEngine(t).NewScope(vql.SessionOptions{})
	defer scope.Close()
	dir := t.TempDir()
	b := openTestBuffer(t, filepath.Join(dir, "b"), 0)
	defer func() { b.Close() }()
	if err := b.note(t.Context(), flowEvent{Op: opAccept, Flow: "F.1"}); err != nil {
		t.Fatal(err)
	}
	names := []string{"a\xff", "a\xfe", "a\uFFFD"}
	uploads := func() (ids []int64) {
		record, _ := b.flow("F.1")
		o := &output{buffer: b, session: "F.1", status: newQueryStatus(time.Now()), metric: NewMetrics(nil)}
		u := newUploader(o, newUploadBook(record.Uploads), func(int64) error { return nil })
		for _, name := range names {
			result, err := u.Upload(t.Context(), scope, rawUpload(name, []byte("text")))
			if err != nil || result.Error != "" {
				t.Fatal(result, err)
			}
			ids = append(ids, result.UploadID)
		}
		return ids
	}
	first := uploads()
	stored := map[string]bool{}
	b.mu.Lock()
	pending := b.journal.Next
	b.mu.Unlock()
	for _, m := range sent(t, lease(t, b, 1<<20)) {
		if u := m.GetUploadTransaction(); u != nil {
			stored[strings.Join(u.GetComponents(), "/")] = true
		}
	}
	if len(stored) != len(names) {
		t.Fatalf("names at the server: %v", stored)
	}
	b.abandon()
	b = openTestBuffer(t, filepath.Join(dir, "b"), 0)
	if again := uploads(); again[0] != first[0] || again[1] != first[1] || again[2] != first[2] || b.journal.Next != pending {
		t.Fatalf("uploads %v came again as %v, messages %d to %d", first, again, pending, b.journal.Next)
	}
}

func TestRowsWithColumnsThatAreNoUTF8AreDelivered(t *testing.T) {
	b := openTestBuffer(t, "", 0)
	o := &output{buffer: b, session: "F.1", status: newQueryStatus(time.Now()), metric: NewMetrics(nil)}
	rows := newRowsOut(o, &wirepb.VQLRequest{Name: "N"}, 0, &wirepb.VQLCollectorArgs{}, prefix{}, prefix{})
	if err := rows.add(t.Context(), vql.NewDict().Set("A\xff", "b\xff")); err != nil {
		t.Fatal(err)
	}
	if err := rows.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	r := sent(t, lease(t, b, 1<<20))[0].GetVqlResponse()
	var row map[string]string
	if err := json.Unmarshal([]byte(r.GetJsonlResponse()), &row); err != nil || row[r.GetColumns()[0]] != "b\uFFFD" {
		t.Fatalf("columns %q of row %q", r.GetColumns(), r.GetJsonlResponse())
	}
}

func TestErrorsThatAreNoUTF8DoNotKeepAFlowFromItsEnd(t *testing.T) {
	s := newTestServer(t)
	o := testOptions(t, "", s.URL+"/")
	raw := vql.NewPlugin(vql.Spec{Name: "raw"}, func(_ context.Context, scope *vql.Scope, _ *struct{}, _ vql.Emit) error {
		scope.LogAlways(vql.LevelError, "open /dir/a%s: gone", "\xff")
		return nil
	})
	engine, err := vql.NewEngine(nil, []*vql.Plugin{raw})
	if err != nil {
		t.Fatal(err)
	}
	o.Engine = engine
	a := start(t, o)
	s.send(flowRequest("F.1", nil, "SELECT * FROM raw()"))
	final := a.waitFinal(s, "F.1")
	wantStatus(t, final, wirepb.VeloStatus_GENERIC_ERROR, "open /dir/a\uFFFD: gone")
	if !utf8.ValidString(s.logText("F.1")) {
		t.Fatalf("log %q", s.logText("F.1"))
	}
}
