package api_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// form is a body with one file; part is its name in the form.
func form(part, filename, text string) (body, kind string) {
	var out bytes.Buffer
	w := multipart.NewWriter(&out)
	_ = w.SetBoundary("------------------------0123456789abcdef")
	file, _ := w.CreateFormFile(part, filename)
	_, _ = io.WriteString(file, text)
	_ = w.Close()
	return out.String(), w.FormDataContentType()
}

// put sends a body as it is.
func (w *world) put(who, path, body, kind string, header ...string) reply {
	w.t.Helper()
	return w.sendBody(http.MethodPut, who, path, body, kind, header...)
}

func (w *world) sendBody(method, who, path, body, kind string, header ...string) reply {
	w.t.Helper()
	request, err := http.NewRequestWithContext(w.t.Context(), method, w.base+path, strings.NewReader(body))
	w.check(err)
	request.Header.Set("Content-Type", kind)
	request.Header.Set("Authorization", "Bearer "+w.keys[who])
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	transport := &http.Transport{TLSClientConfig: w.tlsOf(config.Pair{}), ForceAttemptHTTP2: true}
	w.t.Cleanup(transport.CloseIdleConnections)
	response, err := (&http.Client{Transport: transport}).Do(request)
	w.check(err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	w.check(err)
	return reply{response.StatusCode, response.Header, text}
}

func (w *world) publicFiles() int {
	w.t.Helper()
	names, err := w.store.ReadDir(w.t.Context(), "public")
	if err != nil {
		return 0
	}
	return len(names)
}

const toolArtifact = `name: Custom.Uses.Tool
tools:
- name: Probe
  version: "1.2"
sources:
- query: SELECT * FROM Artifact.Generic.Utils.FetchBinary(ToolName='Probe')
`

func (w *world) tool() api.Tool {
	w.t.Helper()
	var tool api.Tool
	w.want(200, "reader", "GET", "/api/v1/tools/Probe", nil).into(w.t, &tool)
	return tool
}

func TestUploadedToolReachesTheArtifact(t *testing.T) {
	w := newWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": toolArtifact})
	if r := w.ask("investigator", "POST", w.flowsPath(), wish("Custom.Uses.Tool", nil)); r.status != 409 || !strings.Contains(string(r.body), "upload") {
		t.Fatalf("without the tool: %d %s", r.status, r.body)
	}
	text := strings.Repeat("tool", 100_000)
	hash := fmt.Sprintf("%x", sha256.Sum256([]byte(text)))
	body, kind := form("file", `C:\dir\probe.exe`, text)
	if r := w.put("investigator", "/api/v1/tools/Probe/file", body, kind); r.status != 403 {
		t.Errorf("an investigator uploads: %d %s", r.status, r.body)
	}
	key := []string{"Idempotency-Key", "once"}
	for range 2 { // the second is a repeat
		if r := w.put("administrator", "/api/v1/tools/Probe/file?sha256="+hash, body, kind, key...); r.status != 200 {
			t.Fatalf("upload: %d %s", r.status, r.body)
		}
	}
	tool := w.tool()
	if !tool.Available || tool.Hash != hash || tool.Size != int64(len(text)) || tool.Filename != "probe.exe" || tool.Version != "1.2" || !tool.Override {
		t.Errorf("%+v", tool)
	}
	if w.publicFiles() != 1 {
		t.Errorf("%d public files after a repeat", w.publicFiles())
	}
	request := w.requestOf("Custom.Uses.Tool")
	found := map[string]string{}
	for _, e := range request.VqlClientActions[0].Env {
		found[e.Key] = e.Value
	}
	if found["Tool_Probe_HASH"] != hash || found["Tool_Probe_URL"] != tool.URLs[0] || !strings.HasPrefix(tool.URLs[0], "https://pack.example/public/") {
		t.Errorf("variables %v, urls %v", found, tool.URLs)
	}
	for _, a := range request.VqlClientActions[0].Artifacts {
		for _, p := range a.Parameters {
			if a.Name == "Generic.Utils.FetchBinary" && p.Name == "Tool_Probe_FILENAME" && p.Default == "probe.exe" {
				return
			}
		}
	}
	t.Error("the bundled artifact is not told of the tool")
}

// requestOf collects an artifact and returns what the client is sent of it.
func (w *world) requestOf(artifact string) *wirepb.FlowRequest {
	w.t.Helper()
	connection := w.flows.Attach(ids.RootOrg, w.client)
	defer connection.Close()
	key := w.collect(artifact, nil)
	for _, m := range connection.Next() {
		if m.FlowRequest != nil && m.SessionId == key.Flow.String() {
			return m.FlowRequest
		}
	}
	w.t.Fatal("the client is sent nothing")
	return nil
}

func TestBadUploadsAreRefusedAndLeaveNothing(t *testing.T) {
	w := newWorld(t)
	good, kind := form("file", "x", "text")
	other, _ := form("data", "x", "text")
	large, _ := form("file", "x", strings.Repeat("x", 2<<20))
	for name, c := range map[string]struct {
		path, body, kind string
		want             int
	}{
		"no form":        {"Probe/file", good, "application/octet-stream", 422},
		"another part":   {"Probe/file", other, kind, 422},
		"cut off":        {"Probe/file", good[:len(good)-20], kind, 422},
		"too large":      {"Probe/file", large, kind, 413},
		"another hash":   {"Probe/file?sha256=" + strings.Repeat("a", 64), good, kind, 422},
		"no hash":        {"Probe/file?sha256=abc", good, kind, 422},
		"a bad filename": {"Probe/file?filename=a%2Fb", good, kind, 422},
		"a bad name":     {"a%2Fb/file", good, kind, 422},
	} {
		if r := w.put("administrator", "/api/v1/tools/"+c.path, c.body, c.kind); r.status != c.want {
			t.Errorf("%s: %d, want %d: %s", name, r.status, c.want, r.body)
		}
	}
	if w.publicFiles() != 0 {
		t.Errorf("%d files are left behind", w.publicFiles())
	}
}

// What a collection needs is fetched for it, and the collection waits.
func TestCollectionWaitsForItsTool(t *testing.T) {
	w := newWorld(t)
	upstream := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { fmt.Fprint(rw, "fetched") }))
	defer upstream.Close()
	fetcher := inventory.NewFetcher(inventory.FetcherOptions{Room: w.tools, Files: inventory.NewFiles(w.store, 0, nil), Propose: func(ctx context.Context, m *buspb.Mutation) error {
		_, err := w.ledger.ProposeIndex(ctx, m)
		return err
	}})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- fetcher.Run(ctx) }()
	defer func() {
		stop()
		w.check(<-ended)
	}()
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": toolArtifact})
	w.want(200, "administrator", "PUT", "/api/v1/tools/Probe", api.ToolDefinition{Version: "1.2", URL: upstream.URL + "/probe", ServeLocally: true})
	w.want(403, "reader", "POST", w.flowsPath(), wish("Custom.Uses.Tool", nil))
	if tool := w.tool(); tool.Available || tool.Fetching {
		t.Fatalf("who may not collect has it fetched: %+v", tool)
	}
	w.collect("Custom.Uses.Tool", nil)
	if tool := w.tool(); !tool.Available || tool.Hash != fmt.Sprintf("%x", sha256.Sum256([]byte("fetched"))) {
		t.Errorf("%+v", tool)
	}
	w.want(200, "administrator", "PUT", "/api/v1/tools/Probe", api.ToolDefinition{Version: "1.2", URL: upstream.URL + "/probe", ExpectedHash: strings.Repeat("a", 64), ServeLocally: true})
	if r := w.ask("investigator", "POST", w.flowsPath(), wish("Custom.Uses.Tool", nil)); r.status != 409 || !strings.Contains(string(r.body), "expected aaaa") {
		t.Errorf("a wrong hash: %d %s", r.status, r.body)
	}
	if tool := w.tool(); tool.InvalidHash == "" || tool.Error == "" {
		t.Errorf("%+v", tool)
	}
}

