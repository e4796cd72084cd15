package api

import (
	"context"
	"net/http"
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

// Reading are the headers that each read may carry. Like all parameters that are
// embedded it is exported, since huma passes over unexported ones.
type Reading struct {
	Index uint64 `header:"X-Raptorpack-Index" doc:"answer only from a state at this entry or later"`
}

// Writing are the headers that each change may carry.
type Writing struct {
	Key string `header:"Idempotency-Key" maxLength:"128" doc:"a change sent twice with the same key is done once"`
}

func (s *Server) asOf() AsOf {
	epoch, index, _ := s.o.Ledger.Position()
	return AsOf{epoch, index}
}

// fresh waits until this node has applied what the caller has seen.
func (s *Server) fresh(ctx context.Context, r Reading) error {
	if r.Index == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return s.o.Ledger.WaitApplied(ctx, r.Index)
}

// propose brings a change into the ledger in the name of who.
func (s *Server) propose(ctx context.Context, who *Principal, w Writing, m *buspb.Mutation) (Done, error) {
	m.Principal = who.Name
	if w.Key != "" {
		m.RequestId = who.Name + "/" + w.Key
	}
	index, err := s.o.Ledger.ProposeIndex(ctx, m)
	return Done{index}, err
}

func get[I, O any](s *Server, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	register(s, http.MethodGet, path, id, summary, handler)
}

// register declares one operation; errors of handlers go through one map.
func register[I, O any](s *Server, method, path, id, summary string, handler func(context.Context, *I) (*O, error)) {
	huma.Register(s.api, huma.Operation{Method: method, Path: prefix + path, OperationID: id, Summary: summary},
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
