package wholepack_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"raptorpack/integration/wholepack"
)

// ticks is a client event artifact whose rows all differ.
const ticks = `name: Custom.Story.Ticks
type: CLIENT_EVENT
resources:
  max_batch_wait: 1
sources:
- query: SELECT format(format="%v", args=UnixNano) AS Tick FROM clock(ms=50)
`

// echo is a server event artifact that repeats them.
const echo = `name: Custom.Story.Echo
type: SERVER_EVENT
sources:
- query: SELECT ClientId, Tick FROM watch_monitoring(artifact="Custom.Story.Ticks")
`

const (
	ticksName = "Custom.Story.Ticks"
	echoName  = "Custom.Story.Echo"
)

// monitor is somebody who works with events.
type monitor struct {
	p  *wholepack.Pack
	t  *testing.T
	op *wholepack.Operator
}

func newMonitor(t *testing.T, p *wholepack.Pack, at *wholepack.Node) *monitor {
	t.Helper()
	m := &monitor{p, t, p.NewOperator("mona")}
	for _, text := range []string{ticks, echo} {
		m.put(at, "/artifacts", map[string]string{"text": text})
	}
	return m
}

func (m *monitor) put(at *wholepack.Node, path string, body any) {
	m.t.Helper()
	m.p.Wait("PUT "+path, func() (bool, string) {
		err := m.op.Ask(at, http.MethodPut, path, body, nil)
		return err == nil, fmt.Sprint(err)
	})
}

// watch has all clients watch, or none.
func (m *monitor) watch(at *wholepack.Node, names ...string) {
	m.t.Helper()
	tables := []map[string]any{}
	if len(names) > 0 {
		tables = append(tables, map[string]any{"artifacts": specs(names)})
	}
	m.put(at, "/monitoring/client", map[string]any{"tables": tables})
}

func specs(names []string) []map[string]any {
	all := []map[string]any{}
	for _, name := range names {
		all = append(all, map[string]any{"name": name})
	}
	return all
}

// count reads all rows of an artifact at a node and counts each tick.
func (m *monitor) count(at *wholepack.Node, artifact string) (map[string]int, error) {
	out := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ Tick string }
			Next  string
		}
		if err := m.op.Ask(at, http.MethodGet, "/events/"+artifact+"?limit=1000&cursor="+cursor, nil, &page); err != nil {
			return nil, err
		}
		for _, row := range page.Items {
			out[row.Tick]++
		}
		if cursor = page.Next; cursor == "" {
			return out, nil
		}
	}
}

// atLeast waits until an artifact has so many rows at a node.
func (m *monitor) atLeast(at *wholepack.Node, artifact string, rows int) map[string]int {
	m.t.Helper()
	var got map[string]int
	m.p.Wait(fmt.Sprintf("%d rows of %s at %s", rows, artifact, at.Name), func() (bool, string) {
		var err error
		got, err = m.count(at, artifact)
		return err == nil && len(got) >= rows, fmt.Sprint(len(got), err)
	})
	return got
}

// tail reads an artifact's rows live at a node until it has so many; it returns what
// came and where to go on. It tells when it has begun.
func (m *monitor) tail(at *wholepack.Node, artifact, place string, rows int, begun chan<- struct{}) (got []string, next string) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	response, err := m.op.Open(ctx, at, "/events/"+artifact+"/tail", "Last-Event-ID", place)
	if err != nil {
		m.t.Error(err)
		return nil, ""
	}
	defer response.Body.Close()
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for id := ""; len(got) < rows && lines.Scan(); {
		if value, ok := strings.CutPrefix(lines.Text(), "id: "); ok {
			id = value
		}
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		next = id
		if begun != nil {
			close(begun)
			begun = nil
		}
		var event struct{ Rows []struct{ Tick string } }
		if err := json.Unmarshal([]byte(data), &event); err != nil {
			m.t.Error(err)
		}
		for _, row := range event.Rows {
			got = append(got, row.Tick)
		}
	}
	return got, next
}

