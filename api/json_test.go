package api_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"

	"raptorpack/api"
	"raptorpack/config"
	"raptorpack/ids"
)

func TestSignInGivesAGuardedCookieAndSignOutEndsIt(t *testing.T) {
	w := newWorld(t)
	w.want(200, "org_admin", "PUT", "/api/v1/users/alice", map[string]any{"roles": []string{"analyst"}, "password": "correct horse"})
	w.want(401, "", "POST", "/api/v1/sign-in", map[string]string{"name": "alice", "password": "wrong horse"})
	w.want(401, "", "POST", "/api/v1/sign-in", map[string]string{"name": "nobody", "password": "correct horse"})
	r := w.want(200, "", "POST", "/api/v1/sign-in", map[string]string{"name": "alice", "password": "correct horse"})
	cookies := (&http.Response{Header: r.header}).Cookies()
	if len(cookies) != 1 {
		t.Fatalf("cookies %v", cookies)
	}
	c := cookies[0]
	if !strings.HasPrefix(c.Name, "__Host-") || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteLaxMode || c.Path != "/" || c.Domain != "" {
		t.Errorf("cookie %+v", c)
	}
	sent := c.Name + "=" + c.Value
	var me api.Me
	w.want(200, "", "GET", "/api/v1/me", nil, "Cookie", sent).into(t, &me)
	if me.Name != "alice" || len(me.Permissions) == 0 {
		t.Errorf("me %+v", me)
	}
	out := w.want(200, "", "POST", "/api/v1/sign-out", nil, "Cookie", sent)
	if gone := (&http.Response{Header: out.header}).Cookies(); len(gone) != 1 || gone[0].MaxAge >= 0 || gone[0].Name != c.Name {
		t.Errorf("sign-out leaves %v", gone)
	}
	w.want(401, "", "GET", "/api/v1/me", nil, "Cookie", sent)
	if got := w.trail.last("sign-in"); got.Principal != "alice" || got.Address != "127.0.0.1" {
		t.Errorf("audit %+v", got)
	}
}

func TestCallersAreWhoTheirKeyOrCertificateSays(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		name   string
		caller config.Pair
		key    string
		status int
		want   string
	}{
		{"API key", config.Pair{}, "reader", 200, "reader"},
		{"nobody", config.Pair{}, "", 401, ""},
		{"certificate", pki().robot, "", 200, "robot"},
		{"certificate without an account", pki().stranger, "", 401, ""},
		{"a node", pki().node, "", 401, ""},
		{"a node with somebody's key", pki().node, "org_admin", 401, ""},
		{"command on the host", pki().local, "", 200, "local:root"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := w.askAs(c.caller, c.key, "GET", "/api/v1/me", nil)
			var me api.Me
			if r.status == 200 {
				r.into(t, &me)
			}
			if r.status != c.status || me.Name != c.want {
				t.Errorf("%d %q, want %d %q", r.status, me.Name, c.status, c.want)
			}
		})
	}
	w.keys["forged"] = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
	w.want(401, "forged", "GET", "/api/v1/me", nil)
	w.want(200, "org_admin", "PUT", "/api/v1/users/robot", map[string]any{"roles": []string{"api"}, "locked": true})
	if r := w.askAs(pki().robot, "", "GET", "/api/v1/me", nil); r.status != 401 {
		t.Errorf("a locked account's certificate: %d", r.status)
	}
	w.want(401, "robot", "GET", "/api/v1/me", nil)
}

