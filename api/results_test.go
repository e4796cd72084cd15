package api_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/flows"
)

// exact are rows that a decoder on the way would spoil.
var exact = []string{
	`{"Big":9223372036854775807,"Huge":18446744073709551615,"Small":1e-320,"Zero":-0.0,"Long":0.1234567890123456789}`,
	`{"b":1,"a":2,"b":3,"<tag>":"&\u2028\ud800"}`,
	`{"Text":"line\nbreak \u0000 end","Nested":{"z":[1,2,{"y":null}]}}`,
}

func TestRowsPassAsTheBytesThatAreStored(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	w.arrive(rowsOf(key, "Linux.Sys.Users", 0, exact...), endOf(key, 3, 0))
	path := w.flowsPath() + "/" + key.Flow.String() + "/results"
	r := w.want(200, "reader", "GET", path, nil)
	for _, row := range exact {
		if !strings.Contains(string(r.body), row) {
			t.Errorf("row is not there as it was: %s\nin %s", row, r.body)
		}
	}
	var got []string
	cursor := ""
	for pages := 0; ; pages++ {
		var page api.Rows
		w.want(200, "reader", "GET", path+"?limit=2&cursor="+cursor, nil).into(t, &page)
		if page.Total != 3 || page.From != int64(len(got)) || page.State != "completed" || len(page.Holes) != 0 {
			t.Fatalf("page %+v", page)
		}
		for _, row := range page.Items {
			got = append(got, string(row))
		}
		if cursor = page.Next; cursor == "" {
			break
		}
		if pages > 5 {
			t.Fatal("pages without end")
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(exact) {
		t.Errorf("paged: %q", got)
	}
	var page api.Rows
	w.want(200, "reader", "GET", path+"?from=2", nil).into(t, &page)
	if len(page.Items) != 1 || page.From != 2 {
		t.Errorf("from 2: %+v", page)
	}
	w.want(422, "reader", "GET", path+"?limit=2&cursor=nonsense", nil)
}

func TestHolesAreVisible(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"n":0}`), rowsOf(key, "Linux.Sys.Users", 3, `{"n":3}`))
	var page api.Rows
	w.want(200, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/results", nil).into(t, &page)
	if fmt.Sprint(page.Holes) != "[{1 3}]" || len(page.Items) != 2 {
		t.Errorf("page %+v", page)
	}
}

func TestUploadsAreListedAndDownloadedSafely(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Search.FileFinder", nil)
	content := strings.Repeat("<script>alert(1)</script>", 1000)
	w.arrive(append(uploadOf(key, 0, content), endOf(key, 0, 1))...)
	path := w.flowsPath() + "/" + key.Flow.String() + "/uploads"
	var list api.List[flows.Upload]
	w.want(200, "reader", "GET", path, nil).into(t, &list)
	if len(list.Items) != 1 || list.Items[0].Size != int64(len(content)) || len(list.Items[0].SHA256) != 64 {
		t.Fatalf("list %+v", list)
	}
	r := w.want(200, "reader", "GET", path+"/0/content", nil)
	if string(r.body) != content {
		t.Errorf("%d bytes of %d", len(r.body), len(content))
	}
	for name, want := range map[string]string{
		"Content-Type": "application/octet-stream", "X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox",
		"Content-Length": fmt.Sprint(len(content)),
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if got := r.header.Get("Content-Disposition"); !strings.HasPrefix(got, "attachment;") || strings.ContainsAny(got, "\r\n<") || r.header.Get("X") != "" {
		t.Errorf("Content-Disposition %q", got)
	}
	w.want(404, "reader", "GET", path+"/1/content", nil)
	w.want(401, "", "GET", path+"/0/content", nil)
}

func TestTheEventStreamEndsWithTheFlow(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	path := w.flowsPath() + "/" + key.Flow.String() + "/events"
	w.want(401, "", "GET", path, nil)
	response := w.send(config.Pair{}, "reader", "GET", path, nil)
	defer response.Body.Close()
	if got := response.Header.Get("Content-Type"); got != "text/event-stream" {
		t.Fatalf("type %s", got)
	}
	lines := bufio.NewScanner(response.Body)
	var states []string
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		var f api.Flow
		w.check(json.Unmarshal([]byte(data), &f))
		states = append(states, f.State)
		if len(states) == 1 { // the first is on its way before anything happens
			w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"n":0}`), endOf(key, 1, 0))
		}
	}
	w.check(lines.Err())
	if len(states) < 2 || states[0] != "pending" || states[len(states)-1] != "completed" {
		t.Errorf("states %v", states)
	}
}

func TestTheEventStreamEndsWithTheRightToRead(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	response := w.send(config.Pair{}, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/events", nil)
	defer response.Body.Close()
	events := 0
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		if !strings.HasPrefix(lines.Text(), "data: ") {
			continue
		}
		if events++; events == 1 {
			w.want(200, "org_admin", "PUT", "/api/v1/users/reader", map[string]any{"roles": []string{"reader"}, "locked": true})
			w.arrive(rowsOf(key, "Linux.Sys.Users", 0, `{"n":0}`), endOf(key, 1, 0))
		}
	}
	if events != 1 {
		t.Errorf("%d events, one of them before the lock", events)
	}
}

func TestLogsArePaged(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	w.arrive(endOf(key, 0, 0))
	var page api.Rows
	w.want(200, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/logs", nil).into(t, &page)
	if page.Items == nil || page.Total != 0 {
		t.Errorf("page %+v", page)
	}
}

func TestInterrogationIsRemembered(t *testing.T) {
	w := newWorld(t)
	var started api.Collected
	w.want(200, "investigator", "POST", "/api/v1/clients/"+w.client.String()+"/interrogate", nil).into(t, &started)
	var one api.Client
	w.want(200, "reader", "GET", "/api/v1/clients/"+w.client.String(), nil).into(t, &one)
	if one.Interrogation != started.Flow || one.Interrogation == "" {
		t.Errorf("interrogation %q, started %q", one.Interrogation, started.Flow)
	}
	own := strings.Replace(secretArtifact, "Custom.Secret", "Custom.Generic.Client.Info", 1)
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": own})
	w.want(200, "investigator", "POST", "/api/v1/clients/"+w.client.String()+"/interrogate", nil).into(t, &started)
	var flow api.Flow
	w.want(200, "reader", "GET", w.flowsPath()+"/"+started.Flow, nil).into(t, &flow)
	if len(flow.Results) != 1 || flow.Results[0].Name != "Custom.Generic.Client.Info" {
		t.Errorf("the custom artifact in its place was not taken: %+v", flow.Results)
	}
}
