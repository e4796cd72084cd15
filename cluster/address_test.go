package cluster

import (
	"net"
	"net/netip"
	"testing"
)

func TestJoinAddresses(t *testing.T) {
	for text, want := range map[string]endpoint{
		"node.example": {"node.example", 7000}, "node.example:1": {"node.example", 1}, "10.0.0.1": {"10.0.0.1", 7000},
		"10.0.0.1:65535": {"10.0.0.1", 65535}, "::1": {"::1", 7000}, "[::1]": {"::1", 7000}, "[::1]:2": {"::1", 2},
		"": {}, ":1": {}, "a:": {}, "a:0": {}, "a:65536": {}, "a:-1": {}, "a:b": {}, "a:1:2": {}, "[]": {}, "[::1": {}, "::1]": {}, "[a": {},
		"name/10.0.0.1": {}, "name/10.0.0.1:1": {}, "a b": {}, "[]:1": {},
	} {
		got, err := parseEndpoint(text, 7000)
		if got != want || (err == nil) != (want.host != "") {
			t.Errorf("%q is %v, %v; want %v", text, got, err, want)
		}
	}
}

func TestOwnAddressIsOneOfThisHost(t *testing.T) {
	for _, join := range [][]endpoint{nil, {{"127.0.0.1", 1}, {"name.example", 1}}, {{"::1", 1}}} {
		ip, err := ownAddress(true, join)
		if err != nil {
			t.Logf("this host cannot tell: %v", err) // several networks and no default route
			continue
		}
		if !ip.Is4() || ip.IsUnspecified() || !ofThisHost(t, ip) {
			t.Errorf("with %v it is %v", join, ip)
		}
	}
}

func ofThisHost(t *testing.T, ip netip.Addr) bool {
	t.Helper()
	addresses, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, each := range addresses {
		if prefix, err := netip.ParsePrefix(each.String()); err == nil && prefix.Addr().Unmap() == ip {
			return true
		}
	}
	return false
}

func TestFamilyIsWhatTheSocketCanReach(t *testing.T) {
	for text, want := range map[string]string{"": "ip4", "0.0.0.0": "ip4", "10.0.0.1": "ip4", "::ffff:10.0.0.1": "ip4", "::": "ip", "::1": "ip6"} {
		at, err := bindAddress(text, 1)
		if err != nil {
			t.Fatal(err)
		}
		s := settings{bind: at}
		if got := s.family(); got != want {
			t.Errorf("%q: %s, want %s", text, got, want)
		}
	}
}

func TestResolveKeepsToTheFamily(t *testing.T) {
	got, err := endpoint{"127.0.0.1", 5}.resolve(t.Context(), "ip4")
	if err != nil || len(got) != 1 || got[0].String() != "127.0.0.1:5" {
		t.Errorf("resolved to %v, %v", got, err)
	}
	if got, err := (endpoint{"::1", 5}).resolve(t.Context(), "ip4"); err == nil {
		t.Errorf("::1 is %v for a socket without IPv6", got)
	}
}
