package wire

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"raptorpack/internal/subject"
)

// The modes of Crypto.certificate_verification_mode (protocol section 3.8).
const (
	ModePKI             = "PKI"
	ModePKIOrThumbprint = "PKI_OR_THUMBPRINT"
	ModeThumbprintOnly  = "THUMBPRINT_ONLY"
)

// TLSOptions are how an agent judges the TLS certificate of its server. The
// message layer holds whatever is decided here.
type TLSOptions struct {
	CA          []byte   // PEM of Client.ca_certificate
	Roots       []byte   // PEM of Crypto.root_certs; may be empty
	Mode        string   // a Mode constant; empty is ModePKI
	Thumbprints []string // SHA-256 of accepted certificates in hex; colons and case do not matter

	// SelfSigned is Client.use_self_signed_ssl: the verified name is PinnedName
	// (empty: DefaultServerName) instead of the URL's host.
	SelfSigned bool
	PinnedName string

	// ClientCertificate and ClientKey are PEM, offered when the server asks.
	ClientCertificate, ClientKey []byte
}

// Config is how connections to one of the agent's servers are secured, for who speaks
// to it beside the protocol: a fetch of its public files.
func (o TLSOptions) Config(host string) (*tls.Config, error) { return o.tlsConfig(host) }

// verifier decides about the certificate of one host.
type verifier struct {
	mode        string
	thumbprints [][sha256.Size]byte
	ca          *x509.CertPool
	roots       func() *x509.CertPool // made when first asked for: most agents need them never
	name        string
}

// tlsConfig builds the configuration for connections to host. Go's own check is
// replaced by ours, which knows thumbprints and the deployment's CA.
func (o TLSOptions) tlsConfig(host string) (*tls.Config, error) {
	v, err := o.verifier()
	if err != nil {
		return nil, err
	}
	return o.judgedBy(*v, host)
}

func (o TLSOptions) judgedBy(v verifier, host string) (*tls.Config, error) {
	v.name = host
	if o.SelfSigned {
		v.name = o.PinnedName
		if v.name == "" {
			v.name = DefaultServerName
		}
	}
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: v.name,
		InsecureSkipVerify: true, // VerifyConnection does it, for resumed sessions too
		VerifyConnection:   v.verify,
	}
	if len(o.ClientCertificate) > 0 {
		pair, err := tls.X509KeyPair(o.ClientCertificate, o.ClientKey)
		if err != nil {
			return nil, fmt.Errorf("client certificate: %w", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func (o TLSOptions) verifier() (*verifier, error) {
	v := &verifier{mode: o.Mode}
	if v.mode == "" {
		v.mode = ModePKI
	}
	if !slices.Contains([]string{ModePKI, ModePKIOrThumbprint, ModeThumbprintOnly}, v.mode) {
		return nil, fmt.Errorf("certificate_verification_mode %.40q: not PKI, PKI_OR_THUMBPRINT or THUMBPRINT_ONLY", v.mode)
	}
	for _, text := range o.Thumbprints {
		raw, err := hex.DecodeString(strings.ReplaceAll(text, ":", ""))
		if err != nil || len(raw) != sha256.Size {
			return nil, fmt.Errorf("certificate thumbprint %.80q: not a SHA-256 in hex", text)
		}
		v.thumbprints = append(v.thumbprints, [sha256.Size]byte(raw))
	}
	var err error
	if v.ca, err = (Trust{CA: o.CA}).roots(); err != nil {
		return nil, err
	}
	if len(o.Roots) > 0 && !x509.NewCertPool().AppendCertsFromPEM(o.Roots) {
		return nil, errors.New("root_certs: no certificate in it")
	}
	v.roots = sync.OnceValue(o.roots)
	return v, nil
}

// roots are the authorities of the machine, and those configured.
func (o TLSOptions) roots() *x509.CertPool {
	roots, err := x509.SystemCertPool()
	if err != nil {
		roots = x509.NewCertPool() // no system store: only what is configured
	}
	roots.AppendCertsFromPEM(o.Roots) // as checked
	return roots
}

func (v *verifier) verify(state tls.ConnectionState) error {
	if len(state.PeerCertificates) == 0 {
		return fmt.Errorf("tls: no certificate: %w", ErrForged)
	}
	leaf := state.PeerCertificates[0]
	if v.mode != ModePKI {
		if slices.Contains(v.thumbprints, sha256.Sum256(leaf.Raw)) {
			return nil
		}
		if v.mode == ModeThumbprintOnly {
			return fmt.Errorf("tls: certificate %q is not listed: %w", subject.Name(leaf), ErrForged)
		}
	}
	// Signed by the deployment's own CA for servers, whatever its name:
	// certificates of API users are not for server authentication.
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: v.ca}); err == nil {
		return nil
	}
	between := x509.NewCertPool()
	for _, c := range state.PeerCertificates[1:] {
		between.AddCert(c)
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: v.roots(), Intermediates: between, DNSName: v.name}); err != nil {
		return fmt.Errorf("tls: %w: %w", ErrForged, err)
	}
	return nil
}
