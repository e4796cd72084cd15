package frontend

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync/atomic"
)

// Certificate is a TLS certificate that can be exchanged while connections use
// it. Safe for concurrent use.
type Certificate struct {
	current atomic.Pointer[tls.Certificate]
}

// Set takes a new pair, in PEM; after an error the old one stays.
func (c *Certificate) Set(certificate, key []byte) error {
	pair, err := tls.X509KeyPair(certificate, key)
	if err != nil {
		return fmt.Errorf("tls certificate: %w", err)
	}
	c.current.Store(&pair)
	return nil
}

var errNoCertificate = errors.New("no tls certificate is set")

func (c *Certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	if pair := c.current.Load(); pair != nil {
		return pair, nil
	}
	return nil, errNoCertificate
}

// TLSOptions describe the TLS side of the clients' door.
type TLSOptions struct {
	Certificate *Certificate

	// AllowWeak lets TLS 1.2 in (Crypto.allow_weak_tls_server); otherwise 1.3
	// is the least.
	AllowWeak bool

	// ClientCA, in PEM, makes client certificates a condition
	// (require_client_certificates); empty asks for none.
	ClientCA []byte
}

// TLSConfig builds the configuration for Options.TLS.
func TLSConfig(o TLSOptions) (*tls.Config, error) {
	if o.Certificate == nil {
		return nil, errNoCertificate
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS13, GetCertificate: o.Certificate.get, NextProtos: []string{"h2", "http/1.1"},
	}
	if o.AllowWeak {
		config.MinVersion = tls.VersionTLS12
	}
	if len(o.ClientCA) > 0 {
		config.ClientCAs = x509.NewCertPool()
		if !config.ClientCAs.AppendCertsFromPEM(o.ClientCA) {
			return nil, errors.New("client ca: no certificate in it")
		}
		config.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return config, nil
}
