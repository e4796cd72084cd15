package wire

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	"raptorpack/internal/subject"
)

// DefaultServerName is the subject name a server certificate carries unless the
// configuration pins another (protocol section 2.2).
const DefaultServerName = "VelociraptorServer"

// maxPEM bounds a server.pem answer; real ones have about 1.5 kB.
const maxPEM = 64 << 10

// ServerIdentity is a server whose certificate was checked.
type ServerIdentity struct {
	Name        string // the pinned subject name
	Key         *rsa.PublicKey
	Certificate *x509.Certificate
	PEM         []byte
}

// Trust is what an agent's configuration says about its server.
type Trust struct {
	CA         []byte // PEM of Client.ca_certificate
	PinnedName string // empty: DefaultServerName
}

// CheckServer reads the answer of server.pem and holds it to protocol section
// 2.2: signed by the CA itself, valid now, for server authentication, RSA, and
// with exactly the pinned subject name. ErrMalformed or ErrForged otherwise.
func CheckServer(answer []byte, trust Trust) (*ServerIdentity, error) {
	certificate, err := parseCertificate(answer)
	if err != nil {
		return nil, fmt.Errorf("server certificate: %w", err)
	}
	roots, err := trust.roots()
	if err != nil {
		return nil, err
	}
	// No intermediates are given, so the chain has exactly two links.
	_, err = certificate.Verify(x509.VerifyOptions{
		Roots: roots, CurrentTime: time.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
	if err != nil {
		return nil, fmt.Errorf("server certificate %q: %w: %w", subject.Name(certificate), ErrForged, err)
	}
	key, ok := certificate.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("server certificate %q: not an RSA key: %w", subject.Name(certificate), ErrForged)
	}
	name := trust.PinnedName
	if name == "" {
		name = DefaultServerName
	}
	if subject.Name(certificate) != name {
		return nil, fmt.Errorf("server certificate %q: pinned name is %q: %w", subject.Name(certificate), name, ErrForged)
	}
	return &ServerIdentity{Name: name, Key: key, Certificate: certificate, PEM: answer}, nil
}

func (t Trust) roots() (*x509.CertPool, error) {
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(t.CA) {
		return nil, fmt.Errorf("ca_certificate: no certificate in it: %w", ErrMalformed)
	}
	return roots, nil
}

func parseCertificate(text []byte) (*x509.Certificate, error) {
	if len(text) > maxPEM {
		return nil, fmt.Errorf("%d bytes: %w", len(text), ErrTooLarge)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("no PEM certificate: %w", ErrMalformed)
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return certificate, nil
}
