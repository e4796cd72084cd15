package config

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"raptorpack/internal/subject"
)

// check reports what is well-formed and still wrong.
func (d *decoder) check(f *File, clientOnly bool) {
	d.checkClient(&f.Client, clientOnly)
	if clientOnly {
		return
	}
	d.checkFrontend(f)
	for key, port := range map[string]int{
		"Frontend.bind_port": f.Frontend.BindPort, "API.bind_port": f.API.BindPort, "GUI.bind_port": f.GUI.BindPort,
		"Monitoring.bind_port": f.Monitoring.BindPort, "Bus.bind_port": f.Bus.BindPort, "Gossip.bind_port": f.Gossip.BindPort,
	} {
		if port < 1 || port > 65535 {
			d.at(key, "expected a port from 1 to 65535, found %d", port)
		}
	}
	if _, err := regexp.Compile(f.Frontend.CollectionErrorRegex); err != nil {
		d.at("Frontend.collection_error_regex", "%v", err)
	}
	for _, cidr := range f.GUI.AllowedCIDR {
		if _, _, err := net.ParseCIDR(cidr); err != nil {
			d.at("GUI.allowed_cidr", "%v", err)
		}
	}
	if key, err := base64.StdEncoding.DecodeString(f.Gossip.Key); f.Gossip.Key != "" && (err != nil || len(key) != 32) {
		d.at("Gossip.key", "expected 32 bytes in base64")
	}
	if !slices.Contains([]string{"text", "json"}, f.Pack.LogFormat) {
		d.at("Pack.log_format", "expected text or json, found %q", f.Pack.LogFormat)
	}
}

func (d *decoder) checkClient(c *Client, clientOnly bool) {
	if clientOnly && len(c.ServerURLs) == 0 {
		d.at("Client.server_urls", "expected at least one URL")
	}
	for _, text := range c.ServerURLs {
		u, err := url.Parse(text)
		switch {
		case err != nil:
			d.at("Client.server_urls", "%v", err)
		case !slices.Contains([]string{"http", "https", "ws", "wss"}, u.Scheme):
			d.at("Client.server_urls", "%q: expected a scheme of http, https, ws or wss", text)
		case !strings.HasSuffix(text, "/"):
			d.at("Client.server_urls", "%q: must end in /", text)
		}
	}
	if c.Nonce == "" {
		d.at("Client.nonce", "expected the deployment's nonce; without it no client is heard")
	}
	if _, err := Certificate(c.CACertificate); err != nil {
		d.at("Client.ca_certificate", "%v", err)
	}
	modes := []string{"PKI", "PKI_OR_THUMBPRINT", "THUMBPRINT_ONLY"}
	if !slices.Contains(modes, c.Crypto.CertificateVerificationMode) {
		d.at("Client.Crypto.certificate_verification_mode", "expected one of %s", strings.Join(modes, ", "))
	}
}

func (d *decoder) checkFrontend(f *File) {
	certificate, err := Certificate(f.Frontend.Certificate)
	if err != nil {
		d.at("Frontend.certificate", "%v", err)
		return
	}
	key, err := PrivateKey(f.Frontend.PrivateKey)
	if err != nil {
		d.at("Frontend.private_key", "%v", err)
		return
	}
	if public, ok := certificate.PublicKey.(*rsa.PublicKey); !ok || !public.Equal(&key.PublicKey) {
		d.at("Frontend.private_key", "does not belong to Frontend.certificate")
	}
	ca, err := Certificate(f.Client.CACertificate)
	if err == nil && certificate.CheckSignatureFrom(ca) != nil {
		d.at("Frontend.certificate", "is not signed by Client.ca_certificate: no client would talk to it")
	}
	if name := subject.Name(certificate); name != f.Client.PinnedServerName {
		d.at("Frontend.certificate", "names %q, but clients expect %q", name, f.Client.PinnedServerName)
	}
	if f.CA.PrivateKey != "" {
		if key, err := PrivateKey(f.CA.PrivateKey); err != nil {
			d.at("CA.private_key", "%v", err)
		} else if ca != nil && !key.PublicKey.Equal(ca.PublicKey) {
			d.at("CA.private_key", "does not belong to Client.ca_certificate")
		}
	}
	if base := f.Frontend.BasePath; base != "" && (!strings.HasPrefix(base, "/") || strings.HasSuffix(base, "/")) {
		d.at("Frontend.base_path", "%q: must begin with / and not end with it", base)
	}
}

// at reports a problem of a key that was decoded, at its line if it stands in
// the file.
func (d *decoder) at(key, format string, args ...any) {
	d.problems = append(d.problems, Problem{File: d.file, Line: d.origin[key], Key: key, Message: fmt.Sprintf(format, args...)})
}

// Certificate reads the first certificate of a PEM text.
func Certificate(text string) (*x509.Certificate, error) {
	if text == "" {
		return nil, errors.New("expected a PEM certificate, found nothing")
	}
	block, _ := pem.Decode([]byte(text))
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, errors.New("expected a PEM certificate")
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificate: %w", err)
	}
	return certificate, nil
}

// PrivateKey reads an RSA key from PEM, PKCS#1 or PKCS#8. Its errors never hold
// any of the text.
func PrivateKey(text string) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode([]byte(text))
	if block == nil {
		return nil, errors.New("expected a PEM private key")
	}
	if key, err := x509.ParsePKCS1PrivateKey(block.Bytes); err == nil {
		return key, nil
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, errors.New("expected an RSA key in PKCS#1 or PKCS#8")
	}
	key, ok := parsed.(*rsa.PrivateKey)
	if !ok {
		return nil, errors.New("expected an RSA key")
	}
	return key, nil
}
