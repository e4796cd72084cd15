package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"
)

// A tail goes on where the last connection stood, and prints each row once.
func TestTailGoesOnOverConnections(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	connections := make(chan string, 10) // what each asked for
	g, _ := standIn(t, func(w http.ResponseWriter, q *http.Request) {
		at := q.Header.Get("Last-Event-ID")
		connections <- q.URL.Query().Get("client") + at
		w.Header().Set("Content-Type", "text/event-stream")
		switch at {
		case "":
			fmt.Fprint(w, "event: begin\nid: A\ndata: {}\n\n: still here\n\nevent: rows\nid: B\ndata: {\"rows\":[{\"n\":1},{\"n\":2}]}\n\nevent: rows\nid: C\ndata: {\"rows\":[{\"n\":3}]}")
		case "B": // the last event was cut off
			fmt.Fprint(w, "event: rows\nid: D\ndata: {\"rows\":[{\"n\":3}]}\n\n")
		default:
			cancel()
		}
	})
	c := newEventsTail(g)
	var out bytes.Buffer
	c.SetOut(&out)
	c.SetErr(io.Discard)
	c.SetArgs([]string{"Linux.Events/SSH", "--client", "C.1"})
	if err := c.ExecuteContext(ctx); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != "{\"n\":1}\n{\"n\":2}\n{\"n\":3}\n" {
		t.Errorf("printed %q", got)
	}
	if first, second := <-connections, <-connections; first != "C.1" || second != "C.1B" {
		t.Errorf("asked %q, then %q", first, second)
	}
}

func TestTailToldNoEndsAtOnce(t *testing.T) {
	g, _ := standIn(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, `{"detail":"permission denied"}`, http.StatusForbidden)
	})
	if code := exitOf(t, newEventsTail(g), "A"); code != exitForbidden {
		t.Errorf("exit code %d", code)
	}
}

func TestEventTablesAreEdited(t *testing.T) {
	const clients = `{"tables":[{"artifacts":[{"name":"A","parameters":{"P":"1"}},{"name":"B"}]},{"label":"lab","artifacts":[{"name":"C"}]}],"version":7}`
	const server = `{"artifacts":[{"name":"S","principal":"ada"}],"queries":[],"version":9}`
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"set", "B", "D", "--param", "P=2"}, `{"tables":[{"artifacts":[{"name":"A","parameters":{"P":"1"}},{"name":"B","parameters":{"P":"2"}},{"name":"D","parameters":{"P":"2"}}]},{"label":"lab","artifacts":[{"name":"C"}]}],"version":7}`},
		{[]string{"set", "D", "--label", "New"}, `{"tables":[{"artifacts":[{"name":"A","parameters":{"P":"1"}},{"name":"B"}]},{"label":"lab","artifacts":[{"name":"C"}]},{"label":"new","artifacts":[{"name":"D"}]}],"version":7}`},
		{[]string{"clear", "C", "--label", "LAB"}, `{"tables":[{"artifacts":[{"name":"A","parameters":{"P":"1"}},{"name":"B"}]},{"label":"lab","artifacts":[]}],"version":7}`},
		{[]string{"clear"}, `{"tables":[{"artifacts":[]},{"label":"lab","artifacts":[{"name":"C"}]}],"version":7}`},
		{[]string{"set", "T", "--on-server"}, `{"artifacts":[{"name":"S"},{"name":"T"}],"version":9}`},
		{[]string{"clear", "--on-server"}, `{"artifacts":[],"version":9}`},
	} {
		var sent string
		g, _ := standIn(t, func(w http.ResponseWriter, q *http.Request) {
			if q.Method == http.MethodPut {
				text, err := io.ReadAll(q.Body)
				if err != nil {
					t.Error(err)
				}
				sent = string(text)
				fmt.Fprint(w, `{"index":10}`)
				return
			}
			fmt.Fprint(w, map[bool]string{true: server, false: clients}[strings.HasSuffix(q.URL.Path, "server")])
		})
		if code := exitOf(t, newEvents(g), c.args...); code != 0 {
			t.Errorf("%v: exit code %d", c.args, code)
		}
		var got, want any
		if json.Unmarshal([]byte(sent), &got) != nil || json.Unmarshal([]byte(c.want), &want) != nil || fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("%v sent %s, want %s", c.args, sent, c.want)
		}
	}
}

func TestMomentsAreRead(t *testing.T) {
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	for text, want := range map[string]string{
		"2026-11-21": "2026-11-21T00:00:00Z", "2h": "2026-11-22T10:00:00Z", "2026-11-20T01:02:03+01:00": "2026-11-20T00:02:03Z",
	} {
		if at, err := parseMoment(text, now); err != nil || at.UTC().Format(time.RFC3339) != want {
			t.Errorf("%s: %v, %v", text, at, err)
		}
	}
	for _, text := range []string{"yesterday", "-2h"} {
		if _, err := parseMoment(text, now); err == nil {
			t.Errorf("%s is taken", text)
		}
	}
}
