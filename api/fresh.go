package api

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
)

// Headers by which a request says how fresh its answer has to be, and an answer how
// fresh it is.
const (
	headerFresh = "X-Raptorpack-Fresh"
	headerIndex = "X-Raptorpack-Index" // of a request: at least this entry
	headerAge   = "X-Raptorpack-Age-Ms"
)

// freshWithin is how long a request waits for the state that it asks for.
const freshWithin = 5 * time.Second

var (
	// errHeader answers a header that cannot be read. Trying again does not help.
	errHeader = errors.New("the header is malformed")

	// errBehind answers a request for entries that this node does not have yet.
	// Trying again helps.
	errBehind = errors.New("this node is behind")

	// errUnconfirmed answers a request for fresh state while nobody can tell what
	// was acknowledged last. Trying again helps.
	errUnconfirmed = errors.New("no master could confirm that this node's state is fresh")
)

// wish is how fresh an answer has to be.
type wish struct {
	fresh   bool   // as everything that was acknowledged before the request
	atLeast uint64 // as this entry
}

func wishOf(h http.Header) (w wish, err error) {
	switch text, given, err := oneHeader(h, headerFresh); {
	case err != nil:
		return w, err
	case given && text != "true" && text != "false":
		return w, fmt.Errorf("%s %.40q: expected true: %w", headerFresh, text, errHeader)
	default:
		w.fresh = text == "true"
	}
	text, given, err := oneHeader(h, headerIndex)
	if err != nil || !given {
		return w, err
	}
	if w.atLeast, err = strconv.ParseUint(text, 10, 64); err != nil {
		return w, fmt.Errorf("%s %.40q: expected the index of an entry: %w", headerIndex, text, errHeader)
	}
	return w, nil
}

func oneHeader(h http.Header, name string) (text string, given bool, err error) {
	switch all := h.Values(name); len(all) {
	case 0:
		return "", false, nil
	case 1:
		return all[0], true, nil
	default:
		return "", true, fmt.Errorf("%s is there %d times: %w", name, len(all), errHeader)
	}
}

// attend has a request wait for the state that it asks for, and says of the answer
// how fresh it is. It comes before the caller is looked up: an account or key that
// another node has just made is known only from that state on.
func (s *Server) attend(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, prefix+"/") {
			next.ServeHTTP(w, r)
			return
		}
		wanted, err := wishOf(r.Header)
		if err == nil {
			err = s.fulfil(r.Context(), wanted)
		}
		out := s.date(w)
		if err != nil {
			writeProblem(out, s.fail(err))
			return
		}
		next.ServeHTTP(out, r)
		out.stamp() // for whoever wrote nothing at all
	})
}

// fulfil returns when this node's state is as fresh as wanted.
func (s *Server) fulfil(ctx context.Context, wanted wish) error {
	if !wanted.fresh && wanted.atLeast == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, freshWithin)
	defer cancel()
	if err := s.atLeast(ctx, wanted.atLeast); err != nil || !wanted.fresh {
		return err
	}
	if err := s.o.Ledger.Fresh(ctx); err != nil {
		if errors.Is(ctx.Err(), context.Canceled) {
			return ctx.Err() // the caller left
		}
		return fmt.Errorf("%w: %w", errUnconfirmed, err)
	}
	return nil
}

// atLeast waits until this node stands at index or later.
func (s *Server) atLeast(ctx context.Context, index uint64) error {
	if index == 0 {
		return nil
	}
	err := s.o.Ledger.WaitApplied(ctx, index)
	if errors.Is(err, context.DeadlineExceeded) {
		_, at, _ := s.o.Ledger.Position()
		return fmt.Errorf("%w: it has applied entry %d, wanted %d: %w", errBehind, at, index, err)
	}
	return err
}

// dated is an answer that bears how fresh it is.
type dated struct {
	http.ResponseWriter
	s     *Server
	begun time.Time
	age   time.Duration // of the state at begun
	known bool          // otherwise nobody can tell the age
	done  bool
}

// date begins an answer: what it says may be read from the state at any moment
// from now on.
func (s *Server) date(w http.ResponseWriter) *dated {
	d := &dated{ResponseWriter: w, s: s, begun: time.Now()}
	d.age, d.known = s.o.Ledger.Age()
	return d
}

// stamp sets the headers. The index is that of the moment of answering, so that
// whoever asks for it elsewhere sees no older state than here; the age counts from
// the moment at which the state may have been read first.
func (d *dated) stamp() {
	if d.done {
		return
	}
	d.done = true
	_, index, _ := d.s.o.Ledger.Position()
	d.Header().Set(headerIndex, strconv.FormatUint(index, 10))
	if d.known {
		d.Header().Set(headerAge, strconv.FormatInt((d.age+time.Since(d.begun)).Milliseconds(), 10))
	}
}

// WriteHeader implements http.ResponseWriter.
func (d *dated) WriteHeader(status int) {
	if status >= http.StatusOK {
		d.stamp()
	}
	d.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (d *dated) Write(p []byte) (int, error) {
	d.stamp()
	return d.ResponseWriter.Write(p)
}

// FlushError is what http.ResponseController flushes by.
func (d *dated) FlushError() error {
	d.stamp()
	return http.NewResponseController(d.ResponseWriter).Flush()
}

// Unwrap lets http.ResponseController find the rest.
func (d *dated) Unwrap() http.ResponseWriter { return d.ResponseWriter }

// describeFresh puts the headers into the document, by reference.
func describeFresh(c *huma.Config) {
	number := &huma.Schema{Type: huma.TypeInteger, Format: "int64", Minimum: new(float64)}
	c.Components.Parameters = map[string]*huma.Param{
		headerFresh: {
			Name: headerFresh, In: "header", Schema: &huma.Schema{Type: huma.TypeBoolean},
			Description: "true: answer only from a state that has everything acknowledged anywhere before this request; 503 when no master can confirm that within 5 seconds",
		},
		headerIndex: {
			Name: headerIndex, In: "header", Schema: number,
			Description: "answer only from a state at this entry of the ledger or later; 503 when this node does not have it within 5 seconds",
		},
	}
	c.Components.Headers = map[string]*huma.Header{
		headerIndex: {
			Schema:      number,
			Description: "the last entry of the ledger that this node had applied when it answered; sent back it makes no other node answer from an older state",
		},
		headerAge: {
			Schema:      number,
			Description: "how much older than the ledger the state may be that the answer was made from, in milliseconds; left out while no master has told",
		},
	}
	c.OnAddOperation = append(c.OnAddOperation, func(_ *huma.OpenAPI, o *huma.Operation) {
		for _, name := range []string{headerFresh, headerIndex} {
			o.Parameters = append(o.Parameters, &huma.Param{Ref: "#/components/parameters/" + name})
		}
		for _, response := range o.Responses {
			if response.Headers == nil {
				response.Headers = map[string]*huma.Param{}
			}
			for _, name := range []string{headerIndex, headerAge} {
				response.Headers[name] = &huma.Param{Ref: "#/components/headers/" + name}
			}
		}
	})
}
