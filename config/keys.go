package config

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"
)

// ErrNoCAKey means that the file has no CA.private_key, so nothing can be
// signed here. Run the command where the key is kept.
var ErrNoCAKey = errors.New("the file has no CA.private_key")

const (
	keyBits       = 2048 // what deployed clients accept and expect
	caYears       = 10
	organization  = "Raptorpack"
	caDNSName     = "Raptorpack-CA"
	clockSkewDays = 1
)

// Pair is a certificate with its key, both in PEM.
type Pair struct{ Certificate, PrivateKey string }

// NewCA makes a self-signed authority valid for ten years.
func NewCA(now time.Time) (Pair, error) {
	template := &x509.Certificate{
		Subject:               pkix.Name{Organization: []string{organization + " CA"}},
		DNSNames:              []string{caDNSName},
		NotAfter:              now.AddDate(caYears, 0, 0),
		KeyUsage:              x509.KeyUsageKeyEncipherment | x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	return issue(template, now, nil, nil)
}

// NewServer makes the identity of the message layer and of TLS. Its subject
// name is the one that agents pin.
func NewServer(ca Pair, pinnedName string, days int, now time.Time) (Pair, error) {
	return signed(ca, now, &x509.Certificate{
		Subject:     pkix.Name{CommonName: pinnedName, Organization: []string{organization}},
		DNSNames:    []string{pinnedName},
		NotAfter:    now.AddDate(0, 0, days),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// NewNode makes the identity that nodes show each other. Its URI is what the bus
// asks for and what the programs' door refuses.
func NewNode(ca Pair, days int, now time.Time) (Pair, error) {
	return signed(ca, now, &x509.Certificate{
		Subject:     pkix.Name{CommonName: "Raptorpack node", Organization: []string{organization}},
		URIs:        []*url.URL{{Scheme: "raptorpack", Opaque: "node"}},
		NotAfter:    now.AddDate(0, 0, days),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	})
}

// NewCaller makes the identity of a program or operator. It has no server usage,
// so that no agent takes its holder for a server.
func NewCaller(ca Pair, user string, days int, now time.Time) (Pair, error) {
	return signed(ca, now, &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: []string{organization}},
		NotAfter:    now.AddDate(0, 0, days),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// NewLocalCaller makes an identity for a command that runs beside the server
// with its file: it lives for an hour and acts as user, an operating system
// account, with all permissions.
func NewLocalCaller(ca Pair, user string, now time.Time) (Pair, error) {
	return signed(ca, now, &x509.Certificate{
		Subject:     pkix.Name{CommonName: user, Organization: []string{organization}},
		URIs:        []*url.URL{{Scheme: "raptorpack", Opaque: "local"}},
		NotAfter:    now.Add(time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

func signed(ca Pair, now time.Time, template *x509.Certificate) (Pair, error) {
	if ca.PrivateKey == "" {
		return Pair{}, ErrNoCAKey
	}
	parent, err := Certificate(ca.Certificate)
	if err != nil {
		return Pair{}, fmt.Errorf("CA certificate: %w", err)
	}
	key, err := PrivateKey(ca.PrivateKey)
	if err != nil {
		return Pair{}, fmt.Errorf("CA key: %w", err)
	}
	return issue(template, now, parent, key)
}

// issue signs template with a fresh key; a nil parent makes it self-signed.
func issue(template *x509.Certificate, now time.Time, parent *x509.Certificate, signer *rsa.PrivateKey) (Pair, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return Pair{}, fmt.Errorf("generate key: %w", err)
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return Pair{}, fmt.Errorf("draw serial number: %w", err)
	}
	template.NotBefore = now.AddDate(0, 0, -clockSkewDays)
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		return Pair{}, fmt.Errorf("sign certificate: %w", err)
	}
	return Pair{
		Certificate: encodePEM("CERTIFICATE", der),
		PrivateKey:  encodePEM("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(key)),
	}, nil
}

func encodePEM(kind string, der []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}))
}

func secretText(bytes int) string {
	raw := make([]byte, bytes)
	rand.Read(raw) // never fails since Go 1.24
	return base64.StdEncoding.EncodeToString(raw)
}
