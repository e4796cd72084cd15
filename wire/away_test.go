package wire_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"

	"raptorpack/wire/wiretest"
)

// The agent asks for the certificate when it has lost a server: what is left of the
// connections of before may lead nowhere.
func TestServerCertificateComesOverANewConnection(t *testing.T) {
	d := wiretest.NewDeployment(t)
	ours := d.TLS(t)
	s := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.Write(d.Server) }, &ours)
	o := plainOptions(d)
	var dialled atomic.Int32
	o.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		dialled.Add(1)
		return (&net.Dialer{}).DialContext(ctx, network, address)
	}
	tr := transport(t, o)
	for n := int32(1); n <= 2; n++ {
		if _, err := tr.ServerPEM(t.Context(), s.URL+"/"); err != nil {
			t.Fatal(err)
		}
		if got := dialled.Load(); got != n {
			t.Errorf("%d connections for %d questions", got, n)
		}
	}
}
