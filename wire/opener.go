package wire

import (
	"context"
	"crypto/rsa"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"raptorpack/ids"
)

// KeyLookup tells the public key pinned to a client. It answers with the key,
// or with an error that is ErrNoKey when the client is known to have none, or
// with any other error when that cannot be told now.
type KeyLookup func(ctx context.Context, org ids.Org, client ids.Client) (*rsa.PublicKey, error)

// OpenerOptions wire an Opener. Identity, Keys and Orgs are required.
type OpenerOptions struct {
	Identity *Identity
	Keys     KeyLookup

	// Orgs tells the org that owns a nonce.
	Orgs func(nonce string) (ids.Org, bool)

	Sessions  int // authenticated sessions remembered; zero is 60,000
	Strangers int // sessions of unauthenticated clients remembered; zero is 4,096

	// MaxElement and MaxPacket bound the inflated bytes of one element and of
	// a whole packet; zero is 100 MiB and 1 GiB. A packet is decoded element by
	// element, so memory follows the first.
	MaxElement, MaxPacket int64

	// MaxStranger bounds the inflated bytes of a packet that is not
	// authenticated; zero is 256 KiB.
	MaxStranger int64
}

func (o *OpenerOptions) setDefaults() {
	setDefault(&o.Sessions, 60_000)
	setDefault(&o.Strangers, 4096)
	setDefault(&o.MaxElement, 100<<20)
	setDefault(&o.MaxPacket, 1<<30)
	setDefault(&o.MaxStranger, 256<<10)
}

func setDefault[T int | int64 | float64 | time.Duration](field *T, value T) {
	if *field == 0 {
		*field = value
	}
}

// Opener opens what clients send. Safe for concurrent use.
type Opener struct {
	options   OpenerOptions
	identity  *Identity
	sessions  *otter.Cache[fingerprint, *session] // authenticated
	holders   *holders                            // of those sessions
	strangers *otter.Cache[fingerprint, *opened]  // decrypted, not authenticated
	flights   singleflight.Group                  // one private-key operation per new session
	metrics   *metrics
}

// NewOpener makes an Opener with empty caches.
func NewOpener(o OpenerOptions) (*Opener, error) {
	if o.Identity == nil || o.Keys == nil || o.Orgs == nil {
		return nil, errors.New("wire: an opener needs an identity, keys and orgs")
	}
	o.setDefaults()
	opener := &Opener{options: o, identity: o.Identity, metrics: o.Identity.metrics, holders: newHolders()}
	var err error
	opener.sessions, err = otter.New(&otter.Options[fingerprint, *session]{
		MaximumSize: o.Sessions, Executor: atOnce, OnDeletion: opener.holders.dropped,
	})
	if err != nil {
		return nil, fmt.Errorf("session cache: %w", err)
	}
	if opener.strangers, err = newCache[*opened](o.Strangers); err != nil {
		return nil, fmt.Errorf("cache of strangers: %w", err)
	}
	return opener, nil
}

// atOnce runs a cache's chores in the goroutine that causes them.
func atOnce(task func()) { task() }

// newCache makes a bounded cache without goroutines of its own.
func newCache[V any](size int) (*otter.Cache[fingerprint, V], error) {
	return otter.New(&otter.Options[fingerprint, V]{MaximumSize: size, Executor: atOnce})
}

// Recognises reports whether the first bytes of a body show a session that is
// authenticated already. False says nothing: stock clients put the session
// behind the payload.
func (o *Opener) Recognises(head []byte) bool {
	cipher := cipherInHead(head)
	if cipher == nil {
		return false
	}
	_, known := o.sessions.GetIfPresent(fingerprintOf(cipher))
	return known
}

// Forget drops the sessions of a client. Call it after the lookup of keys knows
// that the key is gone or changed: then none comes back.
func (o *Opener) Forget(org ids.Org, client ids.Client) {
	for _, s := range o.holders.of(holder{org, client}) {
		o.sessions.Invalidate(s.name)
	}
}

