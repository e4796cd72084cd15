package replication

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
)

// nodeURI marks the certificates of nodes: nobody else may speak on the bus.
const nodeURI = "raptorpack:node"

func (b *bus) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequireAnyClientCert, VerifyConnection: b.isNode,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return b.o.Certificate(), nil },
	}
}

// clientTLS checks the other side by its URI: nodes have no names of their own in
// certificates, since a pack grows without new ones.
func (b *bus) clientTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, VerifyConnection: b.isNode, // isNode verifies instead
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return b.o.Certificate(), nil },
	}
}

// isNode accepts only certificates of nodes that the deployment's authority signed.
func (b *bus) isNode(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return errors.New("bus: the other side shows no certificate")
	}
	leaf, others := state.PeerCertificates[0], x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		others.AddCert(c)
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: b.o.Authority, Intermediates: others, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	if err != nil {
		return fmt.Errorf("bus: %w", err)
	}
	for _, uri := range leaf.URIs {
		if uri.String() == nodeURI {
			return nil
		}
	}
	return fmt.Errorf("bus: the certificate of %q is no node's", leaf.Subject.CommonName)
}
