package replication

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// busServer answers other nodes.
type busServer struct {
	buspb.UnimplementedBusServer
	n *Node
	b *bus
}

// Watch implements buspb.BusServer.
func (s *busServer) Watch(request *buspb.WatchRequest, stream buspb.Bus_WatchServer) error {
	if err := s.b.meet(request.GetFrom()); err != nil {
		return toBus(err)
	}
	var soft SoftWatch = noSoft{}
	if s.b.o.Soft != nil {
		soft = s.b.o.Soft.Watch()
	}
	defer soft.Close()
	ctx := stream.Context()
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	told := s.b.toldNext()
	report := &buspb.Report{Status: s.b.status(), Soft: soft.Take()}
	for {
		if err := sendReport(stream, report); err != nil {
			return err
		}
		report = &buspb.Report{}
		select {
		case <-ctx.Done():
			return toBus(ctx.Err())
		case <-told:
			told = s.b.toldNext()
			report.Status = s.b.status()
		case <-tick.C:
			report.Status = s.b.status()
		case <-soft.Changed():
			retry.Sleep(ctx, softEvery) // those who come together are told together
			report.Soft = soft.Take()
		}
	}
}

// sendReport sends a report in frames of bounded size.
func sendReport(stream buspb.Bus_WatchServer, report *buspb.Report) error {
	rest := report.Soft
	for first := true; first || len(rest) > 0; first = false {
		frame := &buspb.Report{}
		if first {
			frame.Status = report.Status
		}
		for size := 0; len(rest) > 0 && size < busFrame; rest = rest[1:] {
			frame.Soft = append(frame.Soft, rest[0])
			size += len(rest[0])
		}
		if err := stream.Send(frame); err != nil {
			return err
		}
	}
	return nil
}

// noSoft is the soft state of a node that has none.
type noSoft struct{}

func (noSoft) Changed() <-chan struct{} { return nil }
func (noSoft) Take() [][]byte           { return nil }
func (noSoft) Close()                   {}

// leading returns this node's reign for a peer that wants its master.
func (s *busServer) leading(from *buspb.Introduction) (*reign, error) {
	if err := s.b.meet(from); err != nil {
		return nil, err
	}
	r := s.n.reign()
	switch {
	case r == nil:
		return nil, errNotMaster
	case from.GetEpoch() > r.term.Epoch():
		return nil, fmt.Errorf("epoch %d is over, %d was led since: %w", r.term.Epoch(), from.GetEpoch(), ErrDeposed)
	case !r.term.Valid():
		return nil, ErrDeposed
	}
	return r, nil
}

// Stand implements buspb.BusServer.
func (s *busServer) Stand(ctx context.Context, request *buspb.StandRequest) (*buspb.StandAnswer, error) {
	r, err := s.leading(request.GetFrom())
	if err != nil {
		return nil, toBus(err)
	}
	index, err := r.stand(ctx)
	if err != nil {
		return nil, toBus(err)
	}
	return &buspb.StandAnswer{Epoch: r.term.Epoch(), Index: index}, nil
}

// Order implements buspb.BusServer.
func (s *busServer) Order(ctx context.Context, request *buspb.OrderRequest) (*buspb.OrderAnswer, error) {
	if err := s.b.meet(request.GetFrom()); err != nil {
		return nil, toBus(err)
	}
	if s.b.o.Order == nil {
		return nil, toBus(fmt.Errorf("order %.40q: %w", request.GetWhat(), ErrInvalid))
	}
	s.b.log.Info("another node passes on an order", "peer", request.GetFrom().GetIncarnation(), "what", request.GetWhat(), "principal", request.GetPrincipal())
	if err := s.b.o.Order(ctx, request.GetWhat(), request.GetPrincipal()); err != nil {
		return nil, toBus(err)
	}
	return &buspb.OrderAnswer{}, nil
}

