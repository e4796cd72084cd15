package replication

import (
	"fmt"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
)

// Follow implements buspb.BusServer: the master's end of a follower's stream.
func (s *busServer) Follow(stream buspb.Bus_FollowServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := s.leading(first.GetFrom())
	if err == nil {
		err = s.lead(stream, r, first)
	}
	return toBus(err)
}

// lead streams entries to one follower until the reign or the stream ends.
func (s *busServer) lead(stream buspb.Bus_FollowServer, r *reign, first *buspb.FollowRequest) error {
	if err := s.n.leadsOn(first.GetIndex(), first.GetChain()); err != nil {
		return err
	}
	who := first.GetFrom().GetIncarnation()
	taken := s.n.taken(origin{who, buspb.Origin_STREAM_PROPOSE})
	standing := &buspb.Standing{Epoch: r.term.Epoch(), Index: s.n.place().index, Taken: taken}
	if err := stream.Send(&buspb.FollowAnswer{Answer: &buspb.FollowAnswer_Standing{Standing: standing}}); err != nil {
		return err
	}
	defer s.b.acked(who, 0)
	stamps := make(chan int64, 1) // the newest one; an older one that waits says less
	ended := make(chan error, 1)  // one answer
	go func() { ended <- s.readAcks(stream, who, stamps) }()
	return s.stream(stream, r, first.GetIndex(), stamps, ended)
}

// leadsOn tells whether this node's entries lead on from a follower's place.
func (n *Node) leadsOn(index uint64, chain []byte) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	at, known := n.window.place(index)
	switch {
	case index > n.at.index:
		return fmt.Errorf("entry %d is not in the ledger, which ends at %d: %w", index, n.at.index, ErrDiverged)
	case !known:
		return fmt.Errorf("entry %d: %w", index, errBehind)
	case string(chain) != string(at.chain[:]):
		return fmt.Errorf("the chain after entry %d is another: %w", index, ErrDiverged)
	}
	return nil
}

// readAcks takes what the follower says while it follows.
func (s *busServer) readAcks(stream buspb.Bus_FollowServer, who string, stamps chan int64) error {
	for {
		request, err := stream.Recv()
		if err != nil {
			return err
		}
		s.b.acked(who, request.GetIndex())
		select {
		case <-stamps:
		default:
		}
		stamps <- request.GetStamp()
	}
}

func (s *busServer) stream(stream buspb.Bus_FollowServer, r *reign, sent uint64, stamps <-chan int64, ended <-chan error) error {
	ctx := stream.Context()
	for {
		changed := s.n.moved()
		count, err := s.sendAfter(stream, sent)
		if err != nil {
			return err
		}
		if sent += uint64(count); count > 0 {
			continue
		}
		select {
		case <-changed:
		case stamp := <-stamps:
			if sent, err = s.echo(stream, r, stamp, sent); err != nil {
				return err
			}
		case err := <-ended:
			return err
		case <-r.ended:
			return ErrNoMaster
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sendAfter sends the next entries, if there are some.
func (s *busServer) sendAfter(stream buspb.Bus_FollowServer, sent uint64) (int, error) {
	s.n.mu.Lock()
	payloads, ok := s.n.window.after(sent, busFrame)
	s.n.mu.Unlock()
	if !ok {
		return 0, fmt.Errorf("entry %d: %w", sent, errBehind)
	}
	if len(payloads) == 0 {
		return 0, nil
	}
	return len(payloads), stream.Send(&buspb.FollowAnswer{Answer: &buspb.FollowAnswer_Entries{Entries: &buspb.Entries{Payloads: payloads}}})
}

// echo answers a stamp once the follower has been sent all that it speaks of.
func (s *busServer) echo(stream buspb.Bus_FollowServer, r *reign, stamp int64, sent uint64) (uint64, error) {
	index, sum := s.n.Digest()
	if !r.term.Valid() { // asked after the look
		return sent, ErrDeposed
	}
	for sent < index {
		count, err := s.sendAfter(stream, sent)
		if err != nil {
			return sent, err
		}
		sent += uint64(count)
	}
	echo := &buspb.Echo{Stamp: stamp, Index: index, Digest: sum[:], Sums: s.n.compared.newest()}
	return sent, stream.Send(&buspb.FollowAnswer{Answer: &buspb.FollowAnswer_Echo{Echo: echo}})
}

// acked notes how far a follower came; 0: it follows no more.
func (b *bus) acked(who string, index uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if index == 0 {
		delete(b.acks, who)
		return
	}
	b.acks[who] = index
}

// moved returns a channel that is closed when this node's position moves on.
func (n *Node) moved() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.changed
}

// entry reads one record that another node sent, as the follower of at.
func (n *Node) entry(payload []byte, at place) (*buspb.Entry, place, error) {
	e := &buspb.Entry{}
	if err := proto.Unmarshal(payload, e); err != nil {
		return nil, at, fmt.Errorf("entry after %d: %w: %w", at.index, ErrInvalid, err)
	}
	if e.Mutation == nil || e.Index != at.index+1 || e.Epoch < at.epoch || e.Time <= at.time {
		return nil, at, fmt.Errorf("entry %d of epoch %d after %d of %d: %w", e.Index, e.Epoch, at.index, at.epoch, ErrGap)
	}
	return e, at.after(e, payload), nil
}

// SettledBy returns how far another incarnation has settled the ledger by its own
// word, while this node leads it: BusOptions.Settled there. 0: it does not follow.
func (n *Node) SettledBy(incarnation string) uint64 {
	if n.bus == nil {
		return 0
	}
	return n.bus.ackOf(incarnation)
}

func (b *bus) ackOf(name string) uint64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.acks[name]
}
