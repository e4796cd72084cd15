package pool_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"testing"
	"time"

	"raptorpack/cmd/agent"
	"raptorpack/cmd/node"
	"raptorpack/config"
	"raptorpack/internal/testkit"
	"raptorpack/pool"
)

const merge = `{
  "Frontend": {"bind_address": "127.0.0.1", "bind_port": 0, "use_plain_http": true, "default_client_monitoring_artifacts": [],
    "resources": {"connections_per_second": 10000, "enrollments_per_second": 10000}},
  "GUI": {"bind_port": 0}, "API": {"bind_port": 0}, "Monitoring": {"bind_port": 0},
  "Bus": {"bind_address": "127.0.0.1", "bind_port": 0}, "Gossip": {"bind_address": "127.0.0.1", "bind_port": 0},
  "Pack": {"reserve_bytes": 1048576, "drain_timeout_sec": 5}
}`

// server is a node with its operators' door.
type server struct {
	t      *testing.T
	loaded *config.Loaded
	node   *node.Node
	door   *http.Client
}

func serve(t *testing.T) *server {
	t.Helper()
	text, err := config.Generate(config.GenerateOptions{Datastore: t.TempDir(), Now: time.Now(), MergeJSON: merge})
	if err != nil {
		t.Fatal(err)
	}
	s := &server{t: t}
	if s.loaded, err = config.Parse("server.yaml", text, config.Options{}); err != nil {
		t.Fatal(err)
	}
	if s.node, err = node.New(t.Context(), node.Options{Config: s.loaded, Master: true, Logger: slog.New(slog.DiscardHandler)}); err != nil {
		t.Fatal(err)
	}
	run(t, s.node.Run)
	testkit.Eventually(t, "the node is ready", func() (any, bool) { err := s.node.Ready(); return err, err == nil })
	pair, err := s.loaded.LocalCaller("test", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{certificate}, InsecureSkipVerify: true}} // loopback, our own node
	t.Cleanup(transport.CloseIdleConnections)
	s.door = &http.Client{Transport: transport}
	return s
}

// run keeps something running until the test ends and checks that it then ends well.
func run(t *testing.T, work func(context.Context) error) {
	t.Helper()
	ctx, stop := context.WithCancel(context.WithoutCancel(t.Context()))
	ended := make(chan error, 1)
	go func() { ended <- work(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// call asks the JSON door.
func (s *server) call(method, path string, body, out any) {
	s.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(s.t.Context(), method, "https://"+s.node.OperatorsAddress()+"/api/v1"+path, bytes.NewReader(text))
	if err != nil {
		s.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	response, err := s.door.Do(request)
	if err != nil {
		s.t.Fatal(err)
	}
	defer response.Body.Close()
	answer, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode >= 300 {
		s.t.Fatalf("%s %s: %s %s %v", method, path, response.Status, answer, err)
	}
	if err := json.Unmarshal(answer, out); err != nil {
		s.t.Fatalf("%s %s: %v in %s", method, path, err, answer)
	}
}

// agents makes a pool for the server; edit may change its options.
func (s *server) agents(clients int, edit func(*pool.Options)) *pool.Pool {
	s.t.Helper()
	file := s.loaded.Client
	file.ServerURLs = []string{"http://" + s.node.FrontendAddress() + "/"}
	base, err := agent.Options(file, agent.Settings{Version: "test", MinBackOff: 50 * time.Millisecond})
	if err != nil {
		s.t.Fatal(err)
	}
	base.MinPoll = 10 * time.Millisecond
	identities, err := pool.LoadIdentities(s.t.Context(), "", clients)
	if err != nil {
		s.t.Fatal(err)
	}
	o := pool.Options{Clients: clients, Identities: identities, Base: base, Wire: agent.TransportOptions(file)}
	if edit != nil {
		edit(&o)
	}
	p, err := pool.New(o)
	if err != nil {
		s.t.Fatal(err)
	}
	run(s.t, p.Run)
	return p
}

type known struct {
	ID           string   `json:"client_id"`
	Online       bool     `json:"online"`
	Hostname     string   `json:"hostname"`
	OS           string   `json:"os"`
	Address      string   `json:"address"`
	MACs         []string `json:"mac_addresses"`
	Users        []string `json:"users"`
	Interrogated string   `json:"interrogated"`
}

// interrogated waits until the server knows count clients with all that an
// interrogation tells.
func (s *server) interrogated(p *pool.Pool, count int) []known {
	s.t.Helper()
	var list struct{ Items []known }
	testkit.Eventually(s.t, "all clients are interrogated", func() (any, bool) {
		s.call(http.MethodGet, "/clients?limit=1000", nil, &list)
		done := 0
		for _, c := range list.Items {
			if c.Interrogated != "" && len(c.MACs) > 0 {
				done++
			}
		}
		return p.Status(), done == count
	})
	return list.Items
}