// Open authenticates and decrypts one body, which it changes and keeps as long
// as the Packet lives. Nothing is inflated yet. Errors: ErrMalformed and
// ErrForged (also an unknown nonce), ErrBusy, ErrUnsure.
//
// The checks come in the order of their price (protocol section 4.7): recognise
// the session by its bytes, MAC, decrypt, nonce; for a new session first the
// private key, and at the end the client's key and signature.
func (o *Opener) Open(ctx context.Context, body []byte) (*Packet, error) {
	packet, err := o.open(ctx, body)
	o.metrics.opens.WithLabelValues(outcome(packet, err)).Inc()
	if err != nil {
		return nil, fmt.Errorf("open: %w", err)
	}
	return packet, nil
}

func outcome(p *Packet, err error) string {
	switch {
	case errors.Is(err, ErrForged):
		return "forged"
	case errors.Is(err, ErrMalformed):
		return "malformed"
	case errors.Is(err, ErrBusy):
		return "busy"
	case err != nil:
		return "unsure"
	case p.Standing == Stranger:
		return "stranger"
	case p.Standing == Impostor:
		return "impostor"
	}
	return "known"
}

func (o *Opener) open(ctx context.Context, body []byte) (*Packet, error) {
	envelope, err := scanOuter(body)
	if err != nil {
		return nil, err
	}
	if envelope.version < APIVersion {
		return nil, fmt.Errorf("api version %d: %w", envelope.version, ErrMalformed)
	}
	name := fingerprintOf(envelope.cipher)
	if s, ok := o.sessions.GetIfPresent(name); ok {
		o.metrics.sessions.WithLabelValues("cached").Inc()
		return o.known(s, &envelope)
	}
	return o.unknown(ctx, name, &envelope)
}

// known opens a packet of an authenticated session.
func (o *Opener) known(s *session, envelope *outer) (*Packet, error) {
	if err := s.checkMAC(envelope); err != nil {
		return nil, fmt.Errorf("%s: %w", s.client, err)
	}
	packet, err := o.payload(&s.properties, envelope)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", s.client, err)
	}
	if packet.Org != s.org {
		return nil, fmt.Errorf("%s: session of another org: %w", s.client, ErrForged)
	}
	packet.Client, packet.Standing, packet.Cached = s.client, Known, true
	o.remember(s, envelope.iv, packet)
	return packet, nil
}

// unknown opens a packet of a session that is not authenticated yet.
func (o *Opener) unknown(ctx context.Context, name fingerprint, envelope *outer) (*Packet, error) {
	c, s, err := o.decipher(ctx, name, envelope)
	if err != nil {
		return nil, err
	}
	if s != nil {
		return o.known(s, envelope)
	}
	client, err := ids.ParseClient(c.source)
	if err != nil || client == ids.Server {
		return nil, fmt.Errorf("source %.80q: %w", c.source, ErrMalformed)
	}
	packet, err := o.payload(&c.properties, envelope)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", client, err)
	}
	packet.Client = client
	standing, err := o.standing(ctx, packet.Org, client, c)
	if err != nil {
		return nil, err
	}
	packet.Standing = standing
	if standing != Known {
		packet.limits = limits{element: o.options.MaxStranger, packet: o.options.MaxStranger}
		return packet, nil
	}
	s = o.enter(&session{properties: c.properties, name: name, org: packet.Org, client: client})
	// Forget may have come between the look at the key and the session.
	if again, err := o.standing(ctx, packet.Org, client, c); again != Known {
		o.sessions.Invalidate(name)
		return nil, errors.Join(fmt.Errorf("key of %s went away just now: %w", client, ErrUnsure), err)
	}
	o.strangers.Invalidate(name) // only now: decipherOnce looks in this order
	o.remember(s, envelope.iv, packet)
	return packet, nil
}

// enter caches a session, unless another packet did.
func (o *Opener) enter(s *session) *session {
	o.holders.add(s)
	cached, entered := o.sessions.SetIfAbsent(s.name, s)
	if !entered {
		o.holders.remove(s)
	}
	return cached
}

