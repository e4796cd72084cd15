package endpoint_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/vql"
	"raptorpack/vql/endpoint"
)

// quick is how tests reach their targets: attempts follow each other at once.
func quick() *endpoint.HTTPSettings {
	return &endpoint.HTTPSettings{UserAgent: "agent", RetryWaits: []time.Duration{time.Microsecond}}
}

// target is a server that keeps what it took and what was wrong with requests.
type target struct {
	*httptest.Server
	t testing.TB

	mu       sync.Mutex
	requests int
	taken    []string
	faults   []func(http.ResponseWriter) // for the first requests
}

// newTarget answers requests with serve, after the faults.
func newTarget(t testing.TB, serve func(s *target, w http.ResponseWriter, r *http.Request, body []byte), faults ...func(http.ResponseWriter)) *target {
	t.Helper()
	s := &target{t: t, faults: faults}
	s.Server = httptest.NewServer(s.handler(serve))
	t.Cleanup(s.Close)
	return s
}

func (s *target) handler(serve func(*target, http.ResponseWriter, *http.Request, []byte)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // the client's fault, or its cancellation
		}
		s.mu.Lock()
		s.requests++
		var fault func(http.ResponseWriter)
		if len(s.faults) > 0 {
			fault, s.faults = s.faults[0], s.faults[1:]
		}
		s.mu.Unlock()
		if fault != nil {
			fault(w)
			return
		}
		serve(s, w, r, body)
	})
}

func (s *target) take(item string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.taken = append(s.taken, item)
}

// wantTaken compares what the target took, in any order.
func (s *target) wantTaken(want ...string) {
	s.t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	slices.Sort(s.taken)
	slices.Sort(want)
	if !slices.Equal(s.taken, want) {
		s.t.Errorf("taken:\n%s\nwant:\n%s", strings.Join(s.taken, "\n"), strings.Join(want, "\n"))
	}
}

// is checks a fact of a request.
func (s *target) is(what, got, want string) {
	s.t.Helper()
	if got != want {
		s.t.Errorf("%s is %q, want %q", what, got, want)
	}
}

func status(code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) { http.Error(w, "no", code) }
}

// reset breaks the connection in the middle of the answer.
func reset(w http.ResponseWriter) {
	conn, buf, err := w.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	fmt.Fprint(buf, "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
	_ = buf.Flush() // the connection is broken next
	if c, ok := conn.(*net.TCPConn); ok {
		_ = c.SetLinger(0) // so that the client sees a reset
	}
	_ = conn.Close()
}

// serveBulk is a bulk API that refuses documents with a member bad, and is too busy
// for those with a member busy when it first sees them.
func serveBulk(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
	s.is("method", r.Method+" "+r.URL.Path, "POST /base/_bulk")
	s.is("content type", r.Header.Get("Content-Type"), "application/x-ndjson")
	lines := strings.Split(strings.TrimSuffix(string(body), "\n"), "\n")
	if len(lines)%2 != 0 || !bytes.HasSuffix(body, []byte("\n")) {
		s.t.Errorf("the body is no bulk: %q", body)
	}
	var items []string
	failed := false
	for i := 0; i+1 < len(lines); i += 2 {
		var action map[string]struct {
			Index string `json:"_index"`
			Type  string `json:"_type"`
		}
		var doc map[string]any
		if err := errors.Join(json.Unmarshal([]byte(lines[i]), &action), json.Unmarshal([]byte(lines[i+1]), &doc)); err != nil {
			s.t.Errorf("lines %q: %v", lines[i:i+2], err)
		}
		for name, facts := range action {
			code := 201
			switch {
			case doc["_index"] != nil || doc["bad"] != nil:
				code, failed = 400, true
			case doc["busy"] != nil && s.first(lines[i+1]):
				code, failed = 429, true
			default:
				s.take(name + " " + facts.Index + facts.Type + " " + lines[i+1])
			}
			item := fmt.Sprintf(`{%q:{"status":%d}}`, name, code)
			if code >= 300 {
				item = fmt.Sprintf(`{%q:{"status":%d,"error":{"reason":"no room or no sense"}}}`, name, code)
			}
			items = append(items, item)
		}
	}
	fmt.Fprintf(w, `{"took":3,"errors":%v,"items":[%s]}`, failed, strings.Join(items, ","))
}

// first reports whether this text was not seen before.
func (s *target) first(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.taken, "seen "+text) {
		return false
	}
	s.taken = append(s.taken, "seen "+text)
	return true
}