func TestPermissionsGateEachOperation(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	one := w.flowsPath() + "/" + key.Flow.String()
	labels := map[string]any{"clients": []string{w.client.String()}, "add": []string{"x"}}
	artifact := map[string]string{"text": secretArtifact}
	account := map[string]any{"roles": []string{"reader"}}
	operations := []struct {
		method, path string
		body         any
		allowed      string // roles that may; all others get 403
	}{
		{"GET", "/api/v1/clients", nil, "reader api basic analyst investigator artifact_writer administrator org_admin"},
		{"GET", one, nil, "reader api basic analyst investigator artifact_writer administrator org_admin"},
		{"GET", one + "/results", nil, "reader api basic analyst investigator artifact_writer administrator org_admin"},
		{"GET", one + "/uploads", nil, "reader api basic analyst investigator artifact_writer administrator org_admin"},
		{"POST", "/api/v1/clients/labels", labels, "analyst investigator administrator org_admin"},
		{"POST", w.flowsPath(), wish("Linux.Sys.Users", nil), "investigator administrator org_admin"},
		{"POST", "/api/v1/clients/" + w.client.String() + "/interrogate", nil, "investigator administrator org_admin"},
		{"PUT", "/api/v1/artifacts", artifact, "artifact_writer administrator org_admin"},
		{"GET", "/api/v1/users", nil, "administrator org_admin"},
		{"PUT", "/api/v1/users/zoe", account, "administrator org_admin"},
		{"GET", "/api/v1/pack", nil, "reader api basic analyst investigator artifact_writer administrator org_admin"},
		{"POST", "/api/v1/pack/nodes/n2/drain", nil, "administrator org_admin"},
		{"POST", "/api/v1/users/reader/keys", map[string]any{}, "reader administrator org_admin"},
		{"DELETE", w.flowsPath() + "/F.AAAAAAAAAAAAA", nil, "administrator org_admin"},
		{"DELETE", "/api/v1/clients/C.00000000000000aa", nil, "administrator org_admin"},
	}
	for _, o := range operations {
		for _, role := range strings.Fields("reader api basic analyst investigator artifact_writer administrator org_admin") {
			r := w.ask(role, o.method, o.path, o.body)
			may := strings.Contains(" "+o.allowed+" ", " "+role+" ")
			if denied := r.status == 403; denied == may || r.status == 401 || r.status >= 500 {
				t.Errorf("%s %s as %s: %d, allowed %v: %s", o.method, o.path, role, r.status, may, r.body)
			}
		}
		if r := w.ask("", o.method, o.path, o.body); r.status != 401 {
			t.Errorf("%s %s as nobody: %d", o.method, o.path, r.status)
		}
	}
}

func TestNobodyGivesAwayMoreThanTheyHave(t *testing.T) {
	w := newWorld(t)
	w.want(403, "administrator", "PUT", "/api/v1/users/eve", map[string]any{"roles": []string{"org_admin"}})
	w.want(403, "administrator", "POST", "/api/v1/users/org_admin/keys", map[string]any{})
	w.want(200, "org_admin", "PUT", "/api/v1/users/eve", map[string]any{"roles": []string{"org_admin"}})
	w.want(403, "administrator", "DELETE", "/api/v1/users/eve", nil)
	w.want(403, "administrator", "PUT", "/api/v1/users/eve", map[string]any{"roles": []string{"reader"}, "password": "taken over now"})
}

func TestAWriteWithTheSameKeyIsDoneOnce(t *testing.T) {
	w := newWorld(t)
	var first, second, third api.Collected
	w.want(200, "investigator", "POST", w.flowsPath(), wish("Linux.Sys.Users", nil), "Idempotency-Key", "k1").into(t, &first)
	w.want(200, "investigator", "POST", w.flowsPath(), wish("Linux.Sys.Users", nil), "Idempotency-Key", "k1").into(t, &second)
	w.want(200, "administrator", "POST", w.flowsPath(), wish("Linux.Sys.Users", nil), "Idempotency-Key", "k1").into(t, &third)
	if first != second {
		t.Errorf("repeated: %+v, first %+v", second, first)
	}
	if third.Flow == first.Flow {
		t.Error("another person's key is the same")
	}
	var all api.List[api.Flow]
	w.want(200, "reader", "GET", w.flowsPath(), nil).into(t, &all)
	if len(all.Items) != 2 || all.Total != 2 {
		t.Errorf("%d flows of %d", len(all.Items), all.Total)
	}
}

func TestARepeatedChangeIsAnsweredAsTheFirst(t *testing.T) {
	w := newWorld(t)
	one := w.flowsPath() + "/" + w.collect("Linux.Sys.Users", nil).Flow.String()
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": secretArtifact})
	w.want(200, "org_admin", "PUT", "/api/v1/users/eve", map[string]any{"roles": []string{"reader"}})
	for _, c := range []struct{ method, path string }{
		{"POST", one + "/cancel"},
		{"DELETE", one},
		{"DELETE", "/api/v1/artifacts/Custom.Secret"},
		{"DELETE", "/api/v1/users/eve"},
		{"DELETE", "/api/v1/clients/" + w.client.String()},
	} {
		var first, second api.Done
		w.want(200, "administrator", c.method, c.path, nil, "Idempotency-Key", "k").into(t, &first)
		lines := w.trail.operations()
		w.want(200, "administrator", c.method, c.path, nil, "Idempotency-Key", "k").into(t, &second)
		if first != second || first.Index == 0 {
			t.Errorf("%s %s: first %+v, then %+v", c.method, c.path, first, second)
		}
		if now := w.trail.operations(); now != lines {
			t.Errorf("%s %s: what was not done again left a line: %s", c.method, c.path, now)
		}
	}
}

