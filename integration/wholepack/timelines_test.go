package wholepack_test

import (
	"fmt"
	"net/http"
	"testing"

	"raptorpack/integration/wholepack"
)

// What the server itself runs: one keeps rows as timelines, one reads them back.
const (
	remember = `name: Custom.Story.Remember
type: SERVER
sources:
- query: |
    SELECT timeline_add(notebook_id="N.STORY", timeline="Story", name=_value, key="T", query={
      SELECT 1700000000 + _value * 7 - int(int=_value * 7 / 5000) * 5000 AS T, _value AS N FROM range(end=5000)
    }).name AS Kept FROM foreach(row=["one", "two", "one"])
`
	recall = `name: Custom.Story.Recall
type: SERVER
sources:
- query: |
    SELECT count() AS Rows, min(item=Timestamp.Unix) AS First, max(item=Timestamp.Unix) AS Last
    FROM timeline(notebook_id="N.STORY", timeline="Story", start=1700002500) GROUP BY 1
`
)

// onServer runs an artifact on the server and returns its rows.
func onServer(p *wholepack.Pack, op *wholepack.Operator, at *wholepack.Node, artifact string, into any) {
	var started struct {
		Flow string `json:"flow_id"`
	}
	path := "/clients/server/flows"
	p.Wait(artifact+" to be taken", func() (bool, string) {
		err := op.Ask(at, http.MethodPost, path, map[string]any{"artifacts": specs([]string{artifact})}, &started)
		return err == nil, fmt.Sprint(err)
	})
	p.Wait(artifact+" to end", func() (bool, string) {
		var now struct{ State, Error string }
		err := op.Ask(at, http.MethodGet, path+"/"+started.Flow, nil, &now)
		return err == nil && now.State == "completed", fmt.Sprint(now, err)
	})
	p.Wait("rows of "+artifact, func() (bool, string) {
		err := op.Ask(at, http.MethodGet, path+"/"+started.Flow+"/results", nil, into)
		return err == nil, fmt.Sprint(err)
	})
}

// The node that wrote timelines is killed; who leads next reads them, and the queue has
// told of each once, at every node.
func TestTimelinesAreReadAfterAFailOver(t *testing.T) {
	p, minion, _ := atMinion(t, nil)
	m := newMonitor(t, p, minion)
	for _, text := range []string{remember, recall} {
		m.put(minion, "/artifacts", map[string]string{"text": text})
	}
	var kept struct{ Items []struct{ Kept string } }
	if onServer(p, m.op, minion, "Custom.Story.Remember", &kept); len(kept.Items) != 3 || kept.Items[2].Kept != "Story" {
		t.Fatalf("kept %+v", kept)
	}
	leader := p.Master()
	leader.Kill()
	leads(p, p.Others(leader, minion)[0])
	var back struct {
		Items []struct{ Rows, First, Last int64 }
	}
	onServer(p, m.op, minion, "Custom.Story.Recall", &back)
	if got := fmt.Sprint(back.Items); got != "[{5000 1700002500 1700004999}]" {
		t.Errorf("read back %s", got)
	}
	leader.Start()
	p.WaitReady()
	for _, n := range p.Nodes {
		p.Wait("the queue at "+n.Name, func() (bool, string) {
			var told struct {
				Items []struct{ NotebookId, Timeline, Name string }
			}
			err := m.op.Ask(n, http.MethodGet, "/events/Server.Internal.TimelineAdd?limit=100", nil, &told)
			times := map[string]int{}
			for _, row := range told.Items {
				times[row.NotebookId+" "+row.Timeline+" "+row.Name]++
			}
			return fmt.Sprint(times) == "map[N.STORY Story one:2 N.STORY Story two:1]", fmt.Sprint(told, err)
		})
	}
	p.Finish()
}
