package frontend

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/notifier"
	"raptorpack/wire"
)

// Options wire a Frontend. The first block is required; zero values of the rest
// mean the defaults given.
type Options struct {
	Identity    *wire.Identity
	Keys        Keys
	Collections Collections
	Tenants     Tenants
	Board       *notifier.Board

	Listener net.Listener // TCP; see Listen. Nil: only Handler is used
	TLS      *tls.Config  // see TLSConfig; nil serves plain HTTP

	Sightings Sightings    // nil: nobody is told who was seen
	Ready     func() error // what healthz answers beside draining; nil: always ready
	Public    Public       // public/<name>; nil: not found

	// BasePath is the prefix of every path: a leading slash, none at the end.
	BasePath string

	// ProxyHeader names the header with the client's address, for balancers
	// that speak HTTP; it is believed of peers in TrustedProxies, or of all when
	// that is empty.
	ProxyHeader    string
	TrustedProxies []netip.Prefix

	MaxPoll    time.Duration // length of a long poll; 60 s
	PollJitter time.Duration // up to this much longer; 30 s
	PadEvery   time.Duration // filler of a held HTTP answer; 10 s
	PingWait   time.Duration // ws_ping_wait_sec, as clients have it; 60 s

	// CommitWait is how long a post may take to become durable before it is
	// answered with 503; 20 s.
	CommitWait time.Duration

	// RetryDelay paces clients: answers of 503 come after RetryDelay to twice
	// that; 2 s, less than zero: at once.
	RetryDelay time.Duration

	// DrainWindow is the time over which clients are handed over when the node
	// stops; 15 s.
	DrainWindow time.Duration

	MaxBody        int64 // bytes of one post or frame; 32 MiB, at least 10 MiB
	BodyMemory     int64 // bytes of all large posts at once; 256 MiB
	SmallMemory    int64 // bytes of all posts up to 64 KiB at once, half of them for known sessions; 64 MiB
	StrangerMemory int64 // bytes of large posts whose sender is not known yet; 32 MiB, less than zero: none
	InflateMemory  int64 // bytes inflated at once; 384 MiB

	// MaxElement and MaxPacket bound the inflated bytes of one element of a
	// packet and of a whole packet; 100 MiB and 1 GiB. What exceeds them can
	// never be taken and becomes a dead letter.
	MaxElement, MaxPacket int64

	// AdmissionWait is how long a post may wait for its turn; 10 s.
	AdmissionWait time.Duration

	Sessions int // sessions remembered, each way; 60,000

	EnrolPerSecond        float64 // enrolments on this node; 100, less than zero: none
	EnrolPerAddressSecond float64 // from one address (IPv6: one /64), after a burst of ten times that; 20

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	orDefault(&o.MaxPoll, time.Minute)
	orDefault(&o.PollJitter, 30*time.Second)
	orDefault(&o.PadEvery, 10*time.Second)
	orDefault(&o.PingWait, time.Minute)
	orDefault(&o.CommitWait, 20*time.Second)
	orDefault(&o.RetryDelay, 2*time.Second)
	orDefault(&o.DrainWindow, 15*time.Second)
	orDefault(&o.AdmissionWait, 10*time.Second)
	orDefault(&o.MaxBody, 32<<20)
	o.MaxBody = max(o.MaxBody, 10<<20)
	orDefault(&o.BodyMemory, 256<<20)
	o.BodyMemory = max(o.BodyMemory, 2*o.MaxBody)
	orDefault(&o.SmallMemory, 64<<20)
	o.SmallMemory = max(o.SmallMemory, 4*smallBody)
	orDefault(&o.StrangerMemory, 32<<20)
	orDefault(&o.InflateMemory, 384<<20)
	orDefault(&o.MaxElement, 100<<20)
	orDefault(&o.MaxPacket, 1<<30)
	o.InflateMemory = max(o.InflateMemory, 2*o.MaxElement+ingestBytes) // or the largest would never get through
	orDefault(&o.Sessions, 60_000)
	orDefault(&o.EnrolPerSecond, 100)
	orDefault(&o.EnrolPerAddressSecond, 20)
}

func orDefault[T int | int64 | float64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

func (o *Options) validate() error {
	if o.Identity == nil || o.Keys == nil || o.Collections == nil || o.Tenants == nil || o.Board == nil {
		return errors.New("frontend: identity, keys, collections, tenants and board are required")
	}
	if o.BasePath != "" && (!strings.HasPrefix(o.BasePath, "/") || strings.HasSuffix(o.BasePath, "/")) {
		return fmt.Errorf("frontend: base path %q needs a slash in front and none at the end", o.BasePath)
	}
	return nil
}
