package endpoint_test

import (
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/vql/endpoint"
)

func httpServer(t *testing.T) *httptest.Server {
	t.Helper()
	mux := http.NewServeMux()
	mux.HandleFunc("/echo", func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s %s %s|%s|%s|%s", r.Method, r.URL.Path, r.URL.RawQuery, r.Header.Get("X-Test"), r.UserAgent(), body)
	})
	mux.HandleFunc("/file", func(w http.ResponseWriter, r *http.Request) {
		f, h, err := r.FormFile("upload")
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		defer f.Close()
		data, err := io.ReadAll(f)
		if err != nil {
			return
		}
		fmt.Fprintf(w, "%s=%s", h.Filename, data)
	})
	mux.HandleFunc("/cookie", func(w http.ResponseWriter, r *http.Request) {
		if c, err := r.Cookie("id"); err == nil {
			fmt.Fprint(w, c.Value)
		}
		http.SetCookie(w, &http.Cookie{Name: "id", Value: "seven"})
	})
	mux.HandleFunc("/login", func(w http.ResponseWriter, r *http.Request) {
		http.SetCookie(w, &http.Cookie{Name: "id", Value: "eight"})
		http.Redirect(w, r, "/cookie", http.StatusFound)
	})
	mux.HandleFunc("/missing", http.NotFound)
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

func TestHTTPClient(t *testing.T) {
	server := httpServer(t)
	settings := &endpoint.HTTPSettings{UserAgent: "agent", RetryWaits: []time.Duration{time.Millisecond}}
	s := newSession(t, map[string]any{"U": server.URL}, settings)
	s.want(`SELECT Content, Response FROM http_client(url=U + '/echo', params=dict(a='1', b=['2', '3']), headers=dict(`+"`X-Test`"+`='yes'))`,
		`{"Content":"GET /echo a=1&b=2&b=3|yes|agent|","Response":200}`)
	s.want(`SELECT Content FROM http_client(url=U + '/echo', method='POST', params=dict(a='1'), user_agent='mine')`,
		`{"Content":"POST /echo ||mine|a=1"}`)
	s.want(`SELECT Content FROM http_client(url=U + '/echo', method='POST', data='raw', params=dict(a='1'))`,
		`{"Content":"POST /echo a=1||agent|raw"}`)
	s.want(`SELECT Content FROM http_client(url=U + '/echo', chunk_size=5) LIMIT 2`, `{"Content":"GET /"}`, `{"Content":"echo "}`)
	s.want(`SELECT Response, Url = U + '/echo' AS Second FROM http_client(url=(U + '/missing', U + '/echo'))`, `{"Response":200,"Second":true}`)
	s.want(`SELECT Response FROM http_client(url=U + '/missing')`, `{"Response":404}`)
	s.want(`SELECT Content FROM http_client(url=U + '/file', method='POST', files=[dict(file='name.txt', key='upload', path='content', accessor='data'),])`,
		`{"Content":"name.txt=content"}`)
	s.want(`SELECT read_file(filename=Content) =~ 'GET /echo' AS C FROM http_client(url=U + '/echo', tempfile_extension='.bin')`, `{"C":true}`)
	s.want(`LET Jar <= dict() SELECT * FROM chain(a={SELECT Content FROM http_client(url=U + '/cookie', cookie_jar=Jar)},
	   b={SELECT Content FROM http_client(url=U + '/cookie', cookie_jar=Jar)})`, `{"Content":""}`, `{"Content":"seven"}`)
	s.want(`LET Jar <= dict() SELECT Content, len(list=Jar) AS Hosts FROM http_client(url=U + '/login', cookie_jar=Jar)`, `{"Content":"eight","Hosts":1}`)
}

func TestHTTPClientFailureIsARow(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"U": address}, &endpoint.HTTPSettings{RetryWaits: []time.Duration{time.Millisecond, time.Millisecond}})
	s.want(`SELECT Response, Content =~ 'refused' AS Refused FROM http_client(url=U)`, `{"Response":500,"Refused":true}`)
	s.wantLog("attempt 2")
	s.want(`SELECT Response FROM http_client(url='::bad::')`, `{"Response":500}`)
	s.want(`SELECT * FROM http_client(url=U, root_ca='no certificate')`)
}

func TestHTTPClientChecksCertificates(t *testing.T) {
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "secret") }))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it tells of the certificate we refuse
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	s := newSession(t, map[string]any{"U": server.URL, "CA": string(ca)})
	s.want(`SELECT Response FROM http_client(url=U)`, `{"Response":500}`)
	s.want(`SELECT Content FROM http_client(url=U, skip_verify=TRUE)`, `{"Content":"secret"}`)
	s.want(`SELECT Content FROM http_client(url=U, root_ca=CA)`, `{"Content":"secret"}`)
}

func TestHTTPClientAsksUnixSockets(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Skip(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }), ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close(); <-done })
	s := newSession(t, map[string]any{"U": path + ":unix/containers/json"})
	s.want(`SELECT Content FROM http_client(url=U)`, `{"Content":"/containers/json"}`)
	if _, err := os.Stat(path); err != nil || strings.Contains(s.log(), "attempt") {
		t.Error(err, s.log())
	}
}
