package endpoint_test

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"raptorpack/vql"
)

func standHere(stop chan struct{}, done chan<- struct{}) { <-stop; done <- struct{}{} }

func TestGoroutinesAreListedByWhereTheyStand(t *testing.T) {
	stop, done := make(chan struct{}), make(chan struct{})
	for range 7 {
		go standHere(stop, done)
	}
	s := newSession(t, nil)
	deadline := time.Now().Add(time.Minute)
	for { // until all of them stand
		got := s.rows(`SELECT Count, CallStack[0].Name AS N, CallStack[0].Line > 0 AS L FROM profile_goroutines() WHERE N =~ 'standHere'`)
		if len(got) == 1 && strings.HasPrefix(got[0], `{"Count":7,`) && strings.HasSuffix(got[0], `"L":true}`) {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("got %v", got)
		}
	}
	if got := s.rows(`SELECT CallStack.Name AS N FROM profile_goroutines(verbose=TRUE) WHERE N =~ 'standHere'`); len(got) == 0 || !strings.Contains(got[0], "runtime.") {
		t.Errorf("verbose gave %v", got)
	}
	close(stop)
	for range 7 {
		<-done
	}
}

func TestMemoryIsListedByWhoAskedForIt(t *testing.T) {
	s := newSession(t, nil)
	if got := s.rows(`SELECT InUseBytes >= 0 AS B, InUseObjects >= 0 AS O FROM profile_memory() WHERE NOT B OR NOT O`); len(got) != 0 {
		t.Errorf("got %v", got)
	}
}

func TestProfilesAreFilesOrLines(t *testing.T) {
	s := newSession(t, nil)
	var files []string
	err := s.each(t.Context(), `SELECT Type, OSPath FROM profile(type='^(heap|alloc|goroutine)', profile=TRUE, trace=TRUE, duration=1)`, func(row *vql.Dict) error {
		kind, _ := row.Get("Type")
		path, _ := row.Get("OSPath")
		data, err := os.ReadFile(path.(*vql.Path).String())
		if err != nil || len(data) == 0 {
			return fmt.Errorf("%v: %d bytes: %w", kind, len(data), err)
		}
		if kind != "trace" {
			if _, err := gzip.NewReader(bytes.NewReader(data)); err != nil {
				return fmt.Errorf("%v is no profile: %w", kind, err)
			}
		}
		files = append(files, kind.(string))
		return nil
	})
	if err != nil || strings.Join(files, " ") != "allocs goroutine heap profile trace" {
		t.Errorf("%v: %v\n%s", files, err, s.log())
	}
	if got := s.rows(`SELECT Type FROM profile(goroutine=TRUE, debug=2) WHERE Line =~ 'goroutine [0-9]+ .running'`); len(got) != 1 {
		t.Errorf("text gave %v", got)
	}
	if got := s.rows(`SELECT Type FROM profile(metrics=TRUE) WHERE Line =~ '^/sched/goroutines:goroutines [1-9]'`); len(got) != 1 {
		t.Errorf("metrics gave %v", got)
	}
}

func TestProfileRefusesNonsense(t *testing.T) {
	s := newSession(t, nil)
	for _, args := range []string{`type='('`, `heap=TRUE, duration=-1`, `trace=TRUE, duration=100000`, ``} {
		s.want(`SELECT * FROM profile(` + args + `)`)
	}
	s.wantLog("expected 1 to 600 seconds")
	s.want(`SELECT * FROM profile(logs=TRUE)`)
	s.wantLog("keeps neither")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.each(ctx, `SELECT * FROM profile(trace=TRUE)`, func(*vql.Dict) error { return nil }); !errors.Is(err, context.Canceled) && err != nil {
		t.Errorf("a query that was stopped: %v", err)
	}
}

func TestTraceUploadsAZip(t *testing.T) {
	u := &uploads{}
	s := newSession(t, nil, u)
	s.want(`SELECT trace().Path AS P FROM scope()`, `{"P":"/trace.zip"}`)
	data := []byte(u.data[0])
	z, err := zip.NewReader(bytes.NewReader(data), int64(len(data)))
	if err != nil || u.requests[0].Size != int64(len(data)) {
		t.Fatal(err, u.requests[0].Size, len(data))
	}
	found := map[string]bool{}
	for _, f := range z.File {
		r, err := f.Open()
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		found[f.Name] = err == nil && len(text) > 0
	}
	for _, name := range []string{"goroutines.txt", "goroutine.pprof", "heap.pprof", "allocs.pprof", "metrics.txt", "build.txt"} {
		if !found[name] {
			t.Errorf("%s is missing or empty: %v", name, found)
		}
	}
	nobody := newSession(t, nil)
	nobody.want(`SELECT trace() AS T FROM scope()`, `{"T":null}`)
	nobody.wantLog("takes no uploads")
}
