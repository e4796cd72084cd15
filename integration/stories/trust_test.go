package stories_test

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/client"
	"raptorpack/config"
	"raptorpack/wire"
)

func (p *pack) clientsKnown() int { return p.node.Status().Clients }

func (p *pack) ca() config.Pair {
	return config.Pair{Certificate: p.file.Client.CACertificate, PrivateKey: p.file.CA.PrivateKey}
}

func TestAgentWithAnotherCATrustsNobody(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	other, err := config.NewCA(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	// Wrong below TLS and above it: the second trusts the carrier, not the server.
	for name, edit := range map[string]func(*client.Options){
		"tls": func(o *client.Options) {
			transport, err := wire.NewTransport(wire.TransportOptions{TLS: wire.TLSOptions{CA: []byte(other.Certificate), SelfSigned: true}})
			if err != nil {
				t.Fatal(err)
			}
			o.CA, o.Transport = []byte(other.Certificate), transport
		},
		"message layer": func(o *client.Options) { o.CA = []byte(other.Certificate) },
	} {
		a := p.newAgent(1, edit)
		wait(t, name+": the agent to say why", func() (bool, string) {
			return a.log.has("lost contact with the server", "certificate", "unknown authority"), a.log.tail(2000)
		})
		a.stop()
	}
	if got := p.clientsKnown(); got != 0 {
		t.Errorf("%d clients enrolled", got)
	}
	p.agent(0).collect(100).complete()
}

func TestExpiredServerCertificateIsToldOnBothSides(t *testing.T) {
	t.Parallel()
	var good config.Pair
	p := prepare(t, options{edit: func(file *config.Loaded) {
		good = config.Pair{Certificate: file.Frontend.Certificate, PrivateKey: file.Frontend.PrivateKey}
		ca := config.Pair{Certificate: file.Client.CACertificate, PrivateKey: file.CA.PrivateKey}
		old, err := config.NewServer(ca, file.Client.PinnedServerName, 1, time.Now().Add(-72*time.Hour))
		if err != nil {
			t.Fatal(err)
		}
		file.Frontend.Certificate, file.Frontend.PrivateKey = old.Certificate, old.PrivateKey
	}})
	p.start()
	p.waitLog("level=ERROR", "server certificate has expired", "Frontend.certificate")
	if ends := p.metric("raptorpack_node_certificate_expiry_timestamp_seconds", `key="Frontend.certificate"`); ends <= 0 || ends > float64(time.Now().Unix()) {
		t.Errorf("the metric says that the certificate ends at %v, want a time gone by", ends)
	}
	a := p.newAgent(0, nil)
	wait(t, "the agent to say why", func() (bool, string) {
		return a.log.has("lost contact with the server", "certificate has expired"), a.log.tail(2000)
	})
	if got := p.clientsKnown(); got != 0 {
		t.Errorf("%d clients enrolled", got)
	}
	// A new certificate and a restart: the agent comes by itself.
	if err := p.end(); err != nil {
		t.Fatal(err)
	}
	p.file.Frontend.Certificate, p.file.Frontend.PrivateKey = good.Certificate, good.PrivateKey
	p.http.CloseIdleConnections()
	p.start()
	a.waitOnline()
	a.collect(500).complete()
}

func TestWrongNonceIsNotHeard(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	a := p.newAgent(1, func(o *client.Options) { o.Nonce = "YW5vdGhlcg==" })
	wait(t, "the agent to be refused", func() (bool, string) {
		return a.log.has("status 403"), a.log.tail(2000)
	})
	p.waitLog("packet is not authentic", "nonce")
	p.waitMetric(1, "raptorpack_frontend_answers_total", `code="403"`)
	a.stop()
	if got := p.clientsKnown(); got != 0 {
		t.Errorf("%d clients enrolled", got)
	}
	p.agent(0).collect(100).complete()
}

// handshake returns the serial number of the certificate that the clients' door
// shows.
func (p *pack) handshake() (string, error) {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(p.file.Client.CACertificate))
	conn, err := tls.Dial("tcp", p.node.FrontendAddress(), &tls.Config{RootCAs: roots, ServerName: p.file.Client.PinnedServerName})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String(), nil
}

func serial(t *testing.T, text string) string {
	t.Helper()
	c, err := config.Certificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return c.SerialNumber.String()
}

func TestCertificateFilesAreExchangedInFlight(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	certificate, key := filepath.Join(dir, "tls.pem"), filepath.Join(dir, "tls.key")
	write := func(pair config.Pair) {
		t.Helper()
		err := errors.Join(os.WriteFile(certificate, []byte(pair.Certificate), 0o600), os.WriteFile(key, []byte(pair.PrivateKey), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	p := prepare(t, options{edit: func(file *config.Loaded) {
		file.Frontend.TLSCertificateFilename, file.Frontend.TLSPrivateKeyFilename = certificate, key
	}})
	issue := func() config.Pair {
		t.Helper()
		pair, err := config.NewServer(p.ca(), p.file.Client.PinnedServerName, 30, time.Now())
		if err != nil {
			t.Fatal(err)
		}
		return pair
	}
	first, second := issue(), issue()
	write(first)
	p.start()
	a := p.agent(0)
	wantSerial := func(pair config.Pair) {
		t.Helper()
		got, err := p.handshake()
		if err != nil || got != serial(t, pair.Certificate) {
			t.Errorf("a new handshake shows %s, %v", got, err)
		}
	}
	wantSerial(first)

	exchanged := a.atRow(1000, func() {
		write(second)
		if err := p.node.Reload(p.file); err != nil {
			t.Errorf("reload: %v", err)
		}
	})
	c := a.collect(someRows)
	<-exchanged
	wantSerial(second)
	p.waitLog("certificates reloaded")
	c.complete()

	for name, broken := range map[string]func(){
		"no PEM":         func() { write(config.Pair{Certificate: "nonsense", PrivateKey: second.PrivateKey}) },
		"keys differ":    func() { write(config.Pair{Certificate: first.Certificate, PrivateKey: second.PrivateKey}) },
		"file is absent": func() { os.Remove(certificate) },
	} {
		broken()
		if err := p.node.Reload(p.file); err == nil || !strings.Contains(err.Error(), "reload:") || !strings.Contains(strings.ToLower(err.Error()), "tls") {
			t.Errorf("%s: reload says %v", name, err)
		}
		wantSerial(second)
	}
	if code, text := p.ready(); code != http.StatusOK {
		t.Errorf("after broken files: %d %s", code, text)
	}
	a.collect(100).complete()
}
