package wire

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

const (
	enrolSession = "E:Enrol"
	csrType      = "CERTIFICATE REQUEST"
	publicType   = "RSA PUBLIC KEY"
	maxCSR       = 16 << 10
)

// NewCSR makes the enrolment request of an agent: PKCS#10 with the client id as
// common name, SHA256WithRSA, as PEM. Nothing is ever signed in return.
func NewCSR(key *rsa.PrivateKey) ([]byte, error) {
	client := ids.ClientOfKey(&key.PublicKey)
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: client.String()}, SignatureAlgorithm: x509.SHA256WithRSA,
	}, key)
	if err != nil {
		return nil, fmt.Errorf("enrolment request of %s: %w", client, err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: csrType, Bytes: der}), nil
}

// EnrolMessage is the urgent message that carries an enrolment request.
func EnrolMessage(csr []byte) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{
		SessionId: enrolSession, Urgent: true,
		Csr: &wirepb.Certificate{Type: wirepb.Certificate_CSR, Pem: csr},
	}
}

// CheckCSR reads an enrolment request out of a packet whose envelope names
// source, and returns the key to pin: the request must be signed by its own
// key, that key must be RSA of 2048 to 4096 bits with a sane exponent, and both
// the common name and the source must be the id of that key. ErrBadRequest
// otherwise.
func CheckCSR(text []byte, source ids.Client) (*rsa.PublicKey, error) {
	if len(text) > maxCSR {
		return nil, fmt.Errorf("enrol %s: %d bytes: %w", source, len(text), ErrBadRequest)
	}
	block, _ := pem.Decode(text)
	if block == nil || block.Type != csrType {
		return nil, fmt.Errorf("enrol %s: no PEM request: %w", source, ErrBadRequest)
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("enrol %s: %w: %w", source, ErrBadRequest, err)
	}
	key, ok := request.PublicKey.(*rsa.PublicKey)
	if !ok {
		return nil, fmt.Errorf("enrol %s: not an RSA key: %w", source, ErrBadRequest)
	}
	// Before the signature is verified, since a huge key makes that dear.
	if err := CheckClientKey(key); err != nil {
		return nil, fmt.Errorf("enrol %s: %w", source, err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("enrol %s: %w: %w", source, ErrBadRequest, err)
	}
	if client := ids.ClientOfKey(key); client != source || request.Subject.CommonName != source.String() {
		return nil, fmt.Errorf("enrol %s: request of %.80q with the key of %s: %w", source, request.Subject.CommonName, client, ErrBadRequest)
	}
	return key, nil
}

// CheckClientKey refuses keys that no agent makes: fewer than 2048 or more than
// 4096 bits, an even modulus, an exponent that is even, below 65537 or above
// 31 bits. ErrBadRequest then.
func CheckClientKey(key *rsa.PublicKey) error {
	bits := key.N.BitLen()
	switch {
	case bits < 2048 || bits > 4096:
		return fmt.Errorf("key of %d bits: %w", bits, ErrBadRequest)
	case key.N.Bit(0) == 0:
		return fmt.Errorf("key with an even modulus: %w", ErrBadRequest)
	case key.E < 65537 || key.E > 1<<31-1 || key.E%2 == 0:
		return fmt.Errorf("key with exponent %d: %w", key.E, ErrBadRequest)
	}
	return nil
}

// MarshalKey writes a client's public key as PKCS#1 PEM ("RSA PUBLIC KEY"), the
// form in which stores of the original keep it.
func MarshalKey(key *rsa.PublicKey) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: publicType, Bytes: x509.MarshalPKCS1PublicKey(key)})
}

// ParseKey reads what MarshalKey wrote. ErrMalformed otherwise.
func ParseKey(text []byte) (*rsa.PublicKey, error) {
	block, _ := pem.Decode(text)
	if block == nil || block.Type != publicType {
		return nil, fmt.Errorf("public key: no PEM %s: %w", publicType, ErrMalformed)
	}
	key, err := x509.ParsePKCS1PublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("public key: %w: %w", ErrMalformed, err)
	}
	return key, nil
}
