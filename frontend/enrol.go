package frontend

import (
	"context"
	"errors"
	"fmt"

	"github.com/maypok86/otter/v2"
	"golang.org/x/time/rate"

	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

const (
	rationedKept = 16_384

	// A source from which nothing authentic came within the hour may begin so many
	// sessions a second, after a burst: each costs an operation with the private key.
	strangersPerSecond = 20
	strangersAtOnce    = 200
)

var (
	errEnrolRate = errors.New("too many enrolments")
	errStrangers = errors.New("too many new sessions of one source")
)

// ration is a rate that each source has for itself.
type ration struct {
	each    rate.Limit
	burst   int
	sources *otter.Cache[string, *rate.Limiter]
}

func newRation(each rate.Limit, burst int) (*ration, error) {
	sources, err := otter.New(&otter.Options[string, *rate.Limiter]{MaximumSize: rationedKept, Executor: func(task func()) { task() }})
	if err != nil {
		return nil, fmt.Errorf("cache of rationed sources: %w", err)
	}
	return &ration{each: each, burst: burst, sources: sources}, nil
}

func (r *ration) allow(source string) bool {
	limiter, ok := r.sources.GetIfPresent(source)
	if !ok {
		limiter, _ = r.sources.SetIfAbsent(source, rate.NewLimiter(r.each, r.burst))
	}
	return limiter.Allow()
}

// enrolment rations enrolment requests, on the whole and by source.
type enrolment struct {
	all  *rate.Limiter
	each *ration
}

func newEnrolment(o *Options) (*enrolment, error) {
	each, err := newRation(rate.Limit(o.EnrolPerAddressSecond), max(1, int(o.EnrolPerAddressSecond*10)))
	if err != nil {
		return nil, err
	}
	every := max(0, o.EnrolPerSecond)
	return &enrolment{all: rate.NewLimiter(rate.Limit(every), int(every*2)), each: each}, nil
}

func (e *enrolment) allow(address string) error {
	if source := sourceOf(address); !e.each.allow(source) {
		return fmt.Errorf("%w from %s", errEnrolRate, source)
	}
	if !e.all.Allow() {
		return errEnrolRate
	}
	return nil
}

// mayBegin rations the sessions of strangers, before they cost anything dear.
func (f *Frontend) mayBegin(body []byte, address string) error {
	if f.admission.vouched(address) || f.opener.Recognises(body) {
		return nil
	}
	if source := f.source(address); source != "" && !f.strangers.allow(source) {
		return fmt.Errorf("%w: %s: %w", errStrangers, source, wire.ErrBusy)
	}
	return nil
}

// unknown answers a control packet that is not authenticated: nothing in it
// counts but an enrolment request.
func (f *Frontend) unknown(ctx context.Context, packet *wire.Packet, peer Peer) answer {
	request := requestIn(packet)
	switch {
	case request == nil && packet.Standing == wire.Impostor:
		return forbidden("forged", fmt.Errorf("%s: not signed with its key", packet.Client))
	case request == nil:
		return f.absent(ctx, peer, Confirmed)
	}
	a, outcome := f.enrol(ctx, request, packet.Standing, peer)
	f.metrics.enrolments.WithLabelValues(outcome).Inc()
	return a
}

// requestIn finds the enrolment request of a packet; what is too large or does
// not decode has none.
func requestIn(packet *wire.Packet) *wirepb.Certificate {
	for messages, err := range packet.Lists(nil) {
		if err != nil {
			return nil
		}
		for _, m := range messages {
			if m.Csr != nil && m.Csr.Type == wirepb.Certificate_CSR {
				return m.Csr
			}
		}
	}
	return nil
}

func (f *Frontend) enrol(ctx context.Context, request *wirepb.Certificate, standing wire.Standing, peer Peer) (answer, string) {
	if err := f.enrolment.allow(peer.Address); err != nil {
		return later("enrol_rate", err), "rationed"
	}
	key, err := wire.CheckCSR(request.Pem, peer.Client)
	if err != nil {
		return forbidden("bad_request", err), "invalid"
	}
	if standing == wire.Impostor {
		// The id follows from the key, so this is a second key with the same
		// id: found with great effort, and against us.
		return forbidden("pinned", fmt.Errorf("%s: %w", peer.Client, ErrPinned)), "pinned"
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), f.options.CommitWait)
	defer cancel()
	err = f.options.Keys.Enrol(patience, Enrolment{Peer: peer, Key: key})
	switch {
	case errors.Is(err, ErrPinned):
		return forbidden("pinned", err), "pinned"
	case errors.Is(err, ErrRefused):
		return forbidden("refused", err), "refused"
	case err != nil:
		return later("enrol", err), "error"
	}
	f.log.Info("client enrolled", "org", peer.Org, "client", peer.Client, "address", peer.Address)
	return pleaseEnrol, "ok"
}

// absent answers a packet whose sender has no key here: 406 only if that is as
// sure as asked, since a client drops what it sent on it.
func (f *Frontend) absent(ctx context.Context, peer Peer, proof Proof) answer {
	patience, cancel := context.WithTimeout(ctx, f.options.CommitWait)
	defer cancel()
	if err := f.options.Keys.ConfirmAbsent(patience, peer.Org, peer.Client, proof); err != nil {
		return later("unsure", fmt.Errorf("%s: absence: %w", peer.Client, err))
	}
	return pleaseEnrol
}