// Deliver implements buspb.BusServer.
func (s *busServer) Deliver(ctx context.Context, request *buspb.DeliverRequest) (*buspb.DeliverAnswer, error) {
	r, err := s.leading(request.GetFrom())
	if err == nil {
		err = s.deliver(ctx, r, request)
	}
	if err != nil {
		return nil, toBus(err)
	}
	return &buspb.DeliverAnswer{}, nil
}

func (s *busServer) deliver(ctx context.Context, r *reign, request *buspb.DeliverRequest) error {
	if request.GetIncarnation() != request.GetFrom().GetIncarnation() || request.GetEpoch() != r.term.Epoch() {
		return fmt.Errorf("facts of %.80q for epoch %d: %w", request.GetIncarnation(), request.GetEpoch(), ErrDeposed)
	}
	batch := make([]*numbered, 0, len(request.GetFacts()))
	for _, f := range request.GetFacts() {
		whole, err := s.admit(ctx, f.GetMutation())
		if err != nil {
			return fmt.Errorf("fact %d: %w", f.GetSeq(), err)
		}
		batch = append(batch, &numbered{seq: f.GetSeq(), stored: f.GetMutation(), whole: whole})
	}
	if err := r.deliver(ctx, request.GetIncarnation(), batch); err != nil {
		return err
	}
	s.n.m.facts.WithLabelValues("bus").Add(float64(len(batch)))
	return nil
}

// admit checks what another node wants in the ledger, and brings its whole body.
func (s *busServer) admit(ctx context.Context, m *buspb.Mutation) (*buspb.Mutation, error) {
	if m == nil {
		return nil, fmt.Errorf("no mutation: %w", ErrInvalid)
	}
	if err := s.n.check(wholeOf(m, m.GetBody())); err != nil {
		return nil, err
	}
	if size := proto.Size(m); size > maxFact {
		return nil, fmt.Errorf("mutation of %d bytes: %w", size, ErrTooLarge)
	}
	if len(m.GetBlob()) == 0 {
		return m, nil
	}
	if err := s.n.blobs.want(ctx, m.GetBlob()); err != nil {
		return nil, err
	}
	whole, err := s.n.blobs.whole(ctx, m)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errBlobGone, err)
	}
	return whole, err
}

// Propose implements buspb.BusServer.
func (s *busServer) Propose(stream buspb.Bus_ProposeServer) error {
	first, err := stream.Recv()
	if err != nil {
		return err
	}
	r, err := s.leading(first.GetFrom())
	if err == nil && first.GetEpoch() != r.term.Epoch() {
		err = fmt.Errorf("proposals for epoch %d in epoch %d: %w", first.GetEpoch(), r.term.Epoch(), ErrDeposed)
	}
	if err != nil {
		return toBus(err)
	}
	ended := make(chan error, 1) // one answer
	go func() { ended <- s.takeProposals(stream, r, first) }()
	select {
	case err = <-ended:
		return toBus(err)
	case <-r.ended:
		return toBus(ErrNoMaster) // Recv of the other goroutine ends with this call
	}
}

func (s *busServer) takeProposals(stream buspb.Bus_ProposeServer, r *reign, request *buspb.ProposeRequest) (err error) {
	from := request.GetFrom().GetIncarnation()
	for {
		items := make([]*item, 0, len(request.GetProposals()))
		for _, p := range request.GetProposals() {
			whole, err := s.admit(stream.Context(), p.GetMutation())
			if err != nil {
				return fmt.Errorf("proposal %d of %s: %w", p.GetSeq(), from, err)
			}
			o := &buspb.Origin{Incarnation: from, Stream: buspb.Origin_STREAM_PROPOSE, Seq: p.GetSeq()}
			items = append(items, &item{stored: p.GetMutation(), whole: whole, origin: o, answer: make(chan answer, 1)})
		}
		if !r.offer(items...) {
			return ErrNoMaster
		}
		if request, err = stream.Recv(); err != nil {
			return err
		}
	}
}
