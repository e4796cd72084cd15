package replication

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"raptorpack/proto/buspb"
)

// remote is the node that leads, as one sees it that follows it.
type remote struct {
	n      *Node
	client buspb.BusClient
	epoch  uint64

	mu     sync.Mutex
	queue  []*item // numbered, not sent; bounded by those who offer
	closed bool
	wake   chan struct{} // one slot: a wake while one is pending says nothing new
}

func newRemote(n *Node, client buspb.BusClient, epoch uint64) *remote {
	return &remote{n: n, client: client, epoch: epoch, wake: make(chan struct{}, 1)}
}

func (r *remote) offer(items ...*item) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.queue = append(r.queue, items...)
	select {
	case r.wake <- struct{}{}:
	default:
	}
	return true
}

// take removes what is sent next.
func (r *remote) take() []*item {
	r.mu.Lock()
	defer r.mu.Unlock()
	size, count := 0, 0
	for count < len(r.queue) && size < busFrame {
		size += len(r.queue[count].stored.Body) + 256
		count++
	}
	items := slices.Clone(r.queue[:count])
	r.queue = r.queue[count:]
	if len(r.queue) == 0 {
		r.queue = nil
	}
	return items
}

// shut ends it; what was offered waits with this node for the next leader.
func (r *remote) shut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.queue, r.closed = nil, true
}

// run sends what is offered until ctx or the stream ends. The error is never nil.
func (r *remote) run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := r.client.Propose(ctx)
	if err != nil {
		return fmt.Errorf("propose: %w", fromBus(err))
	}
	ended := make(chan struct{})
	defer func() { cancel(nil); <-ended }()
	go func() {
		defer close(ended)
		_, err := stream.Recv()
		if err == nil || errors.Is(err, io.EOF) {
			err = ErrNoMaster
		}
		cancel(fromBus(err))
	}()
	request := &buspb.ProposeRequest{From: r.n.bus.introduction(), Epoch: r.epoch}
	for {
		items := r.take()
		for _, it := range items {
			if err := r.n.blobs.publish(ctx, it); err != nil {
				return fmt.Errorf("propose: %w", err)
			}
			request.Proposals = append(request.Proposals, &buspb.Proposal{Seq: it.origin.Seq, Mutation: it.stored})
		}
		if len(items) > 0 || request.From != nil {
			if err := stream.Send(request); err != nil && !errors.Is(err, io.EOF) { // EOF: Recv says why
				return fmt.Errorf("propose: %w", fromBus(err))
			}
			request = &buspb.ProposeRequest{}
			continue
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
			return fmt.Errorf("propose: %w", context.Cause(ctx))
		}
	}
}

func (r *remote) deliver(ctx context.Context, incarnation string, batch []*numbered) error {
	request := &buspb.DeliverRequest{From: r.n.bus.introduction(), Epoch: r.epoch, Incarnation: incarnation}
	for _, f := range batch {
		request.Facts = append(request.Facts, &buspb.Fact{Seq: f.seq, Mutation: f.stored})
	}
	if _, err := r.client.Deliver(ctx, request); err != nil {
		err = fromBus(err)
		if isMeant(err) {
			return fmt.Errorf("deliver facts: %w", err)
		}
		return fmt.Errorf("deliver facts: %w: %w", ErrUnsure, err)
	}
	return nil
}

// isMeant reports whether an error is one of those that the bus carries.
func isMeant(err error) bool {
	return slices.ContainsFunc(busErrors, func(known busError) bool { return errors.Is(err, known.err) })
}

func (r *remote) stand(ctx context.Context) (uint64, error) {
	answer, err := r.client.Stand(ctx, &buspb.StandRequest{From: r.n.bus.introduction()})
	if err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNoMaster, fromBus(err))
	}
	return answer.GetIndex(), nil
}
