package wire_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"testing"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

func TestClientRefusesFalseAnswers(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	key := wiretest.ClientKey(t, 0)
	answerOf := func(i *wire.Identity, nonce string) []byte {
		s, err := wire.NewSealer(wire.SealerOptions{Identity: i, Nonce: func(ids.Org) (string, bool) { return nonce, true }, Compress: true})
		if err != nil {
			t.Fatal(err)
		}
		body, err := s.Seal(t.Context(), wire.Delivery{Key: &key.PublicKey, Messages: []*wirepb.VeloMessage{checkIn(1)}})
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	otherName := wiretest.ServerTemplate()
	otherName.Subject.CommonName = "SomebodyElse"
	renamed, err := wire.NewIdentity(wire.IdentityOptions{Key: p.Key, Certificate: p.Certificate(t, otherName, &p.Key.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	thief := wiretest.ClientKey(t, 1)
	forger, err := wire.NewIdentity(wire.IdentityOptions{Key: thief, Certificate: p.Certificate(t, wiretest.ServerTemplate(), &thief.PublicKey)})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.session.Open(t.Context(), answerOf(p.identity, wiretest.Nonce)); err != nil {
		t.Fatalf("good compressed answer: %v", err)
	}
	for name, body := range map[string][]byte{
		"nonce": answerOf(p.identity, "x"), "source": answerOf(renamed, wiretest.Nonce), "signature": answerOf(forger, wiretest.Nonce),
	} {
		if _, err := p.session.Open(t.Context(), body); !errors.Is(err, wire.ErrForged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestServerCertificateRules(t *testing.T) {
	d := wiretest.NewDeployment(t)
	key := wiretest.ClientKey(t, 0)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signed := func(public any, edit func(*x509.Certificate)) []byte {
		template := wiretest.ServerTemplate()
		edit(template)
		return d.Certificate(t, template, public)
	}
	same := func(*x509.Certificate) {}
	cases := map[string]struct {
		pem  []byte
		name string
		want error
	}{
		"good":        {d.Server, "", nil},
		"name in SAN": {signed(&key.PublicKey, func(c *x509.Certificate) { c.Subject.CommonName = "" }), "", nil},
		"address in SAN": {signed(&key.PublicKey, func(c *x509.Certificate) {
			c.Subject.CommonName, c.DNSNames, c.IPAddresses = "", nil, []net.IP{{10, 0, 0, 1}}
		}), "10.0.0.1", nil},
		"pinned name":     {d.Server, "Other", wire.ErrForged},
		"API certificate": {signed(&key.PublicKey, func(c *x509.Certificate) { c.Subject.CommonName = "operator" }), "", wire.ErrForged},
		"client only":     {signed(&key.PublicKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth} }), "", wire.ErrForged},
		"expired":         {signed(&key.PublicKey, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Minute) }), "", wire.ErrForged},
		"not yet":         {signed(&key.PublicKey, func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "", wire.ErrForged},
		"not RSA":         {signed(&curve.PublicKey, same), "", wire.ErrForged},
		"self-signed":     {selfSigned(t, key), "", wire.ErrForged},
		"no PEM":          {[]byte("hello"), "", wire.ErrMalformed},
		"endless":         {bytes.Repeat([]byte("x"), 1<<20), "", wire.ErrTooLarge},
	}
	for name, c := range cases {
		trust := d.Trust()
		trust.PinnedName = c.name
		got, err := wire.CheckServer(c.pem, trust)
		if !errors.Is(err, c.want) || (err == nil) != (got != nil) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

func selfSigned(t *testing.T, key *rsa.PrivateKey) []byte {
	t.Helper()
	template := wiretest.ServerTemplate()
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestEnrolmentRequestRules(t *testing.T) {
	key, other := wiretest.ClientKey(t, 0), wiretest.ClientKey(t, 1)
	client := ids.ClientOfKey(&key.PublicKey)
	request := func(name string, signer any) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, signer)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	good, err := wire.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := wire.CheckCSR(good, client)
	if err != nil || !public.Equal(&key.PublicKey) {
		t.Fatalf("good request: %v", err)
	}
	block, _ := pem.Decode(good)
	damaged := bytes.Clone(block.Bytes)
	damaged[len(damaged)-1] ^= 1
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	bad := map[string][]byte{
		"name":           request("C.0011223344556677", key),
		"key of another": request(client.String(), other),
		"self-signature": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: damaged}),
		"not RSA":        request(client.String(), curve),
		"no PEM":         []byte("x"),
		"no request":     pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: []byte{1, 2, 3}}),
		"huge":           bytes.Repeat([]byte("A"), 1<<20),
	}
	for name, text := range bad {
		if _, err := wire.CheckCSR(text, client); !errors.Is(err, wire.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := wire.CheckCSR(good, ids.ClientOfKey(&other.PublicKey)); !errors.Is(err, wire.ErrBadRequest) {
		t.Errorf("request from another source: %v", err)
	}
}

func TestUnusualKeysAreRefused(t *testing.T) {
	good := wiretest.ClientKey(t, 0).PublicKey
	for name, edit := range map[string]func(*rsa.PublicKey){
		"1024 bits":      func(k *rsa.PublicKey) { k.N = new(big.Int).Rsh(k.N, 1024); k.N.SetBit(k.N, 0, 1) },
		"8192 bits":      func(k *rsa.PublicKey) { k.N = new(big.Int).Lsh(k.N, 6144); k.N.SetBit(k.N, 0, 1) },
		"even modulus":   func(k *rsa.PublicKey) { k.N = new(big.Int).SetBit(k.N, 0, 0) },
		"exponent 3":     func(k *rsa.PublicKey) { k.E = 3 },
		"even exponent":  func(k *rsa.PublicKey) { k.E = 65538 },
		"large exponent": func(k *rsa.PublicKey) { k.E = 1<<31 + 1 },
	} {
		key := good
		edit(&key)
		if err := wire.CheckClientKey(&key); !errors.Is(err, wire.ErrBadRequest) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := wire.CheckClientKey(&good); err != nil {
		t.Error(err)
	}
	back, err := wire.ParseKey(wire.MarshalKey(&good))
	if err != nil || !back.Equal(&good) {
		t.Errorf("key there and back: %v", err)
	}
}
