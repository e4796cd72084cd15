package frontend

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"raptorpack/notifier"
	"raptorpack/wire"
)

// serveReader is the long poll: check-in, then wait for work.
func (f *Frontend) serveReader(w http.ResponseWriter, r *http.Request) {
	if !f.gate(w, r, wire.PathReader, f.readerSocket) {
		return
	}
	address := f.address(r)
	if r.ContentLength > smallBody { // before any of it is read
		f.write(w, r, wire.PathReader, later("oversize", fmt.Errorf("check-in of %d bytes: %w", r.ContentLength, errOversize)))
		return
	}
	body, t, err := f.readBody(w, r, claim{size: r.ContentLength, address: address, source: f.source(address)})
	if err != nil {
		f.write(w, r, wire.PathReader, judge(err))
		return
	}
	defer t.close() // and before each answer, which may be paced
	if len(body) > smallBody {
		t.close()
		f.write(w, r, wire.PathReader, later("oversize", fmt.Errorf("check-in of %d bytes: %w", len(body), errOversize)))
		return
	}
	packet, peer, err := f.open(r.Context(), body, address)
	if err != nil {
		t.close()
		f.write(w, r, wire.PathReader, judge(err))
		return
	}
	if a := f.admit(r.Context(), packet, peer); a.code != http.StatusOK {
		t.close()
		f.write(w, r, wire.PathReader, a)
		return
	}
	if f.repeats(packet, peer) {
		a := f.ingest(r.Context(), packet, peer, t)
		t.close()
		f.write(w, r, wire.PathReader, a)
		return
	}
	f.hold(w, r, packet, peer, t)
}

// repeats reports whether a check-in was here before, or is hours old while the
// client waits here. Then it takes nobody's place: its sender is told that there is
// nothing to do, and an honest one checks in anew.
func (f *Frontend) repeats(packet *wire.Packet, peer Peer) bool {
	packet.Replayed = packet.Replayed || packet.Stale && f.options.Board.Connected(peer.Org, peer.Client)
	return packet.Replayed
}

// admit answers a reader that may not stay.
func (f *Frontend) admit(ctx context.Context, packet *wire.Packet, peer Peer) answer {
	switch packet.Standing {
	case wire.Known:
		return ok
	case wire.Stranger:
		return f.absent(ctx, peer, Fresh)
	}
	return forbidden("forged", fmt.Errorf("%s: not signed with its key", packet.Client))
}

// poll is one held HTTP answer.
type poll struct {
	*Frontend
	peer       Peer
	out        *http.ResponseController
	w          http.ResponseWriter
	waiter     *notifier.Waiter
	bell       notifier.Signal
	attachment Attachment
}

// hold registers before it looks for work, so that nothing falls between.
func (f *Frontend) hold(w http.ResponseWriter, r *http.Request, packet *wire.Packet, peer Peer, t *ticket) {
	start := time.Now()
	f.polls.Add(1)
	defer f.polls.Add(-1)
	f.metrics.connections.WithLabelValues("poll").Inc()
	defer f.metrics.connections.WithLabelValues("poll").Dec()

	f.contest(peer)
	p := &poll{Frontend: f, peer: peer, out: http.NewResponseController(w), w: w}
	p.waiter, p.bell = f.options.Board.Register(peer.Org, peer.Client)
	defer p.leave()
	p.attachment = f.options.Collections.Attach(peer.Org, peer.Client)

	a := f.ingest(r.Context(), packet, peer, t)
	t.close()
	if a.code != http.StatusOK {
		f.write(w, r, wire.PathReader, a)
		return
	}
	f.account(wire.PathReader, peer.Address, ok)
	header(w)
	w.WriteHeader(http.StatusOK)
	// The head must not wait for work: the client's timer for it is running.
	if err := p.send(nil); err != nil {
		return
	}
	err := p.wait(r.Context())
	f.metrics.poll.Observe(time.Since(start).Seconds())
	if err != nil {
		f.log.Debug("poll ended early", "org", peer.Org, "client", peer.Client, "err", err)
	}
}

// leave leaves the board before the attachment, whose end looks there for others.
func (p *poll) leave() {
	p.waiter.Close()
	p.partings.note(p.peer)
	if p.attachment != nil { // or attaching itself broke
		p.attachment.Close()
	}
}

// contest notes a reader that takes the place of a live one.
func (f *Frontend) contest(peer Peer) {
	if !f.options.Board.Connected(peer.Org, peer.Client) {
		return
	}
	if f.contests.replaced(notifier.Key{Org: peer.Org, Client: peer.Client}, peer.Address) {
		f.metrics.contested.Inc()
		if f.quiet.may("contested") {
			f.log.Warn("two addresses take turns as one client: is its key copied?", "org", peer.Org, "client", peer.Client, "address", peer.Address)
		}
	}
}

// wait ends with work, at the deadline, when a newer reader came, or when the
// node hands its clients over.
func (p *poll) wait(ctx context.Context) error {
	end := time.NewTimer(p.options.MaxPoll + rand.N(p.options.PollJitter+1))
	defer end.Stop()
	pads := time.NewTicker(p.options.PadEvery)
	defer pads.Stop()
	for {
		if p.waiter.Replaced() {
			return p.send(wire.Pad)
		}
		if done, err := p.deliver(ctx); done || err != nil {
			return err
		}
		select {
		case <-p.bell:
		case <-pads.C:
			if err := p.send(wire.Pad); err != nil {
				return err
			}
		case <-end.C:
			return p.send(wire.Pad)
		case <-p.handover:
			return p.send(wire.Pad)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// deliver writes all that is queued, in one packet.
func (p *poll) deliver(ctx context.Context) (bool, error) {
	jobs := p.attachment.Next()
	if len(jobs) == 0 {
		return false, nil
	}
	padded := time.Now()
	body, err := p.seal(ctx, wire.Delivery{Org: p.peer.Org, Client: p.peer.Client, Messages: jobs}, func() error {
		if time.Since(padded) < p.options.PadEvery {
			return nil
		}
		padded = time.Now()
		return p.send(wire.Pad)
	})
	if err != nil {
		return true, fmt.Errorf("deliver %d messages: %w", len(jobs), err)
	}
	if err := p.send(body); err != nil {
		return true, fmt.Errorf("deliver %d messages: %w", len(jobs), err)
	}
	p.metrics.delivered.Add(float64(len(jobs)))
	return true, nil
}

// send writes and flushes; no slow client holds us for long.
func (p *poll) send(data []byte) error {
	// Without deadlines (a wrapped writer) the server's own limits hold.
	_ = p.out.SetWriteDeadline(time.Now().Add(writeWait))
	if _, err := p.w.Write(data); err != nil {
		return fmt.Errorf("write to %s: %w", p.peer.Client, err)
	}
	if err := p.out.Flush(); err != nil {
		return fmt.Errorf("flush to %s: %w", p.peer.Client, err)
	}
	return nil
}
