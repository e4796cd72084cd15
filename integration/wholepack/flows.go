package wholepack

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"raptorpack/integration/history"
)

// numbers is a collection of many small batches, so that there is a middle. Tag does
// nothing but mark the request.
const numbers = `name: Custom.Wholepack.Numbers
parameters:
- name: Rows
  type: int
- name: Tag
resources:
  max_batch_rows: 50
sources:
- query: |
    SELECT _value AS N, "a row of some length, so that batches have some bytes" AS Filler FROM range(end=Rows)
`

const numbersName = "Custom.Wholepack.Numbers"

// Collection is a collection of numbered rows that a test follows.
type Collection struct {
	history.Flow
	pack  *Pack
	agent *Agent
	op    *Operator
	half  *half // nil: it runs through
}

// SetNumbers gives the pack the artifact that Work and Collect use.
func (p *Pack) SetNumbers() {
	p.t.Helper()
	op := p.NewOperator("clerk")
	p.Wait("the artifact to be set", func() (bool, string) {
		err := op.Ask(p.Master(), http.MethodPut, "/artifacts", map[string]string{"text": numbers}, nil)
		return err == nil, errorText(err)
	})
}

// Collect starts a collection by asking a node. It belongs to what Finish checks.
func (p *Pack) Collect(at *Node, a *Agent, rows int64) *Collection {
	p.t.Helper()
	c := &Collection{pack: p, agent: a, op: p.NewOperator("collector")}
	var started struct {
		Flow string `json:"flow_id"`
	}
	if err := c.op.Ask(at, http.MethodPost, "/clients/"+a.ID+"/flows", collection(rows, ""), &started); err != nil {
		p.t.Fatalf("collect: %v", err)
	}
	c.Flow = history.Flow{Client: a.ID, ID: started.Flow, Result: numbersName, Rows: rows, File: a.File}
	p.noteFlow(c.Flow)
	return c
}

// CollectHalf starts a collection and returns when the agent was told that so many of
// its rows are durable. The agent sends no more of anything until GoOn.
func (p *Pack) CollectHalf(at *Node, a *Agent, rows, half int64) *Collection {
	p.t.Helper()
	rest := a.restAt(half)
	c := p.Collect(at, a, rows)
	c.half = rest
	p.Wait("rows to be acknowledged", func() (bool, string) {
		select {
		case <-rest.reached:
			return true, ""
		default:
			return false, "agent: " + a.Log.Tail(500)
		}
	})
	return c
}

// GoOn lets the agent of CollectHalf go on.
func (c *Collection) GoOn() { c.half.goOn() }

func collection(rows int64, tag string) map[string]any {
	return map[string]any{"artifacts": []map[string]any{
		{"name": numbersName, "parameters": map[string]string{"Rows": strconv.FormatInt(rows, 10), "Tag": tag}},
	}}
}

func (p *Pack) noteFlow(f history.Flow) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.flows = append(p.flows, f)
}

// StateAt is what a node says of the collection; empty: it says nothing.
func (c *Collection) StateAt(n *Node) string {
	var now struct{ State string }
	if err := c.op.Ask(n, http.MethodGet, "/clients/"+c.Client+"/flows/"+c.ID, nil, &now); err != nil {
		return ""
	}
	return now.State
}

// WaitTold waits until the agent was told that the end is durable.
func (c *Collection) WaitTold() {
	c.pack.t.Helper()
	c.pack.Wait("the end to be acknowledged", func() (bool, string) {
		got, ended := c.agent.Acked(c.ID)
		return ended, strconv.FormatInt(got, 10) + " rows; agent: " + c.agent.Log.Tail(500)
	})
}

// Label gives a client a label through one node, and waits for the answer however
// long it takes. It belongs to what Finish checks.
func (o *Operator) Label(n *Node, a *Agent, token string, header ...string) history.Op {
	op := history.Op{Token: token, Operator: o.Name, Kind: "label"}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	try := history.Try{Node: n.Name, Begin: o.pack.History.Now()}
	reply, err := o.Call(ctx, n, http.MethodPost, "/clients/labels", map[string]any{"clients": []string{a.ID}, "add": []string{token}}, header...)
	try.End = o.pack.History.Now()
	if err != nil {
		try.Detail = err.Error()
	} else {
		try.Status = reply.Status
		try.Answer, try.Index, try.Detail = meaning(reply)
	}
	op.Tries = append(op.Tries, try)
	o.pack.History.Op(op)
	return op
}
