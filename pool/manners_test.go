package pool_test

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/pool"
)

// numbered stores an artifact whose rows are numbered, and slow to come if asked for.
func (s *server) numbered(name string, rows int, each time.Duration) {
	query := fmt.Sprintf("SELECT _value AS N FROM range(start=0, end=%d)", rows)
	if each > 0 {
		query += fmt.Sprintf(" WHERE sleep(ms=%d) OR TRUE", each.Milliseconds())
	}
	s.call(http.MethodPut, "/artifacts", map[string]string{"text": "name: " + name + "\nsources:\n  - query: " + query + "\n"}, &struct{}{})
}

// collect starts a collection and gives its path at the door.
func (s *server) collect(client, artifact string) string {
	var started struct {
		Flow string `json:"flow_id"`
	}
	s.call(http.MethodPost, "/clients/"+client+"/flows", map[string]any{"artifacts": []any{map[string]any{"name": artifact}}}, &started)
	return "/clients/" + client + "/flows/" + started.Flow
}

// whole waits until a collection of numbered rows is completed, and checks that each
// row is there once and in its place.
func (s *server) whole(path, artifact string, rows int) {
	s.t.Helper()
	var flow struct {
		State, Error string
		Rows         int
	}
	testkit.Eventually(s.t, path+" ends", func() (any, bool) {
		s.call(http.MethodGet, path, nil, &flow)
		return flow, flow.State == "completed" || flow.State == "errored" || flow.State == "incomplete"
	})
	if flow.State != "completed" || flow.Rows != rows {
		s.t.Errorf("%s: %+v", path, flow)
		return
	}
	var page struct{ Items []struct{ N int } }
	s.call(http.MethodGet, fmt.Sprintf("%s/results?name=%s&limit=%d", path, artifact, rows+10), nil, &page)
	if len(page.Items) != rows {
		s.t.Errorf("%s: %d rows of %d", path, len(page.Items), rows)
	}
	for n, row := range page.Items {
		if row.N != n {
			s.t.Errorf("%s: row %d is %d", path, n, row.N)
			return
		}
	}
}

// misbehaving makes a pool of one manner, whose misdeeds come as fast as they can.
func (s *server) misbehaving(clients int, m pool.Manners) *pool.Pool {
	m.Every = 20 * time.Millisecond
	return s.agents(clients, func(o *pool.Options) {
		o.Manners = m
		o.Base.MaxPoll, o.Base.MaxPollStd = 200*time.Millisecond, 100*time.Millisecond
	})
}

func TestMisbehavingClientsGetEachRowStoredOnce(t *testing.T) {
	for _, c := range []struct {
		name    string
		manners pool.Manners
		misdeed func(pool.Status) int64
	}{
		{"cut", pool.Manners{Cut: 1}, func(s pool.Status) int64 { return s.Cut }},
		{"resend", pool.Manners{Resend: 1}, func(s pool.Status) int64 { return s.Resent }},
		{"garbage", pool.Manners{Garbage: 1}, func(s pool.Status) int64 { return s.Garbage }},
		{"forge", pool.Manners{Forge: 1}, func(s pool.Status) int64 { return s.Forged }},
	} {
		t.Run(c.name, func(t *testing.T) {
			const clients, rows = 2, 200
			s := serve(t)
			p := s.misbehaving(clients, c.manners)
			all := s.interrogated(p, clients)
			s.numbered("Custom.Pool.Numbers", rows, 0)
			rounds := 0
			// A connection breaks only while something is sent.
			for ; rounds < 3 || c.misdeed(p.Status()) < 5; rounds++ {
				var paths []string
				for _, client := range all {
					paths = append(paths, s.collect(client.ID, "Custom.Pool.Numbers"))
				}
				for _, path := range paths {
					s.whole(path, "Custom.Pool.Numbers", rows)
				}
			}
			var list struct{ Total int }
			s.call(http.MethodGet, "/clients?limit=10", nil, &list)
			if list.Total != clients {
				t.Errorf("%d clients instead of %d", list.Total, clients)
			}
			for _, client := range all { // of what was forged nothing is there
				var flows struct{ Items []struct{ State string } }
				s.call(http.MethodGet, "/clients/"+client.ID+"/flows?limit=100", nil, &flows)
				if len(flows.Items) > rounds+1 {
					t.Errorf("%s has %d flows", client.ID, len(flows.Items))
				}
			}
		})
	}
}

func TestSlowClientsLoseNothing(t *testing.T) {
	const rows = 50
	s := serve(t)
	p := s.agents(2, func(o *pool.Options) {
		o.Manners = pool.Manners{Slow: 1, Delay: 50 * time.Millisecond, ReadRate: 20_000}
	})
	s.numbered("Custom.Pool.Numbers", rows, 0)
	for _, client := range s.interrogated(p, 2) {
		s.whole(s.collect(client.ID, "Custom.Pool.Numbers"), "Custom.Pool.Numbers", rows)
	}
}

func TestMuteClientsAnswerTheFirstCollectionAlone(t *testing.T) {
	s := serve(t)
	p := s.agents(1, func(o *pool.Options) { o.Manners = pool.Manners{Mute: 1} })
	client := s.interrogated(p, 1)[0]
	testkit.Eventually(t, "its first answer is acknowledged", func() (any, bool) { status := p.Status(); return status, status.Flows == 1 })
	s.numbered("Custom.Pool.Numbers", 1, 0)
	path := s.collect(client.ID, "Custom.Pool.Numbers")
	testkit.Eventually(t, "the second is at work", func() (any, bool) { status := p.Status(); return status, status.Muted > 0 })
	var flow struct{ State string }
	s.call(http.MethodGet, path, nil, &flow)
	if flow.State == "completed" || flow.State == "errored" {
		t.Errorf("a mute client's collection is %s", flow.State)
	}
}