func TestAKeyUsedForSomethingElseIsNoRepeat(t *testing.T) {
	w := newWorld(t)
	var first, second api.Collected
	w.want(200, "investigator", "POST", w.flowsPath(), wish("Linux.Sys.Users", nil), "Idempotency-Key", "k").into(t, &first)
	w.want(200, "investigator", "POST", w.flowsPath(), wish("Linux.Mounts", nil), "Idempotency-Key", "k").into(t, &second)
	if first.Flow == second.Flow {
		t.Error("another body was taken for a repeat")
	}
	w.want(200, "investigator", "POST", w.flowsPath()+"/"+first.Flow+"/cancel", nil, "Idempotency-Key", "k")
	var f api.Flow
	w.want(200, "reader", "GET", w.flowsPath()+"/"+first.Flow, nil).into(t, &f)
	if f.State != "cancelled" {
		t.Errorf("another operation was taken for a repeat: %s", f.State)
	}
}

func TestAnAPIKeyIsMadeOnceForARequest(t *testing.T) {
	w := newWorld(t)
	body := map[string]any{"note": "ci"}
	w.want(200, "reader", "POST", "/api/v1/users/reader/keys", body, "Idempotency-Key", "k")
	if r := w.want(409, "reader", "POST", "/api/v1/users/reader/keys", body, "Idempotency-Key", "k"); !strings.Contains(string(r.body), "shown once") {
		t.Errorf("%s", r.body)
	}
	w.want(200, "reader", "POST", "/api/v1/users/reader/keys", body, "Idempotency-Key", "other")
}

// unheard sends a change whose caller has left before it is handed over.
func (w *world) unheard(change map[string]any) int {
	w.t.Helper()
	text, err := json.Marshal(change)
	w.check(err)
	ctx, leave := context.WithCancel(w.t.Context())
	leave()
	r := httptest.NewRequestWithContext(ctx, http.MethodPost, "/api/v1/clients/labels", bytes.NewReader(text))
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+w.keys["analyst"])
	answer := httptest.NewRecorder()
	w.server.Handler().ServeHTTP(answer, r)
	return answer.Code
}

func TestAChangeWhoseCallerLeavesHasItsAuditLine(t *testing.T) {
	w := newWorld(t)
	change := map[string]any{"clients": []string{w.client.String()}, "add": []string{"x"}}
	w.ledger.slow = func(ctx context.Context) error {
		if ctx.Err() != nil {
			return fmt.Errorf("%w: %w", api.ErrUnsure, ctx.Err())
		}
		return nil
	}
	w.unheard(change)
	if line := w.trail.last("label"); line.Object != w.client.String() || line.Details["outcome"] != "" {
		t.Errorf("line %+v", line)
	}
	w.ledger.slow = func(context.Context) error { return fmt.Errorf("test: %w", api.ErrUnsure) }
	if got := w.unheard(change); got != http.StatusServiceUnavailable {
		t.Errorf("an open outcome: %d", got)
	}
	if line := w.trail.last("label"); line.Details["outcome"] != "unsure" || line.Details["add"] != "x" {
		t.Errorf("line of an open outcome %+v", line)
	}
}

