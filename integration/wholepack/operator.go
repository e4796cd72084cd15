package wholepack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	"raptorpack/config"
)

// Operator is somebody at the JSON doors, with all rights.
type Operator struct {
	Name string
	pack *Pack
	http *http.Client
}

// Reply is what a node answered.
type Reply struct {
	Status int
	Header http.Header
	Body   []byte
}

// NewOperator makes an operator with connections of their own.
func (p *Pack) NewOperator(name string) *Operator {
	p.t.Helper()
	pair, err := localCaller()
	if err != nil {
		p.t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.file.Client.CACertificate))
	transport := &http.Transport{
		DialContext: p.dialDoor(p.operators, (*Node).operators), IdleConnTimeout: 10 * time.Second,
		TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: p.file.Client.PinnedServerName, Certificates: []tls.Certificate{pair}},
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stops = append(p.stops, transport.CloseIdleConnections)
	return &Operator{Name: name, pack: p, http: &http.Client{Transport: transport}}
}

var localCaller = sync.OnceValues(func() (tls.Certificate, error) {
	text, err := deployment()
	if err != nil {
		return tls.Certificate{}, err
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		return tls.Certificate{}, err
	}
	pair, err := file.LocalCaller("wholepack", time.Now())
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair([]byte(pair.Certificate), []byte(pair.PrivateKey))
})

// Call sends a request to a node and returns its answer as it is. header are names
// and values in turn.
func (o *Operator) Call(ctx context.Context, n *Node, method, path string, body any, header ...string) (*Reply, error) {
	content, err := json.Marshal(body)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, method, "https://"+n.Name+":"+doorPort+"/api/v1"+path, bytes.NewReader(content))
	if err != nil {
		return nil, err
	}
	request.Header.Set("Content-Type", "application/json")
	answer, err := o.send(request, header)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	if err != nil {
		return nil, err
	}
	return &Reply{answer.StatusCode, answer.Header, text}, nil
}

// Open is a GET whose answer is a stream; the caller closes it.
func (o *Operator) Open(ctx context.Context, n *Node, path string, header ...string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+n.Name+":"+doorPort+"/api/v1"+path, http.NoBody)
	if err != nil {
		return nil, err
	}
	answer, err := o.send(request, header)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = errors.Join(fmt.Errorf("GET %s: %d: %w", path, answer.StatusCode, errAnswer), answer.Body.Close())
	}
	return answer, err
}

func (o *Operator) send(request *http.Request, header []string) (*http.Response, error) {
	for i := 0; i+1 < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	return o.http.Do(request)
}

var errAnswer = errors.New("not answered with 200")

// Ask is Call for those who want a good answer, within a while.
func (o *Operator) Ask(n *Node, method, path string, body, into any, header ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	reply, err := o.Call(ctx, n, method, path, body, header...)
	if err != nil {
		return err
	}
	if reply.Status != http.StatusOK {
		return fmt.Errorf("%s %s: %d %s: %w", method, path, reply.Status, reply.Body, errAnswer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(reply.Body, into)
}