// decipher returns the secrets of a session, with the packet's MAC checked, or
// the session itself if another packet made it known meanwhile. The private key is
// used once per session, however many packets wait for it.
func (o *Opener) decipher(ctx context.Context, name fingerprint, envelope *outer) (*opened, *session, error) {
	if c, ok := o.strangers.GetIfPresent(name); ok {
		o.metrics.sessions.WithLabelValues("stranger").Inc()
		return c, nil, c.checkMAC(envelope)
	}
	if want := o.identity.key.Size(); len(envelope.cipher) != want {
		return nil, nil, fmt.Errorf("sealed cipher of %d bytes, not %d: %w", len(envelope.cipher), want, ErrMalformed)
	}
	if len(envelope.mac) != macSize || len(envelope.iv) != keySize || len(envelope.encrypted) == 0 {
		return nil, nil, fmt.Errorf("envelope without MAC, iv or payload: %w", ErrMalformed)
	}
	o.metrics.sessions.WithLabelValues("new").Inc()
	result, err, _ := o.flights.Do(string(name[:]), func() (any, error) { return o.decipherOnce(ctx, name, envelope) })
	if err != nil {
		return nil, nil, err
	}
	if s, ok := result.(*session); ok {
		return nil, s, nil
	}
	c := result.(*opened)
	return c, nil, c.checkMAC(envelope)
}

// decipherOnce returns an *opened or a *session.
func (o *Opener) decipherOnce(ctx context.Context, name fingerprint, envelope *outer) (any, error) {
	if c, ok := o.strangers.GetIfPresent(name); ok {
		return c, nil // another packet was faster
	}
	if s, ok := o.sessions.GetIfPresent(name); ok {
		return s, nil // even that one's signature is checked
	}
	var c *opened
	err := o.identity.private(ctx, "open session", o.identity.opening, func(key *rsa.PrivateKey) error {
		var err error
		c, err = openCipher(key, envelope)
		return err
	})
	if err != nil {
		return nil, err
	}
	o.strangers.Set(name, c)
	return c, nil
}

// payload decrypts and finds the org by the nonce.
func (o *Opener) payload(p *properties, envelope *outer) (*Packet, error) {
	plain, err := p.decrypt(envelope.encrypted, envelope.iv)
	if err != nil {
		return nil, fmt.Errorf("payload: %w", err)
	}
	list, err := scanPacked(plain)
	if err != nil {
		return nil, err
	}
	org, ok := o.options.Orgs(string(list.nonce))
	if !ok {
		return nil, fmt.Errorf("nonce: %w", ErrForged)
	}
	return &Packet{
		Org: org, Sent: sentAt(list.timestamp), list: list,
		limits: limits{element: o.options.MaxElement, packet: o.options.MaxPacket},
	}, nil
}

func (o *Opener) standing(ctx context.Context, org ids.Org, client ids.Client, c *opened) (Standing, error) {
	key, err := o.options.Keys(ctx, org, client)
	switch {
	case errors.Is(err, ErrNoKey):
		return Stranger, nil
	case err != nil:
		return Stranger, fmt.Errorf("key of %s: %w: %w", client, ErrUnsure, err)
	case c.verify(key) != nil:
		return Impostor, nil
	}
	return Known, nil
}

// remember notes the packet in its session and flags one that came before, or
// late.
func (o *Opener) remember(s *session, iv []byte, packet *Packet) {
	seen, stale := s.note(iv, packet.Sent)
	packet.Replayed, packet.Stale = seen, stale
	if seen {
		o.metrics.replays.WithLabelValues("seen").Inc()
	}
	if stale {
		o.metrics.replays.WithLabelValues("stale").Inc()
	}
}

// sentAt reads a sender's clock in microseconds; what lies outside 1970 to 2255
// is as good as absent.
func sentAt(micro uint64) time.Time {
	if micro == 0 || micro > 9_000_000_000_000_000 {
		return time.Time{}
	}
	return time.UnixMicro(int64(micro)).UTC()
}
