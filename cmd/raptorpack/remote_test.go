package main

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/spf13/cobra"
)

// command is one without output that anybody looks at.
func command(t *testing.T) *cobra.Command {
	t.Helper()
	c := &cobra.Command{}
	c.SetContext(t.Context())
	c.SetOut(&bytes.Buffer{})
	c.SetErr(&bytes.Buffer{})
	return c
}

func dialled(t *testing.T, handler http.HandlerFunc) *remote {
	t.Helper()
	g, _ := standIn(t, handler)
	r, err := g.dial(command(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.close)
	return r
}

func TestLaterIsObeyedAndAWriteKeepsItsKey(t *testing.T) {
	var tries atomic.Int64
	keys := make(chan string, 10)
	r := dialled(t, func(w http.ResponseWriter, q *http.Request) {
		keys <- q.Header.Get("Idempotency-Key")
		if q.Header.Get("Authorization") != "Bearer secret" {
			t.Errorf("authorization %q", q.Header.Get("Authorization"))
		}
		switch tries.Add(1) {
		case 1:
			w.Header().Set("Retry-After", "1")
			http.Error(w, `{"detail":"no master at the moment"}`, http.StatusServiceUnavailable)
		case 2:
			panic(http.ErrAbortHandler) // the connection breaks: nobody knows whether it was done
		default:
			fmt.Fprint(w, `{"index":7}`)
		}
	})
	if err := r.change(t.Context(), http.MethodPost, "/x", map[string]string{}, nil); err != nil {
		t.Fatal(err)
	}
	first, second, third := <-keys, <-keys, <-keys
	if first == "" || first != second || second != third {
		t.Errorf("keys %q %q %q", first, second, third)
	}
	if r.seen != 7 {
		t.Errorf("seen %d", r.seen)
	}
}

func TestReadsAskForTheirOwnWrites(t *testing.T) {
	seen := make(chan string, 1)
	r := dialled(t, func(w http.ResponseWriter, q *http.Request) {
		if q.Method == http.MethodGet {
			seen <- q.Header.Get("X-Raptorpack-Index")
		}
		fmt.Fprint(w, `{"index":41}`)
	})
	if err := r.change(t.Context(), http.MethodPut, "/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if err := r.get(t.Context(), "/x", nil, nil); err != nil {
		t.Fatal(err)
	}
	if got := <-seen; got != "41" {
		t.Errorf("index %q", got)
	}
}

func TestRefusalsAreToldAtOnce(t *testing.T) {
	var tries atomic.Int64
	r := dialled(t, func(w http.ResponseWriter, _ *http.Request) {
		tries.Add(1)
		w.WriteHeader(http.StatusUnprocessableEntity)
		fmt.Fprint(w, `{"title":"Unprocessable Entity","detail":"validation failed","errors":[{"message":"expected\u001b[2J number","location":"body.x"}]}`)
	})
	err := r.get(t.Context(), "/x", nil, nil)
	if exitCode(t.Context(), err) != exitUsage || tries.Load() != 1 {
		t.Errorf("%v after %d tries", err, tries.Load())
	}
	if text := err.Error(); !strings.Contains(text, "body.x expected") || strings.Contains(text, "\x1b") {
		t.Errorf("%q", text)
	}
}

func TestAnotherCAIsNotTrusted(t *testing.T) {
	g, _ := standIn(t, func(http.ResponseWriter, *http.Request) { t.Error("the request was sent") })
	g.ca = ""
	r, err := g.dial(command(t))
	if err != nil {
		t.Fatal(err)
	}
	defer r.close()
	if err := r.get(t.Context(), "/x", nil, nil); exitCode(t.Context(), err) != exitUnreachable {
		t.Errorf("%v", err)
	}
}

func TestPagesAreWalkedToTheEnd(t *testing.T) {
	r := dialled(t, func(w http.ResponseWriter, q *http.Request) {
		switch q.URL.Query().Get("cursor") {
		case "":
			fmt.Fprint(w, `{"items":[{"n":1},{"n":2}],"next":"a"}`)
		case "a":
			fmt.Fprint(w, `{"items":[{"n":3}]}`)
		}
	})
	var got []string
	take := func(p *page) error {
		for _, item := range p.Items {
			got = append(got, string(item))
		}
		return nil
	}
	if err := r.each(t.Context(), "/x", nil, 0, take); err != nil || len(got) != 3 {
		t.Errorf("%v, %v", got, err)
	}
	stop := errors.New("enough")
	if err := r.each(t.Context(), "/x", nil, 0, func(*page) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("%v", err)
	}
}

func TestFollowingSurvivesABrokenStream(t *testing.T) {
	var asked atomic.Int64
	r := dialled(t, func(w http.ResponseWriter, q *http.Request) {
		if strings.HasSuffix(q.URL.Path, "/events") {
			w.Header().Set("Content-Type", "text/event-stream")
			fmt.Fprint(w, "event: flow\nid: 1\ndata: {\"state\":\"running\",\"rows\":1}\n\n")
			return // breaks off before the end
		}
		if asked.Add(1) == 1 {
			fmt.Fprint(w, `{"state":"running","rows":2}`)
			return
		}
		fmt.Fprint(w, `{"flow_id":"F.1","state":"completed","rows":3}`)
	})
	var shown []int64
	record, err := r.watch(t.Context(), "/clients/C.1/flows/F.1", func(f *flowView) { shown = append(shown, f.Rows) })
	if err != nil || record.State != "completed" || len(shown) < 2 {
		t.Errorf("%+v, %v, shown %v", record, err, shown)
	}
}

func TestParametersFindTheirArtifact(t *testing.T) {
	specs, err := specsOf([]string{"A.B", "C.D/S"}, []string{"all=1", "C.D.one=x=y", "A.B.two="})
	if err != nil || fmt.Sprint(specs) != "[{A.B map[all:1 two:]} {C.D/S map[all:1 one:x=y]}]" {
		t.Errorf("%v, %v", specs, err)
	}
	for _, bad := range []string{"x", "=1", "E.F.x=1"} {
		if _, err := specsOf([]string{"A.B"}, []string{bad}); exitCode(t.Context(), err) != exitUsage {
			t.Errorf("%s: %v", bad, err)
		}
	}
	for text, want := range map[string]uint64{"": 0, "90": 90, "1m30s": 90, "1.5s": 2} {
		if got, err := parseSeconds(text); err != nil || got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
