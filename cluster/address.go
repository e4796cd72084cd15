package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"
)

// lookupLimit bounds one resolution of a name: the next round tries again.
const lookupLimit = 3 * time.Second

// bindAddress reads where to listen. A name is no address here: what it resolves
// to may change, and memberlist would take a text that is none for "everywhere".
func bindAddress(text string, port int) (netip.AddrPort, error) {
	if text == "" {
		text = "0.0.0.0"
	}
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("gossip address: %w", err)
	}
	if port < 0 || port > 65535 {
		return netip.AddrPort{}, fmt.Errorf("gossip port %d is out of range", port)
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port)), nil
}

// endpoint is an address to join; its host may be a name.
type endpoint struct {
	host string
	port uint16
}

// String returns host:port.
func (e endpoint) String() string { return net.JoinHostPort(e.host, strconv.Itoa(int(e.port))) }

// family is what a socket bound to the address can reach: ip4, ip6 or ip, as the
// resolver names them.
func (s *settings) family() string {
	switch ip := s.bind.Addr(); {
	case ip.Is4():
		return "ip4"
	case ip.IsUnspecified():
		return "ip"
	}
	return "ip6"
}

// resolve returns all addresses of e in a family.
func (e endpoint) resolve(ctx context.Context, family string) ([]netip.AddrPort, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupLimit)
	defer cancel()
	found, err := net.DefaultResolver.LookupNetIP(ctx, family, e.host)
	if err != nil {
		return nil, err
	}
	addresses := make([]netip.AddrPort, 0, len(found))
	for _, ip := range found {
		addresses = append(addresses, netip.AddrPortFrom(ip.Unmap(), e.port))
	}
	return addresses, nil
}

func endpoints(texts []string, defaultPort int) ([]endpoint, error) {
	var all []endpoint
	var errs []error
	for _, text := range texts {
		e, err := parseEndpoint(text, defaultPort)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		all = append(all, e)
	}
	return all, errors.Join(errs...)
}

// parseEndpoint reads "host", "host:port", "::1", "[::1]" and "[::1]:port".
func parseEndpoint(text string, defaultPort int) (endpoint, error) {
	host, digits := text, strconv.Itoa(defaultPort)
	if inner, ok := strings.CutPrefix(text, "["); ok && strings.HasSuffix(inner, "]") {
		host = strings.TrimSuffix(inner, "]")
	} else if _, err := netip.ParseAddr(text); err != nil && strings.Contains(text, ":") {
		if host, digits, err = net.SplitHostPort(text); err != nil {
			return endpoint{}, fmt.Errorf("join address %.100q: %w", text, err)
		}
	}
	port, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || port == 0 || host == "" || strings.ContainsAny(host, "[]/ ") {
		return endpoint{}, fmt.Errorf("join address %.100q is not host or host:port", text)
	}
	return endpoint{host: host, port: uint16(port)}, nil
}

// outside are addresses reserved for documentation (RFC 5737, RFC 3849): nobody
// has them, so the way to them is the default route.
var outside = []endpoint{{"192.0.2.1", 9}, {"2001:db8::1", 9}}

// ownAddress chooses what others are told by a node that listens everywhere: the
// source address that the routing table gives towards the nodes to join. An
// address of the loopback says nothing about the way to others.
func ownAddress(v4 bool, join []endpoint) (netip.Addr, error) {
	for _, to := range append(join[:len(join):len(join)], outside...) {
		if ip, err := netip.ParseAddr(to.host); err != nil || ip.IsLoopback() || v4 && !ip.Unmap().Is4() {
			continue
		}
		if ip, err := sourceTowards(to); err == nil {
			return ip, nil
		}
	}
	return onlyAddress(v4)
}

// sourceTowards asks the routing table: connecting a UDP socket sends nothing.
func sourceTowards(to endpoint) (netip.Addr, error) {
	conn, err := net.Dial("udp", to.String())
	if err != nil {
		return netip.Addr{}, err
	}
	defer func() { _ = conn.Close() }() // it carried nothing
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr().Unmap(), nil
}

// onlyAddress serves hosts without a default route, as in a closed lab: their one
// address, or the loopback for a pack on a host without a network.
func onlyAddress(v4 bool) (netip.Addr, error) {
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, fmt.Errorf("list this host's addresses: %w", err)
	}
	var found []netip.Addr
	for _, each := range interfaces {
		prefix, err := netip.ParsePrefix(each.String())
		if ip := prefix.Addr().Unmap(); err == nil && ip.IsGlobalUnicast() && (ip.Is4() || !v4) {
			found = append(found, ip)
		}
	}
	switch len(found) {
	case 0:
		return netip.AddrFrom4([4]byte{127, 0, 0, 1}), nil
	case 1:
		return found[0], nil
	}
	return netip.Addr{}, fmt.Errorf("this host has the addresses %v and no default route: bind gossip to one of them", found)
}
