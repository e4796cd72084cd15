package endpoint_test

import (
	"bytes"
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestSmallCodecs(t *testing.T) {
	var zipped bytes.Buffer
	w := gzip.NewWriter(&zipped)
	_, _ = w.Write([]byte(strings.Repeat("0123456789", 1000))) // to memory
	_ = w.Close()
	s := newSession(t, map[string]any{"Zipped": zipped.String(), "Cut": zipped.String()[:30], "Bytes": allBytes()})
	// The first test vector of the cipher's original posting.
	s.want(`SELECT format(format='%x', args=crypto_rc4(string='Plaintext', key='Key')) AS R FROM scope()`, `{"R":"bbf316e8d940af0ad3"}`)
	s.want(`SELECT crypto_rc4(string='x', key='') AS R FROM scope()`, `{"R":null}`)
	s.wantLog("crypto_rc4: crypto/rc4: invalid key size 0")
	s.want(`SELECT entropy(string='') AS A, entropy(string='aaaa') AS B, entropy(string='abab') AS C, entropy(string=Bytes) AS D FROM scope()`,
		`{"A":0,"B":0,"C":1,"D":8}`)
	s.want(`SELECT rot13(string='Hello, W0rld') AS A, rot13(string=rot13(string='xyz')) AS B FROM scope()`, `{"A":"Uryyb, J0eyq","B":"xyz"}`)
	s.want(`SELECT len(list=gunzip(string=Zipped)) AS A, gunzip(string=Zipped, max_bytes=12) AS B, gunzip(string='no') AS C FROM scope()`,
		`{"A":10000,"B":"012345678901","C":null}`)
	s.wantLog("gunzip: cut after 12 bytes")
}

func allBytes() string {
	out := make([]byte, 256)
	for i := range out {
		out[i] = byte(i)
	}
	return string(out)
}

func TestLRUForgetsWhatWasUsedLongestAgo(t *testing.T) {
	s := newSession(t, nil)
	s.want(`LET L <= lru(size=2)
	   SELECT set(item=L, field='a', value=1).a AS A, set(item=L, field='b', value=2).a AS B,
	          set(item=L, field='c', value=3).b AS C, get(item=L, field='a') AS D, get(item=L, field='none', default=7) AS E FROM scope()`,
		`{"A":1,"B":1,"C":null,"D":1,"E":7}`)
	s.want(`SELECT lru(size=-1) AS L FROM scope()`, `{"L":null}`)
	s.wantLog("lru: size has to be at least 1")
}

func testCertificate(t testing.TB) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(0x8abc), Subject: pkix.Name{CommonName: "host.example", Organization: []string{"Org"}},
		NotBefore: time.Unix(1700000000, 0), NotAfter: time.Unix(1800000000, 0), DNSNames: []string{"host.example"}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"cert.pem": {Type: "CERTIFICATE", Bytes: der}, "key.pem": {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("CERTIFICATE_DIR", dir)
	return der
}

func TestParseX509(t *testing.T) {
	der := testCertificate(t)
	text := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	bad := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der[:40]}))
	s := newSession(t, map[string]any{"DER": string(der), "PEM": bad + text + text})
	const facts = `"Subject":"CN=host.example,O=Org","Serial":"8abc","CA":true,"Names":["host.example"],"Start":"2023-11-14T22:13:20Z"}`
	const members = `C[0].Subject AS Subject, C[0].SerialNumber AS Serial, C[0].IsCA AS CA, C[0].DNSNames AS Names, C[0].NotBefore AS Start`
	s.want(`LET C <= parse_x509(data=DER) SELECT len(list=C) AS N, `+members+` FROM scope()`, `{"N":1,`+facts)
	s.want(`LET C <= parse_x509(data=PEM) SELECT len(list=C) AS N, `+members+` FROM scope()`, `{"N":2,`+facts)
	s.wantLog("parse_x509: certificate 1: ")
	s.want(`SELECT parse_x509(data='garbage') AS C FROM scope()`, `{"C":null}`)
}

func TestParsePKCS7(t *testing.T) {
	testCertificate(t)
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl makes the message")
	}
	sign := exec.CommandContext(t.Context(), openssl, "smime", "-sign", "-binary", "-nodetach", "-outform", "DER", "-signer", "cert.pem", "-inkey", "key.pem")
	sign.Dir, sign.Stdin = os.Getenv("CERTIFICATE_DIR"), strings.NewReader("content")
	message, err := sign.Output()
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, map[string]any{"Data": string(message), "Cut": string(message[:len(message)/2])})
	s.want(`LET P <= parse_pkcs7(data=Data) SELECT P.Signers[0].Certificate.Subject AS S, P.Signers[0].DigestAlgorithm AS D, len(list=P.Certificates) AS N FROM scope()`,
		`{"S":"CN=host.example,O=Org","D":"2.16.840.1.101.3.4.2.1","N":1}`)
	s.want(`SELECT parse_pkcs7(data=Cut) AS A, parse_pkcs7(data='') AS B FROM scope()`, `{"A":null,"B":null}`)
	s.wantLog("parse_pkcs7: parse message: ")
}

func FuzzCertificates(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("\x30\x0b\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x07\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := newSession(t, map[string]any{"Data": string(data)})
		s.rows(`SELECT parse_x509(data=Data) AS A, parse_pkcs7(data=Data) AS B FROM scope()`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}

func TestXattr(t *testing.T) {
	root := tree(t, map[string]string{"file": "x", "bare": "x"})
	if err := unix.Setxattr(filepath.Join(root, "file"), "user.note", []byte("hello"), 0); err != nil {
		t.Skipf("this file system has no attributes: %v", err)
	}
	s := newSession(t, map[string]any{"Root": root})
	s.want(`SELECT xattr(filename=Root + '/file') AS A, xattr(filename=Root + '/file', attribute=['user.note', 'user.none']) AS B,
	   xattr(filename=Root + '/bare') AS C, xattr(filename=Root + '/none') AS D, xattr(filename='x', accessor='data') AS E FROM scope()`,
		`{"A":{"user.note":"hello"},"B":{"user.note":"hello"},"C":{},"D":null,"E":null}`)
	s.wantLog("user.none: no data available")
	s.wantLog("no such file")
}
