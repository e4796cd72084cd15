package wholepack_test

import (
	"fmt"
	"net/http"
	"testing"

	"raptorpack/integration/wholepack"
)

const completion = "System.Flow.Completion"

// follower is a server event artifact that follows the ends of flows.
const follower = `name: Custom.Story.Ends
type: SERVER_EVENT
sources:
- query: SELECT Flow.session_id AS Ended, Flow.state AS State FROM watch_monitoring(artifact="System.Flow.Completion")
`

// ends reads the ends of flows at a node, by flow, and what the follower made of them.
func ends(op *wholepack.Operator, at *wholepack.Node, artifact string) (map[string]int, error) {
	out := map[string]int{}
	for cursor := ""; ; {
		var page struct {
			Items []struct{ FlowId, Ended string }
			Next  string
		}
		if err := op.Ask(at, http.MethodGet, "/events/"+artifact+"?limit=1000&cursor="+cursor, nil, &page); err != nil {
			return nil, err
		}
		for _, row := range page.Items {
			out[row.FlowId+row.Ended]++
		}
		if cursor = page.Next; cursor == "" {
			return out, nil
		}
	}
}

// Collections end while one master is killed and the next takes over. The end of each
// stands in the queue once, at every node, and a server event query hears of each.
func TestEndsOfFlowsAreToldOnceOverAFailOver(t *testing.T) {
	p, minion, agent := atMinion(t, nil)
	m := newMonitor(t, p, minion)
	m.put(minion, "/artifacts", map[string]string{"text": follower})
	m.put(minion, "/monitoring/server", map[string]any{"artifacts": specs([]string{"Custom.Story.Ends"})})
	p.Wait("the server's query to have a place", func() (bool, string) {
		var table struct{ Queries []struct{ Name string } }
		err := m.op.Ask(minion, http.MethodGet, "/monitoring/server", nil, &table)
		return err == nil && len(table.Queries) == 1, fmt.Sprint(err, table)
	})
	var all []*wholepack.Collection
	for range 4 {
		all = append(all, p.Collect(minion, agent, 60))
	}
	all[1].WaitTold()
	leader := p.Master()
	leader.Kill()
	leads(p, p.Others(leader, minion)[0])
	for range 3 {
		all = append(all, p.Collect(minion, agent, 60))
	}
	for _, c := range all {
		c.WaitTold()
	}
	leader.Start()
	p.WaitReady()
	for _, n := range p.Nodes {
		for _, artifact := range []string{completion, "Custom.Story.Ends"} {
			p.Wait("the ends of all flows in "+artifact+" at "+n.Name, func() (bool, string) {
				got, err := ends(m.op, n, artifact)
				missing := 0
				for _, c := range all {
					if got[c.ID] == 0 {
						missing++
					}
				}
				return err == nil && missing == 0, fmt.Sprint(missing, " are missing: ", got, err)
			})
		}
		got, err := ends(m.op, n, completion)
		if err != nil {
			t.Fatal(err)
		}
		for flow, times := range got {
			if times != 1 {
				t.Errorf("the end of %s stands there %d times at %s", flow, times, n.Name)
			}
		}
	}
	p.Finish()
}
