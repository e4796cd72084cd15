package api

import (
	"context"
	"errors"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

const prefix = "/api/v1"

// AsOf says how fresh an answer is.
type AsOf struct {
	Epoch uint64 `json:"epoch"`
	Index uint64 `json:"index"`
	AgeMs *int64 `json:"ageMs,omitempty" doc:"how much older than the ledger the state may be, in milliseconds; left out while no master has told"`
}

// List is how every list is answered.
type List[T any] struct {
	Items []T    `json:"items" nullable:"false"`
	Next  string `json:"next,omitempty" doc:"pass as cursor for the next page"`
	Total int64  `json:"total" doc:"how many there are in all"`
	AsOf  AsOf   `json:"asOf"`
}

// body wraps an answer for huma.
type body[T any] struct{ Body T }

// Done is the answer to a change.
type Done struct {
	Index uint64 `json:"index" doc:"the ledger entry; send it as X-Raptorpack-Index to read your own write on any node"`
}

// Writing are the headers that each change may carry.
type Writing struct {
	Key string `header:"Idempotency-Key" maxLength:"128" doc:"chosen at random for each change; the same request with the same key is done once"`
}

func (s *Server) asOf() AsOf {
	at := AsOf{}
	at.Epoch, _, _ = s.o.Ledger.Position()
	at.Index = s.o.Ledger.Reached()
	if age, known := s.o.Ledger.Age(); known {
		ms := age.Milliseconds()
		at.AgeMs = &ms
	}
	return at
}

// proposeWithin bounds a change whose caller may have left.
const proposeWithin = time.Minute

// change is a planned mutation with what the audit trail says of it.
type change struct {
	m         *buspb.Mutation
	operation string // as collect, label, user.set
	object    string // an id
	details   map[string]string
}

// change brings what plan makes into the ledger in the name of who, and leaves its
// audit line. A request that comes a second time is answered as the first, without
// planning: what it asked for, as a deletion, may have made the plan impossible.
func (s *Server) change(ctx context.Context, who *Principal, w Writing, plan func() (*change, error)) (*body[Done], error) {
	if index, known, err := s.earlier(ctx, who, w); known {
		return &body[Done]{Done{index}}, err
	}
	c, err := plan()
	if err != nil {
		return nil, err
	}
	index, err := s.propose(ctx, who, w, c)
	if err != nil {
		return nil, err
	}
	s.Audit(ctx, who, c.operation, c.object, c.details)
	return &body[Done]{Done{index}}, nil
}

// earlier tells what became of a request that came with this key before.
func (s *Server) earlier(ctx context.Context, who *Principal, w Writing) (index uint64, known bool, err error) {
	if w.Key == "" {
		return 0, false, nil
	}
	return s.o.Ledger.Earlier(who.Name, requestID(ctx, w))
}

// propose brings a change into the ledger in the name of who. It goes on when the
// caller leaves: what was handed over happens nevertheless, and its audit line is
// written only by who waits for it. What nobody can tell the outcome of leaves a
// line that says so.
func (s *Server) propose(ctx context.Context, who *Principal, w Writing, c *change) (uint64, error) {
	lasting, end := s.lasting(ctx)
	defer end()
	c.m.Principal = who.Name
	if w.Key != "" {
		c.m.RequestId = requestID(ctx, w)
	}
	index, err := s.o.Ledger.ProposeIndex(lasting, c.m)
	if errors.Is(err, ErrUnsure) {
		details := maps.Clone(c.details)
		if details == nil {
			details = map[string]string{}
		}
		details["outcome"] = "unsure"
		s.Audit(ctx, who, c.operation, c.object, details)
	}
	return index, err
}

// lasting is ctx without its end, for as long as a change may take, and not longer
// than this server runs.
func (s *Server) lasting(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), proposeWithin)
	ctx, over := s.untilEnded(ctx)
	return ctx, func() {
		over()
		cancel()
	}
}

// untilEnded is ctx, and ends with this server.
func (s *Server) untilEnded(ctx context.Context) (_ context.Context, end func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watch sync.WaitGroup
	watch.Go(func() {
		select {
		case <-s.ended:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() {
		cancel()
		watch.Wait()
	}
}

// Propose is for changes that queries make in the name of who. They leave their
// audit line by Audit; only what nobody can tell the outcome of leaves one here.
func (s *Server) Propose(ctx context.Context, who *Principal, m *buspb.Mutation) error {
	_, err := s.propose(ctx, who, Writing{}, &change{m: m, operation: "query.change", object: m.GetKind()})
	return err
}

func get[I, O any](s *Server, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	register(s, http.MethodGet, path, id, summary, handler)
}

// maxBody bounds the bodies of most requests, in bytes.
const maxBody = 1 << 20

// register declares one operation; errors of handlers go through one map.
func register[I, O any](s *Server, method, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	registerLarge(s, maxBody, method, path, id, summary, handler)
}

// registerLarge is register for bodies of other sizes.
func registerLarge[I, O any](s *Server, most int64, method, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	o := huma.Operation{Method: method, Path: prefix + path, OperationID: id, Summary: summary, BodyReadTimeout: bodyWithin, MaxBodyBytes: most}
	huma.Register(s.api, o,
		func(ctx context.Context, in *I) (*O, error) {
			out, err := handler(ctx, in)
			if err != nil {
				return nil, s.fail(err)
			}
			return out, nil
		})
}

func parseClients(texts []string) ([]ids.Client, error) {
	out := make([]ids.Client, len(texts))
	for i, text := range texts {
		var err error
		if out[i], err = ids.ParseClient(text); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	return &t
}
