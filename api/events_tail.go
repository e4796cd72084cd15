package api

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/users"
)

const (
	// maxTails bounds the tails of this node: each looks at files a few times a
	// second while rows come.
	maxTails = 200

	tailLimit = 500 // rows of one event of the stream, or somewhat more

	// takeWithin is how long a reader may take to make room for one event. Whoever
	// is slower is disconnected, and goes on later where they stood.
	takeWithin = 20 * time.Second

	beatEvery = 15 * time.Second
)

// errTails answers a tail too many. Trying again helps once others have ended.
var errTails = errors.New("too many tails on this node")

// tailRoutes serves the stream, which huma does not serve, and describes it.
func (s *Server) tailRoutes() {
	const path = prefix + "/events/{artifact}/tail"
	s.mux.HandleFunc("GET "+path, s.tailEvents)
	text := &huma.Schema{Type: huma.TypeString}
	parameter := func(name, in, doc string) *huma.Param {
		return &huma.Param{Name: name, In: in, Required: in == "path", Schema: text, Description: doc}
	}
	s.api.OpenAPI().AddOperation(&huma.Operation{
		Method: http.MethodGet, Path: path, OperationID: "tailEvents", Summary: "Follow the rows of an event artifact as any node stores them",
		Parameters: []*huma.Param{
			parameter("artifact", "path", "Artifact, or Artifact/Source with the slash escaped"),
			parameter("source", "query", "the artifact's source, for those who cannot escape a slash"),
			parameter("client", "query", "only of this client; server: of the server's own queries"),
			parameter("from", "query", "begin with the first row of this time's day, UTC, instead of behind all that is there"),
			parameter("cursor", "query", "go on behind the event of this id"),
			parameter("Last-Event-ID", "header", "as cursor, which it beats"),
		},
		Responses: map[string]*huma.Response{"200": {
			Description: "Server-sent events. rows: the data is {\"rows\": [...]}, each row as stored; damage: {\"damage\": [...]}; begin: nothing was read yet. The id of an event is the place behind it, good on any node.",
			Content:     map[string]*huma.MediaType{"text/event-stream": {Schema: text}},
		}},
	})
}

// tailEvents streams rows as they come, each once.
func (s *Server) tailEvents(w http.ResponseWriter, r *http.Request) {
	f, err := s.follower(r)
	if err != nil {
		writeProblem(w, s.fail(err))
		return
	}
	defer f.Close()
	s.metrics.tails.Inc()
	defer s.metrics.tails.Dec()
	if s.tails.Add(1) > maxTails {
		s.tails.Add(-1)
		writeProblem(w, s.fail(errTails))
		return
	}
	defer s.tails.Add(-1)
	w.Header().Set("Content-Type", "text/event-stream")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Accel-Buffering", "no")
	t := &tailStream{s: s, w: w, out: http.NewResponseController(w), follower: f}
	if err := t.run(r.Context()); err != nil && r.Context().Err() == nil {
		s.log.Info("tail of events ended", "artifact", r.PathValue("artifact"), "err", err)
	}
}

// follower checks a request and makes what it follows by.
func (s *Server) follower(r *http.Request) (*flows.Follower, error) {
	if _, err := s.may(r.Context(), users.ReadResults); err != nil {
		return nil, err
	}
	q := r.URL.Query()
	client, err := clientOrAll(q.Get("client"))
	if err != nil {
		return nil, err
	}
	o := flows.FollowOptions{Org: ids.RootOrg, Name: resultName(r.PathValue("artifact"), q.Get("source")), Client: client, Place: q.Get("cursor")}
	if id := r.Header.Get("Last-Event-ID"); id != "" {
		o.Place = id
	}
	if from := q.Get("from"); from != "" && o.Place == "" {
		day, err := time.Parse(time.RFC3339, from)
		if err != nil {
			return nil, fmt.Errorf("from %.40q: expected a time of RFC 3339: %w", from, flows.ErrInvalid)
		}
		o.Place = filestore.PlaceFrom(day)
	}
	return s.o.Flows.FollowEvents(o)
}

// tailStream is one tail under way. It keeps nothing for a slow reader: it reads
// on when the last event has gone out.
type tailStream struct {
	s        *Server
	w        http.ResponseWriter
	out      *http.ResponseController
	follower *flows.Follower

	begun bool
	wrote time.Time
	text  bytes.Buffer
}

func (t *tailStream) run(ctx context.Context) error {
	for {
		// The right to read may have gone meanwhile.
		if _, err := t.s.may(ctx, users.ReadResults); err != nil {
			return err
		}
		page, err := t.follower.Look(ctx, tailLimit)
		if err != nil {
			return err
		}
		if err := t.page(page); err != nil {
			return err
		}
		if !t.follower.Wait(ctx, t.s.leaving) {
			return nil
		}
	}
}

// page sends what a look found. Events go out whole or not at all, and bear the
// place behind them: whoever has an event goes on behind it.
func (t *tailStream) page(p *filestore.TailPage) error {
	t.text.Reset()
	if len(p.Damage) > 0 {
		damage, err := json.Marshal(showDamage(p.Damage))
		if err != nil {
			return err
		}
		fmt.Fprintf(&t.text, "event: damage\ndata: {\"damage\":%s}\n\n", damage)
	}
	switch {
	case len(p.Rows) > 0:
		fmt.Fprintf(&t.text, "event: rows\nid: %s\ndata: {\"rows\":[", p.Place)
		for i, row := range p.Rows {
			if i > 0 {
				t.text.WriteByte(',')
			}
			t.text.Write(onOneLine(row.Line))
		}
		t.text.WriteString("]}\n\n")
	case !t.begun:
		fmt.Fprintf(&t.text, "event: begin\nid: %s\ndata: {}\n\n", p.Place)
	case t.text.Len() == 0 && time.Since(t.wrote) >= beatEvery:
		t.text.WriteString(": still here\n\n")
	}
	t.begun = true
	if t.text.Len() == 0 {
		return nil
	}
	t.wrote = time.Now()
	return t.send()
}

// send writes what is gathered, if the reader makes room for it in time.
func (t *tailStream) send() error {
	if err := t.out.SetWriteDeadline(time.Now().Add(takeWithin)); err != nil {
		return fmt.Errorf("bound the time of writing: %w", err)
	}
	_, err := t.w.Write(t.text.Bytes())
	if err == nil {
		err = t.out.Flush()
	}
	if err == nil { // else the deadline would end a stream that has nothing to say
		return t.out.SetWriteDeadline(time.Time{})
	}
	if errors.Is(err, os.ErrDeadlineExceeded) || time.Since(t.wrote) >= takeWithin {
		t.s.metrics.slowTails.Inc()
		return fmt.Errorf("reader is too slow: %w", err)
	}
	return err
}

// onOneLine keeps a row from ending a line of the stream: JSON allows carriage
// returns between its tokens.
func onOneLine(row []byte) []byte {
	if !bytes.ContainsAny(row, "\r\n") {
		return row
	}
	return []byte(strings.NewReplacer("\r", " ", "\n", " ").Replace(string(row)))
}
