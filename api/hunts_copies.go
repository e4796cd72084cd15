package api

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"raptorpack/hunts"
	"raptorpack/users"
)

// HuntCopies add collections to hunts: *hunts.Copier.
type HuntCopies interface {
	// Copy makes a copy durable that is left to be recorded.
	Copy(ctx context.Context, w hunts.CopyWish) (*hunts.Copied, error)

	// Drop removes a copy that will not be recorded.
	Drop(ctx context.Context, out *hunts.Copied) error
}

func (s *Server) addFlowToHunt(ctx context.Context, w Writing, p HuntPath, in *HuntAddition) (*body[Done], error) {
	who, err := s.may(ctx, users.StartHunt)
	if err != nil {
		return nil, err
	}
	if index, known, err := s.earlier(ctx, who, w); known {
		return &body[Done]{Done{index}}, err
	}
	if len(in.Clients) != 1 || in.Flow == "" {
		return nil, fmt.Errorf("flow %.60q of %d clients: expected a flow and its client: %w", in.Flow, len(in.Clients), hunts.ErrInvalid)
	}
	key, err := p.key()
	if err != nil {
		return nil, err
	}
	of, err := FlowPath{ClientPath{in.Clients[0]}, in.Flow}.key()
	if err != nil {
		return nil, err
	}
	index, err := s.AddFlowToHunt(ctx, who, hunts.CopyWish{Key: key, Client: of.Client, Flow: of.Flow, Again: in.Again}, w)
	if err != nil {
		return nil, err
	}
	return &body[Done]{Done{index}}, nil
}

// AddFlowToHunt adds a collection to a hunt in the name of who; queries use it, too.
func (s *Server) AddFlowToHunt(ctx context.Context, who *Principal, wish hunts.CopyWish, w Writing) (uint64, error) {
	wish.Principal = who.Name
	out, err := s.o.HuntCopies.Copy(ctx, wish)
	if err != nil {
		return 0, err
	}
	c := &change{out.Mutation, "hunt.add", wish.Hunt.String(), map[string]string{
		"clients": "1", "which": wish.Client.String(), "flow": wish.Flow.String(), "as": out.Flow.String(),
		"rows": strconv.FormatInt(out.Rows, 10), "uploads": strconv.FormatInt(out.Uploads, 10),
	}}
	index, err := s.propose(ctx, who, w, c)
	if errors.Is(err, ErrUnsure) || errors.Is(err, context.DeadlineExceeded) {
		return 0, err // it may yet be recorded, and then its files have to be there
	}
	if _, unknown := s.o.Flows.Flow(out.Key); err == nil && unknown == nil {
		s.Audit(ctx, who, c.operation, c.object, c.details)
		return index, nil
	}
	// Refused, or the same request came at the same time and was first.
	if gone := s.o.HuntCopies.Drop(ctx, out); gone != nil {
		s.log.Warn("files of a copy that is not recorded are still there", "err", gone)
	}
	return index, err
}
