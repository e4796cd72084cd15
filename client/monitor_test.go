package client

import (
	"testing"
	"testing/synctest"

	"raptorpack/proto/wirepb"
)

// testMonitor is a monitor over a buffer in memory.
func testMonitor(t *testing.T) (*monitor, *Buffer) {
	o := Options{Engine: testEngine(t)}
	o.setDefaults()
	b := openTestBuffer(t, "", 0)
	return newMonitor(newRunner(o, b, newUrgentQueue(1<<20, o.Metrics)), nil), b
}

func TestEventsThatWaitWhenTheirTableEndsAreDelivered(t *testing.T) {
	for name, end := range map[string]func(*testing.T, *monitor){
		"changed": func(t *testing.T, m *monitor) { m.update(t.Context(), &wirepb.VQLEventTable{Version: 2}) },
		"closed":  func(_ *testing.T, m *monitor) { m.close() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m, b := testMonitor(t)
				m.update(t.Context(), &wirepb.VQLEventTable{Version: 1, Event: []*wirepb.VQLCollectorArgs{{
					Query: []*wirepb.VQLRequest{{
						Name: "A", Vql: "SELECT N, shout(level='INFO', text='a line') FROM numbers(count=3, wait=TRUE)",
					}},
				}}})
				synctest.Wait()
				if b.Pending() != 0 {
					t.Fatal("nothing was waiting")
				}
				end(t, m)
				var rows, lines uint64
				for _, v := range sent(t, lease(t, b, 1<<20)) {
					rows += v.GetVqlResponse().GetTotalRows()
					lines += v.GetLogMessage().GetNumberOfRows()
				}
				if rows != 3 || lines != 3 {
					t.Fatalf("%d rows and %d log lines came", rows, lines)
				}
				m.close()
			})
		})
	}
}