// rowsOf are the rows of a query, given as JSON objects.
func rowsOf(t testing.TB, rows ...string) []any {
	t.Helper()
	var out []any
	for _, text := range rows {
		d := vql.NewDict()
		if err := d.UnmarshalJSON([]byte(text)); err != nil {
			t.Fatal(err)
		}
		out = append(out, d)
	}
	return out
}

func TestElasticUpload(t *testing.T) {
	server := newTarget(t, serveBulk, status(503), status(429), reset)
	s := newSession(t, map[string]any{"U": server.URL + "/base", "Rows": rowsOf(t, `{"A":1}`, `{"A":2,"_index":"own"}`, `{"A":3}`)}, quick())
	s.want(`SELECT * FROM elastic_upload(addresses=U, index='plain', query=Rows)`, `{"StatusCode":200,"Response":"3 rows taken"}`)
	server.wantTaken(`index own {"A":2}`, `index plain {"A":1}`, `index plain {"A":3}`)
	if strings.Contains(s.log(), "ERROR") {
		t.Error(s.log())
	}
	s.want(`SELECT * FROM elastic_upload(addresses=U, action='create', type='doc', index='plain', chunk_size=2, threads=2, query=Rows) ORDER BY Response`,
		`{"StatusCode":200,"Response":"1 rows taken"}`, `{"StatusCode":200,"Response":"2 rows taken"}`)
	server.wantTaken(`index own {"A":2}`, `index plain {"A":1}`, `index plain {"A":3}`,
		`create owndoc {"A":2}`, `create plaindoc {"A":1}`, `create plaindoc {"A":3}`)
}

func TestElasticUploadReadsFailuresInsideASuccess(t *testing.T) {
	server := newTarget(t, serveBulk)
	s := newSession(t, map[string]any{"U": server.URL + "/base", "Rows": rowsOf(t, `{"A":1}`, `{"bad":2}`, `{"busy":3}`, `{"A":4}`)}, quick())
	s.want(`SELECT * FROM elastic_upload(addresses=U, index='i', query=Rows)`,
		`{"StatusCode":200,"Response":"gave up 1 of 4 rows: status 400: {\"reason\":\"no room or no sense\"}"}`)
	server.wantTaken(`index i {"A":1}`, `index i {"A":4}`, `index i {"busy":3}`, `seen {"busy":3}`)
	s.wantLog("ERROR: elastic_upload: gave up 1 of 4 rows: status 400")
	s.wantLog("ERROR: elastic_upload: delivered 3 rows in 2 posts, gave up 1")
	s.want(`SELECT * FROM elastic_upload(addresses=U, query=Rows)`,
		`{"StatusCode":0,"Response":"gave up 4 of 4 rows: no index: give index, or rows with a column _index"}`)
}

func TestElasticUploadMistrustsAnswers(t *testing.T) {
	for body, want := range map[string]string{
		"<html>":                         "gave up 2 of 2 rows: what became of the rows is unknown: the answer is no JSON: <html>",
		`{"errors":true,"items":[]}`:     "gave up 2 of 2 rows: what became of the rows is unknown: the answer tells of 0 rows, not 2",
		`{"errors":true,"items":[{},0]}`: `gave up 2 of 2 rows: what became of the rows is unknown: the answer is no JSON: {"errors":true,"items":[{},0]}`,
	} {
		server := newTarget(t, func(_ *target, w http.ResponseWriter, _ *http.Request, _ []byte) { fmt.Fprint(w, body) })
		s := newSession(t, map[string]any{"U": server.URL, "Rows": rowsOf(t, `{"A":1}`, `{"A":2}`), "Want": want}, quick())
		s.want(`SELECT StatusCode, Response = Want AS Same FROM elastic_upload(addresses=U, index='i', query=Rows)`, `{"StatusCode":200,"Same":true}`)
	}
}