func TestErrorsHaveTheirStatus(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	one := w.flowsPath() + "/" + key.Flow.String()
	w.want(200, "investigator", "POST", one+"/cancel", nil)
	for _, c := range []struct {
		status       int
		method, path string
		body         any
	}{
		{404, "GET", "/api/v1/clients/C.00000000000000aa", nil},
		{422, "GET", "/api/v1/clients/nonsense", nil},
		{422, "GET", "/api/v1/clients?q=seen:soon", nil},
		{422, "GET", "/api/v1/clients?cursor=x", nil},
		{422, "GET", "/api/v1/clients?limit=0", nil},
		{404, "POST", "/api/v1/clients/C.00000000000000aa/flows", wish("Linux.Sys.Users", nil)},
		{404, "POST", w.flowsPath(), wish("No.Such", nil)},
		{404, "POST", w.flowsPath(), wish("Linux.Sys.Users/NoSource", nil)},
		{422, "POST", w.flowsPath(), wish("Linux.Sys.Users", map[string]string{"Typo": "1"})},
		{422, "POST", w.flowsPath(), map[string]any{"artifacts": []any{}}},
		{422, "POST", w.flowsPath(), map[string]any{"artefacts": []any{}}},
		{400, "POST", w.flowsPath(), "{"},
		{404, "GET", w.flowsPath() + "/F.AAAAAAAAAAAAA", nil},
		{404, "GET", one + "/results?name=Other", nil},
		{404, "GET", one + "/uploads/0/content", nil},
		{404, "GET", one[:len(one)-1] + "Z/events", nil},
		{409, "POST", one + "/cancel", nil},
		{404, "GET", "/api/v1/artifacts/No.Such", nil},
		{422, "PUT", "/api/v1/artifacts", map[string]string{"text": "name: [1"}},
		{409, "DELETE", "/api/v1/artifacts/Linux.Sys.Users", nil},
		{422, "POST", "/api/v1/clients/labels", map[string]any{"clients": []string{w.client.String()}, "add": []string{""}}},
		{404, "DELETE", "/api/v1/users/nobody", nil},
		{422, "PUT", "/api/v1/users/zoe", map[string]any{"roles": []string{"emperor"}}},
		{422, "PUT", "/api/v1/users/zoe", map[string]any{"roles": []string{"reader"}, "password": "short"}},
	} {
		r := w.ask("org_admin", c.method, c.path, c.body)
		if r.status != c.status && !(c.status == 400 && r.status == 422) {
			t.Errorf("%s %s: %d, want %d: %s", c.method, c.path, r.status, c.status, r.body)
			continue
		}
		var problem struct {
			Status int
			Detail string
		}
		r.into(t, &problem)
		if problem.Status != r.status || problem.Detail == "" || !strings.HasPrefix(r.header.Get("Content-Type"), "application/problem+json") {
			t.Errorf("%s %s: problem %+v of type %s", c.method, c.path, problem, r.header.Get("Content-Type"))
		}
	}
}

func TestWithoutAMasterWritesAreLaterAndReadsGoOn(t *testing.T) {
	w := newWorld(t)
	w.ledger.setHeadless(true)
	r := w.want(503, "investigator", "POST", w.flowsPath(), wish("Linux.Sys.Users", nil))
	if r.header.Get("Retry-After") == "" {
		t.Error("no Retry-After")
	}
	w.want(200, "reader", "GET", "/api/v1/clients", nil)
	w.want(503, "reader", "GET", "/api/v1/clients", nil, "X-Raptorpack-Index", "1000000")
	w.want(503, "", "POST", "/api/v1/sign-out", nil, "Authorization", "Bearer "+w.keys["reader"])
}

func TestClientsAreFoundAndLabelled(t *testing.T) {
	w := newWorld(t)
	var done api.Done
	w.want(200, "analyst", "POST", "/api/v1/clients/labels", map[string]any{"clients": []string{w.client.String()}, "add": []string{"Prod", "eu"}}).into(t, &done)
	var found api.List[api.Client]
	for query, hits := range map[string]int{"": 1, "label:prod": 1, "-label:prod": 0, "host:web*": 1, "os:windows": 0, w.client.String(): 1, "online": 1} {
		w.want(200, "reader", "GET", "/api/v1/clients?q="+strings.ReplaceAll(query, "*", "%2A"), nil, "X-Raptorpack-Index", fmt.Sprint(done.Index)).into(t, &found)
		if len(found.Items) != hits && query != "online" {
			t.Errorf("%q finds %d", query, len(found.Items))
		}
	}
	w.want(200, "analyst", "POST", "/api/v1/clients/labels", map[string]any{"clients": []string{w.client.String()}, "remove": []string{"eu"}})
	w.want(403, "analyst", "PATCH", "/api/v1/clients/server/metadata", map[string]any{"set": map[string]string{"owner": "ann"}})
	w.want(200, "analyst", "PATCH", "/api/v1/clients/"+w.client.String()+"/metadata", map[string]any{"set": map[string]string{"owner": "ann"}})
	var one api.Client
	w.want(200, "reader", "GET", "/api/v1/clients/"+w.client.String(), nil).into(t, &one)
	if one.Hostname != "web-1" || fmt.Sprint(one.Labels) != "[Prod]" || one.Metadata["owner"] != "ann" {
		t.Errorf("client %+v", one)
	}
	w.want(200, "administrator", "DELETE", "/api/v1/clients/"+w.client.String(), nil)
	w.want(404, "reader", "GET", "/api/v1/clients/"+w.client.String(), nil)
}

