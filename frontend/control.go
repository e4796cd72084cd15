package frontend

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

// ingestBytes is how much of a packet is decoded before it is handed on; a
// packet may inflate to far more than should lie in memory at once.
const ingestBytes = 8 << 20

// control takes one control packet and answers when everything in it is durable. A
// peer shows that its sender is who it says, and speaks for itself.
func (f *Frontend) control(ctx context.Context, body []byte, t *ticket) (answer, *Peer) {
	packet, peer, err := f.open(ctx, body, t.claim.address)
	if err != nil {
		return judge(err), nil
	}
	if packet.Standing != wire.Known {
		return f.unknown(ctx, packet, peer), nil
	}
	a := f.ingest(ctx, packet, peer, t)
	if packet.Replayed {
		return a, nil
	}
	return a, &peer
}

// open authenticates a body. Whoever is known is seen, unless somebody may just
// repeat what he caught.
func (f *Frontend) open(ctx context.Context, body []byte, address string) (*wire.Packet, Peer, error) {
	f.metrics.bytes.Add(float64(len(body)))
	if err := f.mayBegin(body, address); err != nil {
		return nil, Peer{}, err
	}
	packet, err := f.opener.Open(ctx, body)
	if err != nil {
		return nil, Peer{}, err
	}
	peer := Peer{Org: packet.Org, Client: packet.Client, Address: address, Received: time.Now().UTC()}
	if packet.Standing == wire.Known && !packet.Replayed {
		if !packet.Stale {
			f.admission.vouch(address)
		}
		if f.options.Sightings != nil {
			f.options.Sightings.Touch(peer.Org, peer.Client, address, peer.Received)
		}
	}
	return packet, peer, nil
}

// ingest hands a packet's messages on, a bounded part at a time. The client's
// going away does not stop it: what became durable need not be sent again.
func (f *Frontend) ingest(ctx context.Context, packet *wire.Packet, peer Peer, t *ticket) answer {
	start := time.Now()
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.options.CommitWait)
	defer cancel()
	if err := f.ingestParts(patience, packet, peer, t); err != nil {
		if errors.Is(err, wire.ErrBusy) {
			return later("memory", err)
		}
		return later("durable", err)
	}
	f.metrics.commit.Observe(time.Since(start).Seconds())
	return ok
}

func (f *Frontend) ingestParts(ctx context.Context, packet *wire.Packet, peer Peer, t *ticket) error {
	var part []*wirepb.VeloMessage
	size := 0
	flush := func() error {
		defer t.rest()
		if len(part) == 0 {
			return nil
		}
		err := f.options.Collections.Ingest(ctx, peer, part)
		part, size = nil, 0
		return err
	}
	for messages, err := range packet.Lists(t.reserve(ctx)) {
		if err != nil {
			if err := f.bury(ctx, peer, err); err != nil {
				return err
			}
			// What the dead element had reserved must not add up.
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		for _, m := range messages {
			if needless(m, packet.Replayed) {
				continue
			}
			part = append(part, m)
			size += proto.Size(m)
		}
		if size < ingestBytes {
			continue
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return flush()
}

// needless reports whether a message of a known client has nothing to say: its
// enrolment request, repeated while it waited for the first answer, or a check-in
// that was taken before, and may be behind a newer one.
func needless(m *wirepb.VeloMessage, replayed bool) bool {
	return m.Csr != nil || replayed && m.ForemanCheckin != nil
}

// bury keeps an element that can never be decoded. Anything else that Lists
// reports passes through.
func (f *Frontend) bury(ctx context.Context, peer Peer, err error) error {
	var element *wire.ElementError
	if !errors.As(err, &element) || errors.Is(err, wire.ErrBusy) {
		return err
	}
	if err := f.options.Collections.DeadLetter(ctx, peer, element.Error(), element.Raw); err != nil {
		return fmt.Errorf("dead letter of %s: %w", peer.Client, err)
	}
	f.metrics.dead.Inc()
	if f.quiet.may("dead letter") {
		f.log.Warn("kept a dead letter", "org", peer.Org, "client", peer.Client, "bytes", len(element.Raw), "err", element)
	}
	return nil
}

// Forget drops what is remembered of a client whose record was deleted, so that
// its next packet is looked up anew.
func (f *Frontend) Forget(org ids.Org, client ids.Client) { f.opener.Forget(org, client) }
