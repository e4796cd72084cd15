package stories_test

import (
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// paths lists the store but for what moves by itself.
func (p *pack) paths() []string {
	p.t.Helper()
	var all []string
	err := filepath.WalkDir(filepath.Dir(p.store), func(path string, _ fs.DirEntry, err error) error {
		name := strings.TrimPrefix(path, p.store+"/")
		if err == nil && !strings.HasPrefix(name, "audit") && !strings.Contains(name, ".tmp-") {
			all = append(all, path)
		}
		return nil // what vanishes while we look is a temporary file
	})
	if err != nil {
		p.t.Fatal(err)
	}
	return all
}

func TestHostileOperatorInputIsRefused(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.agent(0)
	c := a.collect(1000)
	c.complete()
	wait(t, "the views to be written", func() (bool, string) {
		files, err := filepath.Glob(filepath.Join(p.store, "clients", "*", "*", "*", "collections", "*", "flow.json"))
		return err == nil && len(files) >= 2, strings.Join(files, " ")
	})
	wait(t, "the queues to be written", func() (bool, string) { // of the artifact, the client, its interrogation and the ends of flows
		files, err := filepath.Glob(filepath.Join(p.store, "events", "*", "*", "*"))
		return err == nil && len(files) >= 4, strings.Join(files, " ")
	})
	before := p.paths()
	long := strings.Repeat("A", 8000)
	ids := []string{
		"..", "../../../../etc/passwd", "..%2f..%2fetc", "C.", "F.", "C.1234", "F.../../x", "F.1/../../..", "C.0000000000000000",
		long, "C." + long, "F." + long, "\x00", "C.\x00", "%00", "é", "C.ＡＢＣＤ", "' OR 1=1 --", "{{7*7}}", "con", "NUL", ".", "-1", "*", "server",
	}
	get := func(path string) {
		t.Helper()
		p.wantRefused(http.MethodGet, path, nil)
	}
	for _, id := range ids {
		e := url.PathEscape(id)
		get("/clients/" + e)
		get("/clients/" + e + "/flows/" + c.flow)
		get("/clients/" + a.id + "/flows/" + e)
		for _, what := range []string{"results", "logs", "uploads", "uploads/0/content", "events"} {
			get("/clients/" + a.id + "/flows/" + e + "/" + what)
			get("/clients/" + e + "/flows/" + c.flow + "/" + what)
		}
		get("/clients/" + a.id + "/flows/" + c.flow + "/uploads/" + e + "/content")
		get("/clients/" + a.id + "/flows/" + c.flow + "/results?name=" + url.QueryEscape("../"+id))
		get("/clients/" + a.id + "/flows/" + c.flow + "/results?name=" + numbersName + "&cursor=" + url.QueryEscape(id))
		get("/artifacts/" + e)
		p.wantRefused(http.MethodPost, "/clients/"+e+"/flows", collectBody(numbersName, nil))
		p.wantRefused(http.MethodPost, "/clients/"+a.id+"/flows", collectBody("../"+id, nil))
		p.wantRefused(http.MethodPost, "/clients/"+a.id+"/flows/"+e+"/cancel", nil)
		p.wantRefused(http.MethodDelete, "/clients/"+a.id+"/flows/"+e, nil)
		p.wantRefused(http.MethodDelete, "/clients/"+e, nil)
		p.wantRefused(http.MethodDelete, "/artifacts/"+e, nil)
		p.wantRefused(http.MethodPost, "/clients/labels", map[string]any{"clients": []string{id}, "add": []string{"x"}})
	}
	for _, query := range []string{"limit=-1", "limit=999999999", "from=-5", "from=x", "limit=1e9"} {
		get("/clients/" + a.id + "/flows/" + c.flow + "/results?name=" + numbersName + "&" + query)
	}
	for _, text := range []string{"", "not: [yaml", "name: ../../x\nsources:\n- query: SELECT 1 FROM scope()", "name: " + long + "\nsources: []", "name: Custom.X\nsources:\n- query: SELECT FROM WHERE"} {
		p.wantRefused(http.MethodPut, "/artifacts", map[string]string{"text": text})
	}
	if after := p.paths(); !slices.Equal(before, after) {
		t.Errorf("refused requests left something behind: %q", slices.DeleteFunc(after, func(path string) bool { return slices.Contains(before, path) }))
	}
	p.waitReady()
	c.complete()
	a.collect(100).complete()
}

func collectBody(artifact string, parameters map[string]string) any {
	return map[string]any{"artifacts": []map[string]any{{"name": artifact, "parameters": parameters}}}
}

// wantRefused sends a request that must be answered with 4xx. Redirects to a
// cleaned path are not followed: they are the router's answer to dots.
func (p *pack) wantRefused(method, path string, body any) {
	p.t.Helper()
	client := *p.http
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	saved := p.http
	p.http = &client
	code, text, err := p.call(method, path, body)
	p.http = saved
	if len(path) > 200 {
		path = path[:200] + "..."
	}
	moved := code == http.StatusMovedPermanently || code == http.StatusTemporaryRedirect
	if body != nil && method == http.MethodPut {
		path += " " + fmt.Sprintf("%.60v", body)
	}
	if err != nil || (code < 400 || code > 499) && !(moved && strings.Contains(path, ".")) {
		p.t.Errorf("%s %q: %d %.200s %v", method, path, code, text, err)
	}
	if len(text) > 16<<10 {
		p.t.Errorf("%s %q: %d bytes of refusal", method, path, len(text))
	}
}
