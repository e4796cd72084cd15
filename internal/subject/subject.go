// Package subject says for whom a certificate speaks.
package subject

import "crypto/x509"

// Name is the name that agents compare with pinned_server_name: a certificate's
// CommonName, else its first DNS name, else its first IP address, else nothing.
func Name(c *x509.Certificate) string {
	switch {
	case c.Subject.CommonName != "":
		return c.Subject.CommonName
	case len(c.DNSNames) > 0:
		return c.DNSNames[0]
	case len(c.IPAddresses) > 0:
		return c.IPAddresses[0].String()
	}
	return ""
}
