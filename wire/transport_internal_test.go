package wire

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"net/url"
	"testing"
	"time"
)

// A session outlives the certificate that it began with, as long as it is resumed
// again and again.
func TestSessionOfACertificateThatIsNoMoreGoodIsForgotten(t *testing.T) {
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true}
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := NewTransport(TransportOptions{TLS: TLSOptions{
		CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca}), Mode: ModeThumbprintOnly, SelfSigned: true,
	}})
	if err != nil {
		t.Fatal(err)
	}
	config, err := tr.tlsConfig(&url.URL{Scheme: "wss", Host: "server"})
	if err != nil {
		t.Fatal(err)
	}
	for resumed, kept := range map[bool]bool{false: true, true: false} {
		config.ClientSessionCache.Put(config.ServerName, &tls.ClientSessionState{})
		state := tls.ConnectionState{DidResume: resumed, PeerCertificates: []*x509.Certificate{{Raw: []byte("unlisted")}}}
		if err := config.VerifyConnection(state); err == nil {
			t.Error("a certificate that is not listed was accepted")
		}
		if _, ok := config.ClientSessionCache.Get(config.ServerName); ok != kept {
			t.Errorf("resumed %t: session kept: %t", resumed, ok)
		}
	}
}

func TestConnectingIsGivenUpSoon(t *testing.T) {
	for given, want := range map[time.Duration]time.Duration{300 * time.Second: dialPatience, time.Second: time.Second} {
		if got := newDialer(TransportOptions{ConnectionTimeout: given}).Timeout; got != want {
			t.Errorf("a connection_timeout of %v gives TCP %v, want %v", given, got, want)
		}
	}
}
