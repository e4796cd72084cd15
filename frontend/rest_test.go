package frontend_test

import (
	"net/netip"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"

	"raptorpack/frontend"
	"raptorpack/proto/wirepb"
)

// Both sockets of a client that has nothing to say take no goroutine, whatever door
// they came through, and hear and speak as ever.
func TestIdleSocketsRest(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections rest on Linux only")
	}
	for _, door := range []struct {
		name, scheme string
		options      frontend.ListenOptions
	}{
		{"plain", "ws", frontend.ListenOptions{}},
		{"TLS", "wss", frontend.ListenOptions{}},
		{"behind a proxy", "wss", frontend.ListenOptions{ProxyProtocol: true, TrustedProxies: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}}},
	} {
		t.Run(door.name, func(t *testing.T) {
			door.options.Address = "127.0.0.1:0"
			l, err := frontend.Listen(t.Context(), door.options)
			if err != nil {
				t.Fatal(err)
			}
			n := launch(t, door.scheme == "wss", func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
			n.address = l.Addr().String()
			a := n.known(t, door.scheme, 0)
			for range 2 {
				if code := a.post(rows("F.1", "")); code != 200 {
					t.Fatal(code)
				}
				jobs := make(chan []*wirepb.VeloMessage, 1)
				go func() {
					_, got, err := a.poll(t.Context())
					if err != nil {
						t.Error(err)
					}
					jobs <- got
				}()
				n.waiting(t, 1)
				eventually(t, "nobody reads", func() bool { return readers(t) == 0 }, func() any { return readers(t) })
				n.collections.give(a.id, "F.2")
				if got := <-jobs; len(got) != 1 {
					t.Errorf("%d jobs", len(got))
				}
			}
		})
	}
}

// readers counts goroutines that wait for a frame.
func readers(t *testing.T) int {
	t.Helper()
	var stacks strings.Builder
	if err := pprof.Lookup("goroutine").WriteTo(&stacks, 2); err != nil {
		t.Fatal(err)
	}
	return strings.Count(stacks.String(), "wire.(*served).Next(")
}
