package monitoring_test

import (
	"strings"
	"testing"
	"time"

	"raptorpack/ids"
)

// rest lets rounds come to their end.
func rest() { time.Sleep(5 * time.Second) }

func TestEachEventIsWorkedOffOnceOverMasters(t *testing.T) {
	for _, delivered := range []bool{true, false} {
		inWorld(t, func(w *world) {
			w.send(3) // before anybody watches
			w.set(artifact("Test.One", follow))
			stop := w.run()
			rest()
			w.send(2)
			rest()
			w.send(2500) // more than a round takes
			rest()
			stop()
			if delivered {
				w.deliver()
			}
			w.send(4) // while nobody leads
			stop = w.run()
			rest()
			w.send(1)
			rest()
			stop()
			w.deliver()
			w.once("Test.One", 4, 2510)
			place := w.flows.Server.Place(ids.RootOrg, "Test.One")
			if place.Events != 2507 || place.Places[watched] == "" {
				t.Errorf("delivered %v: %d events in round %d", delivered, place.Events, place.Round)
			}
		})
	}
}

func TestRoundsAreToldOnlyWhenStored(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(artifact("Test.One", follow))
		stop := w.run()
		rest()
		w.deliver()
		before := w.flows.Server.Place(ids.RootOrg, "Test.One")
		w.committer.set(true)
		w.send(3)
		rest()
		w.deliver()
		if p := w.flows.Server.Place(ids.RootOrg, "Test.One"); p.Round != before.Round || len(w.rows("Test.One")) != 0 {
			t.Errorf("round %d was told, and nothing can be stored", p.Round)
		}
		stop() // this master dies with the rows in its memory
		w.committer.set(false)
		w.run()
		rest()
		w.once("Test.One", 1, 3)
	})
}

func TestAFailedRoundIsWorkedOffAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(artifact("Test.One", "SELECT n, stumble() AS S FROM watch_monitoring(artifact='"+watched+"')"))
		w.run()
		rest()
		w.mu.Lock()
		w.broken = 2
		w.mu.Unlock()
		w.send(5)
		time.Sleep(time.Minute)
		w.once("Test.One", 1, 5)
		if log := strings.Join(w.lines("Test.One", true), "\n"); strings.Count(log, "it begins again in") != 2 || !strings.Contains(log, "memory limit") {
			t.Errorf("log:\n%s", log)
		}
	})
}

func TestOnlyWhatChangedIsRestarted(t *testing.T) {
	inWorld(t, func(w *world) {
		one := artifact("Test.One", "LET _ <= begun(name='one')\n"+follow)
		two := artifact("Test.Two", "LET _ <= begun(name='two')\n"+follow)
		w.set(one, two)
		w.run()
		rest()
		w.send(1)
		rest()
		w.define(strings.Replace(two, "SELECT n", "SELECT n, 2 AS Two", 1))
		rest()
		rest()
		w.send(1)
		rest()
		w.set(one)
		rest()
		w.send(1)
		rest()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.begun["one"] != 1 || w.begun["two"] != 2 {
			t.Errorf("begun: %v", w.begun)
		}
		w.once("Test.One", 1, 3)
		w.once("Test.Two", 1, 2)
		if lines := w.lines("Test.Two", false); strings.Contains(lines[0], "Two") || !strings.Contains(lines[1], `"Two":2`) {
			t.Errorf("rows %v", lines)
		}
	})
}

func TestQueryThatEndsIsBegunAgain(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(artifact("Test.One", "SELECT begun(name='one') AS n FROM scope()"), artifact("Test.Bad", "SELECT * FROM nowhere()"))
		w.run()
		time.Sleep(10 * time.Minute)
		w.mu.Lock()
		begun := w.begun["one"]
		w.mu.Unlock()
		if begun < 5 || begun > 30 {
			t.Errorf("begun %d times in ten minutes", begun)
		}
		if n := len(w.lines("Test.One", false)); n != begun {
			t.Errorf("%d rows of %d runs", n, begun)
		}
		if log := strings.Join(w.lines("Test.One", true), "\n"); !strings.Contains(log, "the query ended by itself") || !strings.Contains(log, `"_ts":`) {
			t.Errorf("log:\n%s", log)
		}
		if log := strings.Join(w.lines("Test.Bad", true), "\n"); !strings.Contains(log, "nowhere") {
			t.Errorf("log:\n%s", log)
		}
	})
}

// A statement that has more to watch than events is stopped when these are given,
// and begun anew; what it made besides is stored meanwhile.
func TestStatementThatDoesNotEndIsCut(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(artifact("Test.One", "SELECT n, Unix FROM combine(a={ SELECT n FROM watch_monitoring(artifact='"+watched+"') }, b={ SELECT 0 AS n, Unix FROM clock(period=3) })"))
		w.run()
		rest()
		rest()
		if rows := w.rows("Test.One"); rows[0] < 2 {
			t.Errorf("rows %v before any event", rows)
		}
		w.send(2)
		time.Sleep(30 * time.Second)
		w.send(1)
		time.Sleep(30 * time.Second)
		w.deliver()
		rows := w.rows("Test.One")
		if rows[1] != 1 || rows[2] != 1 || rows[3] != 1 {
			t.Errorf("rows %v", rows)
		}
		if p := w.flows.Server.Place(ids.RootOrg, "Test.One"); p.Events != 3 {
			t.Errorf("place %+v", p)
		}
	})
}

// Two sources of one statement come to an end together, and a query may look
// things up for each event.
func TestRoundOfSeveralSources(t *testing.T) {
	inWorld(t, func(w *world) {
		w.set(artifact("Test.One", "SELECT * FROM foreach(row={ SELECT * FROM chain(async=TRUE, a={ SELECT n FROM watch_monitoring(artifact='"+watched+"') }, b={ SELECT * FROM watch_monitoring(artifact='Test.Never') }) }, query={ SELECT n, _ts, 'x' AS _Source FROM scope() })"))
		w.run()
		rest()
		w.send(3)
		rest()
		w.send(1)
		rest()
		w.once("Test.One", 1, 4)
		for _, line := range w.lines("Test.One", false) {
			if !strings.HasPrefix(line, `{"_ts":9466`) || strings.Count(line, `"_ts":`) != 1 || !strings.Contains(line, `"client__Source":"x"`) {
				t.Errorf("row %s", line)
			}
		}
	})
}
