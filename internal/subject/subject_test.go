package subject_test

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"testing"

	"raptorpack/internal/subject"
)

func TestNameIsTheFirstThereIs(t *testing.T) {
	address := []net.IP{net.IPv4(192, 0, 2, 1)}
	for want, c := range map[string]*x509.Certificate{
		"common":    {Subject: pkix.Name{CommonName: "common"}, DNSNames: []string{"dns"}, IPAddresses: address},
		"dns":       {DNSNames: []string{"dns", "other"}, IPAddresses: address},
		"192.0.2.1": {IPAddresses: address},
		"":          {},
	} {
		if got := subject.Name(c); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