func TestElasticUploadSignsInAndTurnsToTheNextNode(t *testing.T) {
	var want string
	server := newTarget(t, func(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
		s.is("authorization", r.Header.Get("Authorization"), want)
		s.is("pipeline", r.URL.Query().Get("pipeline"), "p")
		serveBulk(s, w, r, body)
	})
	gone := newTarget(t, nil)
	gone.Close()
	s := newSession(t, map[string]any{"U": server.URL + "/base", "Gone": gone.URL, "Rows": rowsOf(t, `{"A":1}`)}, quick())
	want = "ApiKey key"
	s.want(`SELECT StatusCode FROM elastic_upload(addresses=(Gone, U), api_key='key', pipeline='p', index='i', query=Rows)`, `{"StatusCode":200}`)
	want = "Basic " + base64.StdEncoding.EncodeToString([]byte("me:pass"))
	s.want(`SELECT StatusCode FROM elastic_upload(addresses=U, username='me', password='pass', pipeline='p', index='i', query=Rows)`, `{"StatusCode":200}`)
}

func TestForwardersFollowNoRedirect(t *testing.T) {
	server := newTarget(t, func(_ *target, w http.ResponseWriter, r *http.Request, _ []byte) {
		http.Redirect(w, r, "/elsewhere", http.StatusFound)
	})
	s := newSession(t, map[string]any{"U": server.URL, "Rows": rowsOf(t, `{"A":1}`)}, quick())
	s.want(`SELECT StatusCode, Response =~ 'gave up 1 of 1 rows: the target answers 302' AS Lost FROM elastic_upload(addresses=U, index='i', query=Rows)`,
		`{"StatusCode":302,"Lost":true}`)
}

func TestForwardersRefuseBadArguments(t *testing.T) {
	for call, want := range map[string]string{
		`elastic_upload(query=R)`:                                                            "addresses or cloud_id is needed",
		`elastic_upload(query=R, addresses='ftp://x')`:                                       "should begin with https",
		`elastic_upload(query=R, addresses='http://x', action='delete')`:                     "action should be index or create",
		`elastic_upload(query=R, cloud_id='x:!!')`:                                           "cloud_id should be",
		`elastic_upload(query=R, cloud_id='x:aG9zdA==')`:                                     "cloud_id should be",
		`elastic_upload(query=R, addresses='http://x', secret='s')`:                          "named secrets are not available",
		`elastic_upload(query=R, addresses='http://x', root_ca='none')`:                      "no certificate in PEM",
		`splunk_upload(query=R, url='http://x')`:                                             "url and token are needed",
		`splunk_upload(query=R, secret='s')`:                                                 "named secrets are not available",
		`logscale_upload(query=R, apibaseurl='x', ingest_token='t')`:                         "should begin with https",
		`logscale_upload(query=R, apibaseurl='http://x', ingest_token='t', tag_fields='=a')`: "a tag field should be",
		`adx_upload(query=R, cluster_url='https://x')`:                                       "tenant_id are needed",
		`adx_upload(query=R, secret='s')`:                                                    "named secrets are not available",
	} {
		s := newSession(t, map[string]any{"R": rowsOf(t, `{"A":1}`)}, quick())
		s.want("SELECT * FROM " + call)
		s.wantLog(want)
	}
}

func TestSplunkUpload(t *testing.T) {
	server := newTarget(t, func(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
		s.is("request", r.Method+" "+r.URL.Path, "POST /services/collector/event")
		s.is("authorization", r.Header.Get("Authorization"), "Splunk token")
		lines := bufio.NewScanner(bytes.NewReader(body))
		for lines.Scan() {
			if !json.Valid(lines.Bytes()) {
				s.t.Errorf("no event: %s", lines.Text())
			}
			s.take(lines.Text())
		}
		fmt.Fprint(w, `{"text":"Success","code":0}`)
	}, status(503), reset)
	s := newSession(t, map[string]any{"U": server.URL, "Rows": rowsOf(t, `{"A":1,"T":1700000000.25,"H":"box"}`, `{"A":2}`)}, quick())
	s.want(`SELECT * FROM splunk_upload(url=U, token='token', index='main', source='s', sourcetype='st', hostname='all', hostname_field='H', timestamp_field='T', query=Rows)`,
		`{"Response":"{\"text\":\"Success\",\"code\":0}"}`)
	server.wantTaken(`{"time":1700000000.250,"host":"box","source":"s","sourcetype":"st","index":"main","event":{"A":1,"T":1700000000.25,"H":"box"}}`,
		`{"host":"all","source":"s","sourcetype":"st","index":"main","event":{"A":2}}`)
}

