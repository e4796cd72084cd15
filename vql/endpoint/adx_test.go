package endpoint_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// serveADX is the sign-in of Azure and a cluster.
func serveADX(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
	switch r.Host {
	case "login.microsoftonline.com":
		s.is("sign in", r.Method+" "+r.URL.Path, "POST /tenant/oauth2/v2.0/token")
		form, err := url.ParseQuery(string(body))
		if err != nil {
			s.t.Error(err)
		}
		s.is("form", form.Encode(), "client_id=app&client_secret=hush&grant_type=client_credentials&scope=https%3A%2F%2Fc.kusto.windows.net%2F.default")
		s.take("token")
		fmt.Fprint(w, `{"access_token":"bearer","expires_in":3599}`)
	case "c.kusto.windows.net":
		s.is("ingest", r.Method+" "+r.URL.String(), "POST /v1/rest/ingest/my%20db/T?streamFormat=JSON")
		s.is("authorization", r.Header.Get("Authorization"), "Bearer bearer")
		for line := range strings.Lines(string(body)) {
			if !json.Valid([]byte(line)) {
				s.t.Errorf("no row: %s", line)
			}
			s.take(line)
		}
		fmt.Fprint(w, `{"Tables":[]}`)
	default:
		s.t.Errorf("who is %s?", r.Host)
	}
}

func TestADXUpload(t *testing.T) {
	const call = `SELECT Rows, Bytes, DurationMs >= 0 AS Took, FlushReason, Status, Response FROM adx_upload(cluster_url='https://ingest-c.kusto.windows.net',
	   database='my db', table='T', client_id='app', client_secret='hush', tenant_id='tenant', chunk_size=2, query=Rows)`
	server, settings := newCloud(t, serveADX, status(503))
	s := newSession(t, map[string]any{"Rows": rowsOf(t, `{"A":1}`, `{"A":2}`, `{"A":3}`)}, settings)
	s.want(call, `{"Rows":2,"Bytes":16,"Took":true,"FlushReason":"count","Status":200,"Response":"{\"Tables\":[]}"}`,
		`{"Rows":1,"Bytes":8,"Took":true,"FlushReason":"end","Status":200,"Response":"{\"Tables\":[]}"}`)
	server.wantTaken("token", "{\"A\":1}\n", "{\"A\":2}\n", "{\"A\":3}\n")
}

func TestADXUploadTellsOfARefusedSignIn(t *testing.T) {
	_, settings := newCloud(t, func(_ *target, w http.ResponseWriter, _ *http.Request, _ []byte) {
		http.Error(w, `{"error":"invalid_client"}`, http.StatusUnauthorized)
	})
	s := newSession(t, map[string]any{"Rows": rowsOf(t, `{"A":1}`)}, settings)
	s.want(`SELECT Rows, Response =~ 'gave up 1 of 1 rows: sign in: .*invalid_client' AS Told FROM adx_upload(cluster_url='https://c.kusto.windows.net',
	   database='db', table='T', client_id='app', client_secret='hush', tenant_id='tenant', query=Rows)`, `{"Rows":0,"Told":true}`)
	if strings.Contains(s.log(), "hush") {
		t.Error("the log holds the secret")
	}
}