// A table that is set at one node has an agent at another begin its events, and a
// tail at a third gives them as they come; it goes on at a fourth place where it
// stood, and nothing is lost or doubled.
func TestEventsFromTableToTailOverNodes(t *testing.T) {
	p, minion, _ := atMinion(t, nil)
	one, two := p.Nodes[0], p.Nodes[1]
	m := newMonitor(t, p, one)
	begun := make(chan struct{})
	type part struct {
		got  []string
		next string
	}
	first := make(chan part, 1) // one value
	go func() {
		got, next := m.tail(two, ticksName, "", 20, begun)
		first <- part{got, next}
	}()
	<-begun
	m.watch(two, ticksName)
	seen := <-first
	rest, _ := m.tail(one, ticksName, seen.next, 20, nil) // on another node
	all := append(seen.got, rest...)
	if unique := slices.Compact(slices.Sorted(slices.Values(all))); len(unique) != len(all) {
		t.Errorf("%d of %d rows came twice", len(all)-len(unique), len(all))
	}
	m.watch(one) // the end of it
	stored := m.settled(minion, ticksName)
	for _, tick := range all {
		if stored[tick] != 1 {
			t.Errorf("tick %s of the tail is stored %d times", tick, stored[tick])
		}
	}
	for tick := range stored { // the tail began before the first
		if last := slices.Max(all); tick < last && !slices.Contains(all, tick) {
			t.Errorf("tick %s was passed over", tick)
		}
	}
	p.Finish()
}

// settled waits until an artifact has no new rows, and returns them.
func (m *monitor) settled(at *wholepack.Node, artifact string) map[string]int {
	m.t.Helper()
	var last map[string]int
	since := time.Now()
	m.p.Wait("an end of rows of "+artifact, func() (bool, string) {
		got, err := m.count(at, artifact)
		if err != nil || len(got) != len(last) {
			last, since = got, time.Now()
		}
		return err == nil && len(got) > 0 && time.Since(since) > 3*time.Second, fmt.Sprint(len(got), err)
	})
	return last
}

// A server event artifact follows a client's events; its master is stopped, or killed.
// The next one goes on: every event that was stored since it began is worked off,
// and after a planned stop exactly once. After a kill it may be twice if the kill hit
// the moment between rows and place.
func TestServerEventsSurviveAFailOver(t *testing.T) {
	for name, end := range map[string]func(*wholepack.Node){"stop": (*wholepack.Node).Stop, "kill": (*wholepack.Node).Kill} {
		t.Run(name, func(t *testing.T) {
			p, minion, _ := atMinion(t, nil)
			m := newMonitor(t, p, minion)
			m.put(minion, "/monitoring/server", map[string]any{"artifacts": specs([]string{echoName})})
			p.Wait("the server's query to have a place", func() (bool, string) {
				var table struct{ Queries []struct{ Name string } }
				err := m.op.Ask(minion, http.MethodGet, "/monitoring/server", nil, &table)
				return err == nil && len(table.Queries) == 1, fmt.Sprint(err, table)
			})
			m.watch(minion, ticksName)
			m.atLeast(minion, echoName, 30)
			leader := p.Master()
			other := p.Others(leader, minion)[0]
			before := len(m.atLeast(minion, ticksName, 1))
			end(leader)
			leads(p, other)
			m.atLeast(minion, ticksName, before+30)
			m.watch(minion)
			stored := m.settled(minion, ticksName)
			var echoed map[string]int
			p.Wait("every event to be worked off", func() (bool, string) {
				var err error
				echoed, err = m.count(minion, echoName)
				missing := 0
				for tick := range stored {
					if echoed[tick] == 0 {
						missing++
					}
				}
				return err == nil && missing == 0, fmt.Sprintf("%d of %d are missing, %v", missing, len(stored), err)
			})
			doubled := 0
			for tick, times := range echoed {
				if times > 1 {
					doubled++
				}
				if stored[tick] == 0 {
					t.Errorf("tick %s was worked off and never stored", tick)
				}
			}
			t.Logf("%d events, %d worked off twice, %d rows", len(stored), doubled, len(slices.Collect(maps.Keys(echoed))))
			if doubled > 0 && name == "stop" {
				t.Errorf("%d events were worked off twice", doubled)
			}
			leader.Start()
			p.WaitReady()
			p.Finish()
		})
	}
}