func TestSplunkUploadGivesUpAfterItsRetries(t *testing.T) {
	server := newTarget(t, func(_ *target, w http.ResponseWriter, _ *http.Request, _ []byte) { status(503)(w) })
	s := newSession(t, map[string]any{"U": server.URL, "Rows": rowsOf(t, `{"A":1}`, `{"A":2}`)}, quick())
	s.want(`SELECT * FROM splunk_upload(url=U, token='t', query=Rows)`, `{"Response":"gave up 2 of 2 rows: the target answers 503: no\n (after 4 attempts)"}`)
	s.want(`SELECT * FROM splunk_upload(url=U, token='t', query=Rows, max_retries=0)`, `{"Response":"gave up 2 of 2 rows: the target answers 503: no\n (after 1 attempts)"}`)
	if server.requests != 5 {
		t.Errorf("%d requests", server.requests)
	}
	s.wantLog("ERROR: splunk_upload: delivered 0 rows in 4 posts, gave up 2")
}

func TestLogscaleUpload(t *testing.T) {
	server := newTarget(t, func(s *target, _ http.ResponseWriter, r *http.Request, body []byte) {
		s.is("request", r.Method+" "+r.URL.Path, "POST /api/v1/ingest/humio-structured")
		s.is("authorization", r.Header.Get("Authorization"), "Bearer token")
		var elements []json.RawMessage
		if err := json.Unmarshal(body, &elements); err != nil {
			s.t.Error(err)
		}
		for _, e := range elements {
			s.take(string(e))
		}
	}, status(500))
	s := newSession(t, map[string]any{"U": server.URL + "/api", "Rows": rowsOf(t, `{"A":1,"_ts":1700000000,"H":"box"}`, `{"A":2,"timestamp":"2024-01-02T03:04:05Z"}`)}, quick())
	s.want(`SELECT * FROM logscale_upload(apibaseurl=U, ingest_token='token', tag_fields=['H=host', 'none'], debug=TRUE, query=Rows)`,
		`{"Rows":2,"StatusCode":200,"Response":""}`)
	server.wantTaken(`{"tags":{"host":"box"},"events":[{"timestamp":"2023-11-14T22:13:20.000Z","attributes":{"A":1,"_ts":1700000000,"H":"box"}}]}`,
		`{"events":[{"timestamp":"2024-01-02T03:04:05.000Z","attributes":{"A":2,"timestamp":"2024-01-02T03:04:05Z"}}]}`)
	s.wantLog("logscale_upload: 2 rows")
}

func TestElasticUploadFindsTheCloud(t *testing.T) {
	server, settings := newCloud(t, func(s *target, w http.ResponseWriter, r *http.Request, body []byte) {
		s.is("host", r.Host, "abc.eu.example.com:9243")
		r.URL.Path = "/base" + r.URL.Path
		serveBulk(s, w, r, body)
	})
	id := "name:" + base64.StdEncoding.EncodeToString([]byte("eu.example.com:9243$abc$def"))
	s := newSession(t, map[string]any{"ID": id, "Rows": rowsOf(t, `{"A":1}`)}, settings)
	s.want(`SELECT StatusCode FROM elastic_upload(cloud_id=ID, index='i', query=Rows)`, `{"StatusCode":200}`)
	server.wantTaken(`index i {"A":1}`)
}

func TestForwardersEndWithTheQuery(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	server := newTarget(t, func(_ *target, w http.ResponseWriter, _ *http.Request, _ []byte) {
		cancel() // the query ends while the post is on its way
		fmt.Fprint(w, "{}")
	})
	s := newSession(t, map[string]any{"U": server.URL, "Rows": rowsOf(t, `{"A":1}`)}, quick())
	err := s.each(ctx, `SELECT * FROM elastic_upload(addresses=U, index='i', query=Rows)`, func(*vql.Dict) error { return nil })
	if err != nil && !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.scope.Close()
	if strings.Contains(s.log(), "ERROR") || server.requests != 1 {
		t.Errorf("%d requests, log %s", server.requests, s.log())
	}
}
