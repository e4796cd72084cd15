package wire

import (
	"fmt"
	"iter"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// Standing says what is known of the sender of a packet.
type Standing uint8

const (
	// Stranger: the client has no key here. Only an enrolment request of the
	// packet may be looked at.
	Stranger Standing = iota

	// Impostor: the client has a key, and this packet was not signed with it.
	// Only an enrolment request may be looked at, to tell a key that collides
	// from a mere forgery.
	Impostor

	// Known: the packet was made by the holder of the client's key.
	Known
)

// Packet is one opened body. Its elements are still deflated; they share the
// memory of the body. Not safe for concurrent use.
type Packet struct {
	Org      ids.Org
	Client   ids.Client // from the envelope, never from a message
	Standing Standing

	// Cached says that the session was already authenticated.
	Cached bool

	// Replayed says that the same packet IV was seen in this session: the sender
	// missed the answer, or somebody else repeats what he caught. Treat the packet
	// idempotently.
	Replayed bool

	// Stale says that the sender's clock in this packet lies hours behind the
	// newest packet of the session: an old packet, or a clock that was set back.
	Stale bool

	// Sent is the sender's clock, zero if absent or absurd. Nobody may order by it.
	Sent time.Time

	list   packed
	limits limits
}

type limits struct {
	element int64 // inflated bytes of one element
	packet  int64 // inflated bytes of all
}

// ElementError says which element of a packet cannot be taken.
type ElementError struct {
	Index int // from 0
	Of    int // elements in the packet

	// Raw is the element as it came; Deflated says that it is a zlib stream. It
	// shares memory with the packet.
	Raw      []byte
	Deflated bool

	Err error // ErrTooLarge, ErrMalformed, or what reserve said
}

func (e *ElementError) Error() string {
	return fmt.Sprintf("element %d of %d: %v", e.Index+1, e.Of, e.Err)
}

// Unwrap returns the reason.
func (e *ElementError) Unwrap() error { return e.Err }

// Lists decodes the packet element by element, in order, so that a packet of
// many elements never lies inflated in memory as a whole. reserve may be nil.
// Each error is an *ElementError; the caller may go on to the next element, or
// stop. Source and OrgId of each message are overwritten from the envelope. The
// messages are the caller's.
func (p *Packet) Lists(reserve Reserve) iter.Seq2[[]*wirepb.VeloMessage, error] {
	return func(yield func([]*wirepb.VeloMessage, error) bool) {
		left := p.limits.packet
		for i, element := range p.list.lists {
			jobs, used, err := p.list.within(element, min(left, p.limits.element), reserve)
			if err != nil {
				left -= used
				failed := &ElementError{Index: i, Of: len(p.list.lists), Raw: element, Deflated: p.list.compression != 0, Err: err}
				if !yield(nil, failed) {
					return
				}
				continue
			}
			left -= used
			for _, job := range jobs {
				job.Source, job.OrgId = p.Client.String(), p.Org.String()
			}
			if !yield(jobs, nil) {
				return
			}
		}
	}
}

// Messages is Lists in one piece, for small packets.
func (p *Packet) Messages() ([]*wirepb.VeloMessage, error) {
	var all []*wirepb.VeloMessage
	for jobs, err := range p.Lists(nil) {
		if err != nil {
			return nil, err
		}
		all = append(all, jobs...)
	}
	return all, nil
}

func (l *packed) decode(bounds limits, reserve Reserve) ([]*wirepb.VeloMessage, error) {
	var all []*wirepb.VeloMessage
	left := bounds.packet
	for _, element := range l.lists {
		jobs, used, err := l.within(element, min(left, bounds.element), reserve)
		if err != nil {
			return nil, err
		}
		left -= used
		all = append(all, jobs...)
	}
	return all, nil
}

// within decodes one element and tells how much of the packet's bound it used. One
// that fails has used all that it might, so that a packet of bombs costs no more
// than a large one; when nothing is left, the rest fails unseen.
func (l *packed) within(element []byte, limit int64, reserve Reserve) ([]*wirepb.VeloMessage, int64, error) {
	if limit <= 0 {
		return nil, 0, fmt.Errorf("the bound of the packet is used up: %w", ErrTooLarge)
	}
	jobs, used, err := l.element(element, limit, reserve)
	if err != nil {
		return nil, limit, err
	}
	return jobs, used, nil
}

// element decodes one element and tells how many plain bytes it had.
func (l *packed) element(element []byte, limit int64, reserve Reserve) ([]*wirepb.VeloMessage, int64, error) {
	plain := element
	switch wirepb.PackedMessageList_CompressionType(l.compression) {
	case wirepb.PackedMessageList_UNCOMPRESSED:
		if int64(len(plain)) > limit {
			return nil, 0, fmt.Errorf("%d bytes: %w", len(plain), ErrTooLarge)
		}
	case wirepb.PackedMessageList_ZLIB:
		var err error
		if plain, err = Inflate(element, limit, reserve); err != nil {
			return nil, 0, err
		}
	default:
		return nil, 0, fmt.Errorf("compression %d: %w", l.compression, ErrMalformed)
	}
	if err := weigh(plain); err != nil {
		return nil, 0, err
	}
	var m wirepb.MessageList
	if err := proto.Unmarshal(plain, &m); err != nil {
		return nil, 0, fmt.Errorf("decode: %w", ErrMalformed)
	}
	return m.Job, int64(len(plain)), nil
}
