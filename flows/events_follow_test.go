package flows_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

func follow(t *testing.T, m *member, place string) *flows.Follower {
	t.Helper()
	f, err := m.FollowEvents(flows.FollowOptions{Name: execs, Place: place})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func look(t *testing.T, f *flows.Follower) *filestore.TailPage {
	t.Helper()
	page, err := f.Look(t.Context(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

// What one node stores is given to a follower at another within its pause when
// it hears of it, and after a few seconds when it does not.
func TestFollowerAtAnotherNode(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		inPack(t, func(t *testing.T, p *pack) { // in the bubble's time
			a, b := p.nodes[0], p.nodes[1]
			p.deaf = deaf
			p.watch(eventGroup("", execsTok, execs))
			p.deliver()
			a.take(event(execsTok, 1, `{"pid":1}`))
			f := follow(t, b, "")
			defer f.Close()
			if page := look(t, f); len(page.Rows) != 0 {
				t.Fatalf("%d rows that were there before", len(page.Rows))
			}
			a.take(event(execsTok, 2, `{"pid":2}`, `{"pid":3}`))
			begin, within := time.Now(), time.Second
			if deaf {
				within = 4 * time.Second
			}
			if !f.Wait(t.Context(), nil) || time.Since(begin) > within {
				t.Errorf("deaf %v: woken after %v", deaf, time.Since(begin))
			}
			page := look(t, f)
			if len(page.Rows) != 2 {
				t.Fatalf("deaf %v: %d rows", deaf, len(page.Rows))
			}
			came := time.Now().Unix()
			b.take(event(execsTok, 2, `{"pid":2}`, `{"pid":3}`), event(execsTok, 3, `{"pid":4}`)) // the first again
			again := follow(t, a, page.Place)
			defer again.Close()
			for _, one := range []*flows.Follower{f, again} {
				if page := look(t, one); len(page.Rows) != 1 || flows.EventTime(page.Rows[0].Line) != came {
					t.Errorf("deaf %v: %d rows behind the place", deaf, len(page.Rows))
				}
			}
		}, "a", "b")
	}
}

func TestFollowerStopsWaiting(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) {
		f := follow(t, p.nodes[0], "")
		defer f.Close()
		until := make(chan struct{})
		close(until)
		if f.Wait(t.Context(), until) {
			t.Error("waits on")
		}
		if _, err := p.nodes[0].FollowEvents(flows.FollowOptions{Name: execs, Place: "?"}); !errors.Is(err, filestore.ErrBadCursor) {
			t.Errorf("a place that is none: %v", err)
		}
		if _, err := p.nodes[0].FollowEvents(flows.FollowOptions{Name: "/"}); !errors.Is(err, flows.ErrInvalid) {
			t.Errorf("a name that is none: %v", err)
		}
	}, "a")
}

func TestEventRowsAreReadAcrossDaysAndNodes(t *testing.T) {
	inPack(t, func(t *testing.T, p *pack) { // the bubble begins at 2000-01-01 00:00 UTC
		a, b := p.nodes[0], p.nodes[1]
		p.watch(eventGroup("", execsTok, execs), eventGroup("", "$e2", "Linux.Events.SSH/Logins"))
		p.deliver()
		begin := time.Now()
		for i := range 6 {
			[]*member{a, b}[i%2].take(event(execsTok, uint64(i), fmt.Sprintf(`{"n":%d}`, 2*i), fmt.Sprintf(`{"n":%d}`, 2*i+1)))
			time.Sleep(12 * time.Hour)
		}
		a.take(event("$e2", 7, `{}`))
		read := func(q flows.EventRowsQuery) int {
			rows := 0
			for q.Name = execs; ; {
				page, err := b.EventRows(t.Context(), q)
				p.must(err)
				rows += len(page.Rows)
				if q.Cursor = page.Next; q.Cursor == "" {
					return rows
				}
			}
		}
		for limit := 1; limit < 14; limit++ {
			if n := read(flows.EventRowsQuery{Limit: limit}); n != 12 {
				t.Errorf("%d rows by %d, want 12", n, limit)
			}
		}
		from, to := begin.Add(12*time.Hour), begin.Add(36*time.Hour)
		if n := read(flows.EventRowsQuery{From: from, To: to, Limit: 1}); n != 4 {
			t.Errorf("%d rows between two times, want 4", n)
		}
		if n := read(flows.EventRowsQuery{Client: mustClient("C.00000000000000b2")}); n != 0 {
			t.Errorf("%d rows of another client", n)
		}
		_, err := b.EventRows(t.Context(), flows.EventRowsQuery{Name: execs, Cursor: "x"})
		if !errors.Is(err, filestore.ErrBadCursor) {
			t.Errorf("a cursor that is none: %v", err)
		}
		for client, want := range map[ids.Client]string{
			{}:                               "[{Linux.Events.ProcessExecutions [2000-01-02 2000-01-03]} {Linux.Events.SSH/Logins [2000-01-04]}]",
			p.client:                         "[{Linux.Events.ProcessExecutions [2000-01-02 2000-01-03]} {Linux.Events.SSH/Logins [2000-01-04]}]",
			mustClient("C.00000000000000b2"): "[]",
		} {
			list, err := b.EventList(t.Context(), ids.RootOrg, client, begin.Add(24*time.Hour), time.Time{})
			p.must(err)
			if got := fmt.Sprint(list); got != want {
				t.Errorf("list for %s: %s", client, got)
			}
		}
	}, "a", "b")
}