func TestToolsAreListedChangedAndDeleted(t *testing.T) {
	w := newWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": toolArtifact})
	w.want(403, "investigator", "PUT", "/api/v1/tools/Probe", api.ToolDefinition{URL: "https://x.example/x"})
	w.want(422, "administrator", "PUT", "/api/v1/tools/Probe", api.ToolDefinition{URL: "file:///etc/passwd"})
	w.want(409, "administrator", "POST", "/api/v1/tools/Probe/fetch", nil) // it says nowhere where it comes from
	w.want(404, "administrator", "DELETE", "/api/v1/tools/Other", nil)
	w.want(404, "administrator", "DELETE", "/api/v1/tools/Probe", nil)
	w.want(200, "administrator", "PUT", "/api/v1/tools/Extra", api.ToolDefinition{URL: "https://x.example/x", ExpectedHash: strings.Repeat("b", 64)})
	var list api.List[api.Tool]
	w.want(200, "reader", "GET", "/api/v1/tools", nil).into(t, &list)
	if list.Total != 2 || list.Items[0].Name != "Extra" || !list.Items[0].Available || list.Items[1].Artifact != "Custom.Uses.Tool" {
		t.Errorf("%+v", list)
	}
	w.want(200, "administrator", "DELETE", "/api/v1/tools/Extra", nil)
	w.want(404, "reader", "GET", "/api/v1/tools/Extra", nil)
	if !strings.Contains(w.trail.operations(), "administrator:tool.set") || !strings.Contains(w.trail.operations(), "administrator:tool.delete") {
		t.Errorf("audit trail: %s", w.trail.operations())
	}
}
