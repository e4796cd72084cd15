package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/ids"
)

// DefaultPort is the port of addresses in Join and Seeds that name none, where
// this node itself is bound to any free one.
const DefaultPort = 7946

// keyBytes makes it AES-256.
const keyBytes = 32

// Member is another node of the pack, as gossip last told.
type Member struct {
	Incarnation string // "<node>-<n>", unique per run
	Node        string // the part before "-<n>"
	Bus         string // host:port where its bus listens; "" none
	Candidate   bool   // may lead
	Version     string // of its program
	Clients     int    // connected to it, within about a sixteenth
}

// Options say where a node gossips and what it tells of itself.
type Options struct {
	Node        ids.Node // required
	Incarnation string   // required: "<node>-<n>", never used by another run

	// BindAddress is the IP address to listen on, UDP and TCP; "" is 0.0.0.0.
	// BindPort 0 is any port that is free for both.
	BindAddress string
	BindPort    int

	// AdvertiseAddress is the IP address that others are told. "": BindAddress if
	// that is a concrete one, and otherwise the address that this host uses
	// towards the first address of Join, or else towards the default route.
	AdvertiseAddress string

	BusPort int    // told to others; its host is that of gossip. 0: no bus
	Key     []byte // required: 32 bytes, the same on all nodes of the pack

	Candidate bool
	Version   string // about 250 bytes at most

	// Join are nodes to begin with, "host" or "host:port"; without a port it is
	// BindPort, or DefaultPort if that is 0. A name is resolved anew each time and
	// all its addresses are joined. This node itself may be among them.
	Join []string

	// Seeds names more of them, in the same form; nil: none. It is asked at the
	// start, every few seconds while one of them is not among the members, soon
	// after a member has gone, and otherwise twice a minute or a little more often.
	// It must end with its context, which gives it 5 s.
	Seeds func(context.Context) ([]string, error)

	// Clients counts the clients connected here; nil: none. Asked every 5 s, told
	// to others if it changed by more than a sixteenth.
	Clients func() int

	Registerer prometheus.Registerer // nil: no metrics
	Logger     *slog.Logger          // nil: slog.Default
}

// settings are Options that were checked.
type settings struct {
	Options
	number    uint64 // of the incarnation
	bind      netip.AddrPort
	advertise netip.Addr // invalid: to be chosen
	join      []endpoint
}

func (o Options) check() (settings, error) {
	s := settings{Options: o}
	var errs []error
	note := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	s.number, err = o.checkNames()
	note(err)
	s.bind, err = bindAddress(o.BindAddress, o.BindPort)
	note(err)
	s.advertise, err = o.checkAdvertised()
	note(err)
	s.join, err = endpoints(o.Join, o.defaultPort())
	note(err)
	if len(o.Key) != keyBytes {
		note(fmt.Errorf("the gossip key has %d bytes, not %d", len(o.Key), keyBytes))
	}
	if o.BusPort < 0 || o.BusPort > 65535 {
		note(fmt.Errorf("bus port %d is out of range", o.BusPort))
	}
	_, err = o.meta(maxClients).encode() // the longest it can get
	note(err)
	if s.Logger == nil {
		s.Logger = slog.Default()
	}
	return s, errors.Join(errs...)
}

func (o Options) checkNames() (uint64, error) {
	if o.Node.IsZero() {
		return 0, errors.New("the node has no name")
	}
	node, number, err := parseIncarnation(o.Incarnation)
	if err == nil && node != o.Node {
		err = fmt.Errorf("incarnation %s is not one of node %s", o.Incarnation, o.Node)
	}
	return number, err
}

func (o Options) checkAdvertised() (netip.Addr, error) {
	if o.AdvertiseAddress == "" {
		return netip.Addr{}, nil
	}
	ip, err := netip.ParseAddr(o.AdvertiseAddress)
	if err == nil && (ip.IsUnspecified() || ip.Zone() != "") {
		err = fmt.Errorf("others cannot reach %s", ip)
	}
	if err != nil {
		return netip.Addr{}, fmt.Errorf("advertised address: %w", err)
	}
	return ip.Unmap(), nil
}

func (o Options) meta(clients int) meta {
	return meta{Format: metaFormat, BusPort: o.BusPort, Candidate: o.Candidate, Version: o.Version, Clients: clients}
}

func (o Options) defaultPort() int {
	if o.BindPort == 0 {
		return DefaultPort
	}
	return o.BindPort
}
