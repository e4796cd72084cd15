// Package wiretest makes deployments for tests: a CA, a server identity, and
// clients with keys.
//
// It owns nothing that runs in production. Keys are made once per process and
// handed out again, since making them is dear.
package wiretest

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"sync"
	"testing"
	"time"

	"raptorpack/ids"
	"raptorpack/wire"
)

// Nonce is the root org's nonce in a Deployment.
const Nonce = "cHJvdG8xbm9uY2U="

var (
	keysMu sync.Mutex
	keys   []*rsa.PrivateKey
)

// Key returns the n-th test key, the same in each test of a process.
func Key(tb testing.TB, n int) *rsa.PrivateKey {
	tb.Helper()
	keysMu.Lock()
	defer keysMu.Unlock()
	for len(keys) <= n {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			tb.Fatal(err)
		}
		keys = append(keys, key)
	}
	return keys[n]
}

// Deployment is a CA and the server certificate it signed.
type Deployment struct {
	CA     []byte // PEM
	Server []byte // PEM
	Key    *rsa.PrivateKey

	ca *x509.Certificate
}

// caKey and serverKey are apart from the clients' keys, which count from 2.
const (
	caKey     = 0
	serverKey = 1
	clientKey = 2
)

// ClientKey returns the key of the n-th test client.
func ClientKey(tb testing.TB, n int) *rsa.PrivateKey { return Key(tb, clientKey+n) }

// NewDeployment makes a deployment as the stock generator does.
func NewDeployment(tb testing.TB) *Deployment {
	tb.Helper()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{Organization: []string{"Test CA"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour * 24 * 3650), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	d := &Deployment{Key: Key(tb, serverKey)}
	d.ca = sign(tb, template, template, &Key(tb, caKey).PublicKey)
	d.CA = encode(d.ca)
	d.Server = d.Certificate(tb, ServerTemplate(), &d.Key.PublicKey)
	return d
}

// ServerTemplate describes a server certificate that clients accept.
func ServerTemplate() *x509.Certificate {
	return &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: wire.DefaultServerName, Organization: []string{"Test"}},
		DNSNames: []string{wire.DefaultServerName}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage:    x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
}

// Certificate signs a template with the deployment's CA and returns PEM.
func (d *Deployment) Certificate(tb testing.TB, template *x509.Certificate, key any) []byte {
	tb.Helper()
	return encode(sign(tb, template, d.ca, key))
}

func sign(tb testing.TB, template, parent *x509.Certificate, key any) *x509.Certificate {
	tb.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key, Key(tb, caKey))
	if err != nil {
		tb.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return c
}

func encode(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// Identity is the deployment's message-layer identity.
func (d *Deployment) Identity(tb testing.TB, o wire.IdentityOptions) *wire.Identity {
	tb.Helper()
	o.Key, o.Certificate = d.Key, d.Server
	i, err := wire.NewIdentity(o)
	if err != nil {
		tb.Fatal(err)
	}
	return i
}

// TLS is the server certificate for a TLS listener.
func (d *Deployment) TLS(tb testing.TB) tls.Certificate {
	tb.Helper()
	block, _ := pem.Decode(d.Server)
	return tls.Certificate{Certificate: [][]byte{block.Bytes}, PrivateKey: d.Key}
}

// Trust is what clients of the deployment are configured with.
func (d *Deployment) Trust() wire.Trust { return wire.Trust{CA: d.CA} }

// Session opens a client's session with the deployment's server.
func (d *Deployment) Session(tb testing.TB, key *rsa.PrivateKey) *wire.Session {
	tb.Helper()
	server, err := wire.CheckServer(d.Server, d.Trust())
	if err != nil {
		tb.Fatal(err)
	}
	s, err := wire.NewSession(wire.SessionOptions{Key: key, Server: server, Nonce: Nonce})
	if err != nil {
		tb.Fatal(err)
	}
	return s
}

// Orgs knows the root org's nonce.
func Orgs(nonce string) (ids.Org, bool) { return ids.RootOrg, nonce == Nonce }

// OrgNonce is the way back.
func OrgNonce(org ids.Org) (string, bool) { return Nonce, org == ids.RootOrg }

// Keys is a key store in memory. Safe for concurrent use.
type Keys struct {
	mu     sync.Mutex
	known  map[ids.Client]*rsa.PublicKey
	unsure error
}

// Set pins a key.
func (k *Keys) Set(key *rsa.PublicKey) ids.Client {
	client := ids.ClientOfKey(key)
	k.SetFor(client, key)
	return client
}

// SetFor pins a key to an id that need not be its own.
func (k *Keys) SetFor(client ids.Client, key *rsa.PublicKey) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.known == nil {
		k.known = make(map[ids.Client]*rsa.PublicKey)
	}
	k.known[client] = key
}

// Fail makes lookups unsure; nil makes them sure again.
func (k *Keys) Fail(err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.unsure = err
}

// Lookup implements wire.KeyLookup.
func (k *Keys) Lookup(_ context.Context, _ ids.Org, client ids.Client) (*rsa.PublicKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.unsure != nil {
		return nil, k.unsure
	}
	key, ok := k.known[client]
	if !ok {
		return nil, wire.ErrNoKey
	}
	return key, nil
}

// Listen opens a loopback listener that ends with the test.
func Listen(tb testing.TB) net.Listener {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { l.Close() })
	return l
}

// PrivatePEM writes a private key as PKCS#1 PEM.
func PrivatePEM(key *rsa.PrivateKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
}
