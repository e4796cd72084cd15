package integration

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// operator is an HTTP client with the rights of somebody on the server's host.
func (p *Pack) operator() *http.Client {
	p.t.Helper()
	pair, err := p.file.LocalCaller("integration", time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	certificate, err := tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.file.Client.CACertificate))
	return &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: &tls.Config{
		RootCAs: roots, ServerName: p.file.Client.PinnedServerName, Certificates: []tls.Certificate{certificate},
	}}}
}

func (p *Pack) url(path string) string {
	return "https://127.0.0.1:" + strconv.Itoa(p.file.GUI.BindPort) + "/api/v1" + path
}

// Get reads one JSON answer.
func (p *Pack) Get(path string, into any) error {
	answer, err := p.http.Get(p.url(path))
	if err != nil {
		return err
	}
	return decode(answer, into)
}

// Post sends one JSON request, again and again while the server is away: it
// carries an idempotency key.
func (p *Pack) Post(path string, body, into any) {
	p.t.Helper()
	text, err := json.Marshal(body)
	if err != nil {
		p.t.Fatal(err)
	}
	key := strconv.FormatInt(time.Now().UnixNano(), 36)
	p.wait("POST "+path, func() (bool, string) {
		request, err := http.NewRequestWithContext(context.Background(), http.MethodPost, p.url(path), bytes.NewReader(text))
		if err != nil {
			p.t.Fatal(err)
		}
		request.Header.Set("Content-Type", "application/json")
		request.Header.Set("Idempotency-Key", key)
		answer, err := p.http.Do(request)
		if err == nil {
			err = decode(answer, into)
		}
		return err == nil, fmt.Sprint(err)
	})
}

func decode(answer *http.Response, into any) error {
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return err
	}
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", answer.Status, text)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

// Flow is what the server says of a collection.
type Flow struct {
	ID     string `json:"flow_id"`
	State  string `json:"state"`
	Error  string `json:"error"`
	Rows   int64  `json:"rows"`
	Folder string `json:"folder"`
}

// SetArtifact stores a custom definition.
func (p *Pack) SetArtifact(text string) {
	p.t.Helper()
	body, err := json.Marshal(map[string]string{"text": text})
	if err != nil {
		p.t.Fatal(err)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodPut, p.url("/artifacts"), bytes.NewReader(body))
	if err != nil {
		p.t.Fatal(err)
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := p.http.Do(request)
	if err == nil {
		err = decode(answer, nil)
	}
	if err != nil {
		p.t.Fatalf("set artifact: %v", err)
	}
}

// Collect starts a collection and returns its flow id.
func (p *Pack) Collect(a *Agent, artifact string, parameters map[string]string) string {
	p.t.Helper()
	var started struct {
		Flow string `json:"flow_id"`
	}
	p.Post("/clients/"+a.ID+"/flows", map[string]any{
		"artifacts": []map[string]any{{"name": artifact, "parameters": parameters}},
		"limits":    map[string]any{"timeout_seconds": 3600},
	}, &started)
	return started.Flow
}

// Await returns a flow when it has a final state.
func (p *Pack) Await(a *Agent, flow string) Flow {
	p.t.Helper()
	var f Flow
	await(p.t, 10*time.Minute, "flow "+flow+" to end", func() (bool, string) {
		err := p.Get("/clients/"+a.ID+"/flows/"+flow, &f)
		switch f.State {
		case "completed", "incomplete", "errored", "cancelled":
			return err == nil, fmt.Sprint(err)
		}
		return false, fmt.Sprintf("%+v, %v", f, err)
	})
	return f
}

// CollectAll collects several artifacts in one flow.
func (p *Pack) CollectAll(a *Agent, artifacts map[string]map[string]string) string {
	p.t.Helper()
	var specs []map[string]any
	for name, parameters := range artifacts {
		specs = append(specs, map[string]any{"name": name, "parameters": parameters})
	}
	var started struct {
		Flow string `json:"flow_id"`
	}
	p.Post("/clients/"+a.ID+"/flows", map[string]any{"artifacts": specs, "limits": map[string]any{"timeout_seconds": 3600}}, &started)
	return started.Flow
}

// Upload is a finished upload.
type Upload struct {
	StoredPath string `json:"stored_path"`
	SHA256     string `json:"sha256"`
}

// Uploads lists what a flow uploaded.
func (p *Pack) Uploads(a *Agent, flow string) []Upload {
	p.t.Helper()
	var list struct{ Items []Upload }
	p.wait("the list of uploads", func() (bool, string) {
		err := p.Get("/clients/"+a.ID+"/flows/"+flow+"/uploads", &list)
		return err == nil, fmt.Sprint(err)
	})
	return list.Items
}

// Progress returns true once more of a flow was acknowledged to the agent than at
// the call before, and false if the flow ended first.
func (p *Pack) Progress(a *Agent, flow string) bool {
	p.t.Helper()
	ended := false
	p.wait("progress of flow "+flow, func() (bool, string) {
		acked, err := readHistory(a.History(), flow)
		if err != nil {
			return false, err.Error()
		}
		for _, one := range acked {
			ended = ended || one.Kind == "end"
		}
		if ended || a.flow != flow || len(acked) > a.seen {
			a.seen, a.flow = len(acked), flow
			return true, ""
		}
		return false, fmt.Sprintf("%d acknowledgements", len(acked))
	})
	return !ended
}

// Certificate is what the server shows of itself at its door for agents.
func (p *Pack) Certificate() (*x509.Certificate, error) {
	conn, err := tls.Dial("tcp", "127.0.0.1:"+strconv.Itoa(p.file.Frontend.BindPort), &tls.Config{
		InsecureSkipVerify: true, // it is what we look at
	})
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0], nil
}

// WaitFor waits for a condition that a story sets itself.
func (p *Pack) WaitFor(what string, met func() (bool, string)) {
	p.t.Helper()
	p.wait(what, met)
}

// Labels are the labels of an agent's client.
func (p *Pack) Labels(a *Agent) []string {
	p.t.Helper()
	var c struct{ Labels []string }
	p.wait("the client's record", func() (bool, string) {
		err := p.Get("/clients/"+a.ID, &c)
		return err == nil, fmt.Sprint(err)
	})
	return c.Labels
}
