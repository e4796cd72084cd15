package wire_test

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// A machine without power neither reads nor pings: what is being written to it waits
// no longer than the pings are waited for.
func TestSilenceEndsAWriteThatIsStuck(t *testing.T) {
	d := wiretest.NewDeployment(t)
	synctest.Test(t, func(t *testing.T) {
		server, client := net.Pipe()
		l := make(pipeListener, 1)
		l <- server
		conns := make(chan wire.Conn, 1)
		s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := wire.Upgrade(w, r, wire.ConnOptions{})
			if err != nil {
				t.Error(err)
			}
			conns <- conn
		})}
		go s.Serve(l)
		o := plainOptions(d)
		o.PingWait = 10 * time.Second
		o.Dial = func(context.Context, string, string) (net.Conn, error) { return client, nil }
		e, err := transport(t, o).Endpoint("ws://server/", wire.PathControl)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		if _, err := e.Exchange(t.Context(), wire.Request{Packet: make([]byte, 1<<20)}); err == nil {
			t.Error("nobody read the packet, and it was answered")
		}
		if took := time.Since(start); took > 2*o.PingWait { // of the bubble
			t.Errorf("the write was given up after %v", took)
		}
		e.Close()
		(<-conns).Close()
		close(l)
		s.Close()
	})
}

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
