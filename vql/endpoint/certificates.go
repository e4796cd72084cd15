package endpoint

import (
	"context"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"

	"raptorpack/vql"
)

type certificateArgs struct {
	Data string `vql:"data,required" doc:"One or more certificates, DER or PEM."`
}

// maxCertificates bounds what is parsed: a hostile text may hold any number.
const maxCertificates = 4096

var parseX509Function = vql.NewFunction(vql.Spec{
	Name: "parse_x509", Doc: "Parses certificates in DER or PEM; gives a list.",
}, func(_ context.Context, scope *vql.Scope, args *certificateArgs) (vql.Value, error) {
	blocks := pemBlocks([]byte(args.Data), "CERTIFICATE")
	if blocks == nil {
		certificates, err := x509.ParseCertificates([]byte(args.Data))
		if err != nil {
			return nil, err
		}
		return certificateRows(certificates), nil
	}
	var certificates []*x509.Certificate
	for i, block := range blocks {
		c, err := x509.ParseCertificate(block)
		if err != nil {
			scope.Log(vql.LevelWarn, "parse_x509: certificate %d: %v", i+1, err)
			continue
		}
		certificates = append(certificates, c)
	}
	return certificateRows(certificates), nil
})

// pemBlocks are the blocks of a type; nil where there is no PEM at all.
func pemBlocks(data []byte, kind string) [][]byte {
	var out [][]byte
	for len(out) < maxCertificates {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			break
		}
		if block.Type == kind {
			out = append(out, block.Bytes)
		}
	}
	return out
}

func certificateRows(certificates []*x509.Certificate) []vql.Value {
	out := []vql.Value{}
	for _, c := range certificates {
		out = append(out, certificateRow(c))
	}
	return out
}

func certificateRow(c *x509.Certificate) *vql.Dict {
	row := vql.NewDict()
	row.Set("SerialNumber", c.SerialNumber.Text(16))
	row.Set("SignatureAlgorithm", c.SignatureAlgorithm.String())
	row.Set("PublicKeyAlgorithm", c.PublicKeyAlgorithm.String())
	row.Set("Version", int64(c.Version))
	row.Set("Issuer", c.Issuer.String())
	row.Set("Subject", c.Subject.String())
	row.Set("NotBefore", c.NotBefore)
	row.Set("NotAfter", c.NotAfter)
	row.Set("IsCA", c.IsCA)
	row.Set("DNSNames", c.DNSNames)
	row.Set("EmailAddresses", c.EmailAddresses)
	var addresses, uris []string
	for _, ip := range c.IPAddresses {
		addresses = append(addresses, ip.String())
	}
	for _, u := range c.URIs {
		uris = append(uris, u.String())
	}
	row.Set("IPAddresses", addresses)
	row.Set("URIs", uris)
	row.Set("SubjectKeyId", hex.EncodeToString(c.SubjectKeyId))
	row.Set("AuthorityKeyId", hex.EncodeToString(c.AuthorityKeyId))
	return row
}

// The parts of RFC 5652 that parse_pkcs7 reads.
type (
	contentInfo struct {
		Type    asn1.ObjectIdentifier
		Content asn1.RawValue `asn1:"explicit,optional,tag:0"`
	}
	signedData struct {
		Version      int
		Digests      asn1.RawValue
		ContentInfo  contentInfo
		Certificates asn1.RawValue `asn1:"optional,tag:0"`
		CRLs         asn1.RawValue `asn1:"optional,tag:1"`
		Signers      []signerInfo  `asn1:"set"`
	}
	signerInfo struct {
		Version    int
		Issuer     asn1.RawValue
		Digest     algorithm
		Attributes asn1.RawValue `asn1:"optional,tag:0"`
		Algorithm  algorithm
		Signature  []byte
		Unsigned   asn1.RawValue `asn1:"optional,tag:1"`
	}
	algorithm struct {
		Algorithm  asn1.ObjectIdentifier
		Parameters asn1.RawValue `asn1:"optional"`
	}
)

var signedDataType = asn1.ObjectIdentifier{1, 2, 840, 113549, 1, 7, 2}

type pkcs7Args struct {
	Data string `vql:"data,required" doc:"A PKCS #7 message, DER or PEM."`
}

var parsePKCS7Function = vql.NewFunction(vql.Spec{
	Name: "parse_pkcs7", Doc: "Parses a signed PKCS #7 message: its signers and certificates. Nothing is verified.",
}, func(_ context.Context, _ *vql.Scope, args *pkcs7Args) (vql.Value, error) {
	data := []byte(args.Data)
	if blocks := pemBlocks(data, "PKCS7"); blocks != nil {
		data = blocks[0]
	}
	return parsePKCS7(data)
})

var errNotSigned = errors.New("not a signed PKCS #7 message")

func parsePKCS7(data []byte) (vql.Value, error) {
	var outer contentInfo
	if _, err := asn1.Unmarshal(data, &outer); err != nil {
		return nil, fmt.Errorf("parse message: %w", err)
	}
	if !outer.Type.Equal(signedDataType) {
		return nil, errNotSigned
	}
	var signed signedData
	if _, err := asn1.Unmarshal(outer.Content.Bytes, &signed); err != nil {
		return nil, fmt.Errorf("parse signed data: %w", err)
	}
	certificates, err := x509.ParseCertificates(signed.Certificates.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse certificates: %w", err)
	}
	signers := []vql.Value{}
	for _, s := range signed.Signers {
		row := vql.NewDict()
		row.Set("DigestAlgorithm", s.Digest.Algorithm.String())
		row.Set("SignatureAlgorithm", s.Algorithm.Algorithm.String())
		row.Set("Certificate", vql.NULL)
		for _, c := range certificates {
			if signedBy(c, s.Issuer.Bytes) {
				row.Set("Certificate", certificateRow(c))
			}
		}
		signers = append(signers, row)
	}
	out := vql.NewDict()
	out.Set("ContentType", signed.ContentInfo.Type.String())
	out.Set("Signers", signers)
	out.Set("Certificates", certificateRows(certificates))
	return out, nil
}

// signedBy reports whether issuer and serial number, as a signer names them, are
// those of a certificate.
func signedBy(c *x509.Certificate, issuerAndSerial []byte) bool {
	var issuer asn1.RawValue
	rest, err := asn1.Unmarshal(issuerAndSerial, &issuer)
	if err != nil || string(issuer.FullBytes) != string(c.RawIssuer) {
		return false
	}
	var serial asn1.RawValue
	if _, err := asn1.Unmarshal(rest, &serial); err != nil {
		return false
	}
	return string(serial.Bytes) == string(c.SerialNumber.Bytes()) ||
		len(serial.Bytes) > 1 && serial.Bytes[0] == 0 && string(serial.Bytes[1:]) == string(c.SerialNumber.Bytes())
}