func TestSecretParametersAreNotShown(t *testing.T) {
	w := newWorld(t)
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": secretArtifact})
	connection := w.flows.Attach(ids.RootOrg, w.client)
	defer connection.Close()
	connection.Next()
	key := w.collect("Custom.Secret", map[string]string{"Token": "hunter2", "Depth": "3"})
	r := w.want(200, "reader", "GET", w.flowsPath()+"/"+key.Flow.String(), nil)
	if strings.Contains(string(r.body), "hunter2") || !strings.Contains(string(r.body), "redacted") || !strings.Contains(string(r.body), `"Depth":"3"`) {
		t.Errorf("flow %s", r.body)
	}
	if sent := fmt.Sprint(connection.Next()); !strings.Contains(sent, "hunter2") {
		t.Errorf("the client is not told the value: %s", sent)
	}
}

func TestCustomArtifactsComeAndGo(t *testing.T) {
	w := newWorld(t)
	w.want(200, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": secretArtifact})
	var one api.Artifact
	w.want(200, "reader", "GET", "/api/v1/artifacts/Custom.Secret", nil).into(t, &one)
	if one.Text != secretArtifact || len(one.Parameters) != 2 || one.BuiltIn {
		t.Errorf("artifact %+v", one)
	}
	var all api.List[api.Artifact]
	w.want(200, "reader", "GET", "/api/v1/artifacts?q=SECRET&type=client", nil).into(t, &all)
	if len(all.Items) != 1 || all.Items[0].Text != "" {
		t.Errorf("list %+v", all)
	}
	// Each line's end takes two bytes in the request.
	large := strings.TrimSuffix(secretArtifact, "\n") + strings.Repeat("\n", 2<<20)
	w.want(200, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": large})
	server := "name: Custom.Server\ntype: SERVER\nsources:\n- query: SELECT 1 FROM scope()\n"
	w.want(403, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": server})
	w.want(200, "administrator", "PUT", "/api/v1/artifacts", map[string]string{"text": server})
	w.want(403, "artifact_writer", "DELETE", "/api/v1/artifacts/Custom.Server", nil)
	takeover := strings.Replace(secretArtifact, "Custom.Secret", "Custom.Server", 1)
	w.want(403, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": takeover})
	for _, unasked := range []string{
		strings.Replace(secretArtifact, "Custom.Secret", "Custom.Generic.Client.Info", 1),
		strings.Replace(secretArtifact, "Custom.Secret", "Custom.Other\naliases: [Custom.Generic.Client.Info]", 1),
	} {
		w.want(403, "artifact_writer", "PUT", "/api/v1/artifacts", map[string]string{"text": unasked})
	}
	w.want(422, "investigator", "POST", w.flowsPath(), wish("Custom.Server", nil))
	w.want(200, "artifact_writer", "DELETE", "/api/v1/artifacts/Custom.Secret", nil)
	w.want(404, "reader", "GET", "/api/v1/artifacts/Custom.Secret", nil)
}

func TestCrossSiteWritesAreRefused(t *testing.T) {
	w := newWorld(t)
	path := "/api/v1/clients/labels"
	body := map[string]any{"clients": []string{w.client.String()}, "add": []string{"x"}}
	w.want(403, "analyst", "POST", path, body, "Sec-Fetch-Site", "cross-site")
	w.want(403, "analyst", "POST", path, body, "Origin", "https://evil.example")
	w.want(200, "analyst", "POST", path, body, "Sec-Fetch-Site", "same-origin")
	w.want(200, "analyst", "GET", "/api/v1/me", nil, "Sec-Fetch-Site", "cross-site")
}

func TestAddressesThatAreNotAllowedAreRefused(t *testing.T) {
	for network, want := range map[string]int{"127.0.0.0/8": http.StatusUnauthorized, "192.0.2.0/24": http.StatusForbidden} {
		w := newWorld(t, func(o *api.Options) { o.Allowed = []netip.Prefix{netip.MustParsePrefix(network)} })
		answer, err := (&http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}).Get(w.base + "/api/v1/me")
		w.check(err)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("allowed %s: status %d, want %d", network, answer.StatusCode, want)
		}
	}
}
