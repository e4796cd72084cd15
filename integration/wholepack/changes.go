package wholepack

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"raptorpack/integration/history"
)

// Bounds of one change: how often it is tried, how long a try may take, and the rest
// between two.
const (
	maxTries  = 40
	tryWithin = 3 * time.Second
	tryPause  = 100 * time.Millisecond
)

// keptLabels is how many labels of one worker a client has. A client takes 200 at
// most, and passes over what is beyond.
const keptLabels = 8

// nobody is a client that there is not.
const nobody = "C.0123456789abcdef"

// label gives a client a label, and takes an old one away in the same change. Some
// bear no key and so are never repeated; some are for a client that there is not.
func (w *worker) label() {
	client := w.agent().ID
	op := history.Op{Token: w.token(), Operator: w.Name, Kind: "label"}
	switch w.chance.IntN(10) {
	case 0:
		client = nobody
		op.Key = op.Token
	case 1, 2:
	default:
		op.Key = op.Token
	}
	body := map[string]any{"clients": []string{client}, "add": []string{op.Token}}
	mine := w.mine[client]
	old := mine[:max(0, len(mine)-keptLabels)]
	if len(old) > 0 {
		body["remove"] = old
	}
	reply := w.carry(&op, http.MethodPost, "/clients/labels", body)
	w.pack.History.Op(op)
	if outcome, _ := op.Outcome(); outcome == history.Refused || client == nobody {
		return
	}
	if reply != nil {
		mine = slices.Clone(mine[len(old):])
	}
	w.mine[client] = append(mine, op.Token) // or perhaps not: to take it away then does no harm
}

// collect runs one collection and waits until its agent was told of its end.
func (w *worker) collect() {
	a, rows := w.agent(), w.work.o.Rows
	if rows == 0 {
		rows = 400
	}
	op := history.Op{Token: w.token(), Operator: w.Name, Kind: "collect"}
	op.Key = op.Token
	reply := w.carry(&op, http.MethodPost, "/clients/"+a.ID+"/flows", collection(rows, op.Token))
	w.pack.History.Op(op)
	if reply == nil {
		return
	}
	var started struct {
		Flow string `json:"flow_id"`
	}
	if err := json.Unmarshal(reply.Body, &started); err != nil {
		w.pack.t.Errorf("answer to a collection: %s", reply.Body)
		return
	}
	w.pack.noteFlow(history.Flow{Client: a.ID, ID: started.Flow, Result: numbersName, Rows: rows, File: a.File})
	for w.work.ctx.Err() == nil {
		if _, ended := a.Acked(started.Flow); ended {
			return
		}
		w.rest(pace)
	}
}

// carry asks for a change until it is acknowledged or refused, at one node after the
// other; without a key only once. It returns the acknowledgement.
func (w *worker) carry(op *history.Op, method, path string, body any) *Reply {
	for len(op.Tries) < maxTries {
		try, reply := w.try(op, method, path, body)
		op.Tries = append(op.Tries, try)
		switch {
		case try.Answer == history.Acknowledged:
			w.last = max(w.last, try.Index)
			return reply
		case try.Answer == history.Refused, op.Key == "":
			return nil
		}
		time.Sleep(tryPause) // also while the work comes to its end
	}
	return nil
}

func (w *worker) try(op *history.Op, method, path string, body any) (history.Try, *Reply) {
	n := w.node()
	var header []string
	if op.Key != "" {
		header = append(header, "Idempotency-Key", op.Key)
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryWithin)
	defer cancel()
	try := history.Try{Node: n.Name, Begin: w.pack.History.Now()}
	reply, err := w.Call(ctx, n, method, path, body, header...)
	try.End = w.pack.History.Now()
	switch {
	case err != nil:
		try.Detail = err.Error()
	case w.chance.IntN(20) == 0:
		try.Detail = "the reply is lost"
	default:
		try.Status = reply.Status
		try.Answer, try.Index, try.Detail = meaning(reply)
	}
	return try, reply
}

// meaning is what an operator may conclude from an answer.
func meaning(reply *Reply) (history.Answer, uint64, string) {
	switch {
	case reply.Status == http.StatusOK:
		var done struct{ Index uint64 }
		if err := json.Unmarshal(reply.Body, &done); err != nil {
			return history.Unknown, 0, err.Error()
		}
		return history.Acknowledged, done.Index, ""
	case reply.Status >= 400 && reply.Status < 499:
		return history.Refused, 0, string(reply.Body)
	}
	return history.Unknown, 0, fmt.Sprintf("%.200s", reply.Body)
}

// Headers about how fresh a read is.
const (
	headerFresh = "X-Raptorpack-Fresh"
	headerIndex = "X-Raptorpack-Index" // of a request: at least this entry
)

// read looks at a client's labels: as they are, as of the last entry that this
// reader saw, or as fresh as can be.
func (w *worker) read() {
	n, a := w.node(), w.agent()
	one := n.Process()
	if one == nil || one.Ready() != nil {
		return // a balancer looks away
	}
	r := history.Read{Reader: w.Name, Node: one.Incarnation(), Client: a.ID, Before: one.Status().Index}
	var header []string
	wish := w.chance.IntN(3)
	switch wish {
	case 1:
		r.AtLeast = w.last
		header = []string{headerIndex, strconv.FormatUint(w.last, 10)}
	case 2:
		header = []string{headerFresh, "true"}
	}
	ctx, cancel := context.WithTimeout(context.Background(), tryWithin)
	defer cancel()
	r.Begin = w.pack.History.Now()
	reply, err := w.Call(ctx, n, http.MethodGet, "/clients/"+a.ID, nil, header...)
	r.End = w.pack.History.Now()
	if err != nil || reply.Status != http.StatusOK || n.Process() != one || one.Ready() != nil {
		return // nothing was shown, or not by whom we think
	}
	if r.After, err = strconv.ParseUint(reply.Header.Get(headerIndex), 10, 64); err != nil {
		w.pack.t.Errorf("answer to a read: index: %v", err)
		w.work.cancel() // every other will be like it
		return
	}
	r.Fresh = wish == 2
	var seen struct{ Labels []string }
	if err := json.Unmarshal(reply.Body, &seen); err != nil {
		w.pack.t.Errorf("answer to a read: %s", reply.Body)
		return
	}
	r.Labels = seen.Labels
	w.last = max(w.last, r.Before)
	w.pack.History.Read(r)
}
