package flows

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"

	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// A client answers a question about flows with a message for each id, in their
// order, and says nothing of the question itself; and it sends an answer again,
// to any node, until it hears that it was taken. So each question names two more
// ids, which no flow has: one before the flows and one behind. The client says of
// them, too, that it does not know them, and so tells which question it answers:
// when it was asked (by the newest entry that the asking node knew), and by whom.
const (
	questionHead = ".Ask"
	questionTail = ".Asked"
)

const (
	maxMark = 16      // characters of a node's mark and number
	maxAsks = 1 << 40 // questions of a node before their numbers begin anew: eight digits
)

// question is what the ids around the flows of a question say.
type question struct {
	asked uint64 // newest entry that the asking node had applied
	by    string // its mark, and how many questions it had asked
}

// ask numbers a question of this node.
func (r *Room) ask(asked uint64) question {
	return question{asked, r.mark + strconv.FormatUint(r.asks.Add(1)%maxAsks, 36)}
}

// markOf is how questions name the node that asks.
func markOf(incarnation string) string {
	sum := sha256.Sum256([]byte(incarnation))
	return hex.EncodeToString(sum[:4])
}

func (q question) id(end string) string {
	return "F." + strconv.FormatUint(q.asked, 36) + "." + q.by + end
}

// message asks about flows.
func (q question) message(flows []string) *wirepb.VeloMessage {
	ask := &wirepb.FlowStatsRequest{FlowId: []string{q.id(questionHead)}}
	ask.FlowId = append(append(ask.FlowId, flows...), q.id(questionTail))
	return &wirepb.VeloMessage{SessionId: "F.Status", FlowStatsRequest: ask}
}

// parseQuestion reads an id that question.id made.
func parseQuestion(session string) (question, bool) {
	text, ok := strings.CutSuffix(session, questionHead)
	if !ok {
		text, ok = strings.CutSuffix(session, questionTail)
	}
	text, begins := strings.CutPrefix(text, "F.")
	number, by, cut := strings.Cut(text, ".")
	asked, err := strconv.ParseUint(number, 36, 64)
	if !ok || !begins || !cut || err != nil || by == "" || len(by) > maxMark {
		return question{}, false
	}
	return question{asked, by}, true
}

// answers takes the answer for an id around the flows of a question. Answers come
// in the order of the ids, and packets are cut anywhere: what is said between two
// ids belongs to the first, or where the packet begins with it, to the second.
func (p *packet) answers(q question) {
	p.question = &q
	for _, part := range p.parts {
		if part.lost != nil && part.lost.Asked == 0 {
			part.lost.Asked, part.lost.AskedBy = q.asked, q.by
		}
	}
}

// takeLost takes the answer that the client does not know a flow.
func (p *packet) takeLost(part *part, text string) {
	part.lost = &buspb.FlowEnd{
		Key: part.key.proto(), Outcome: buspb.FlowEnd_OUTCOME_UNKNOWN, Error: shorten(text, maxErrorText), Totals: &buspb.FlowTotals{},
	}
	if p.question != nil {
		part.lost.Asked, part.lost.AskedBy = p.question.asked, p.question.by
	}
}

// answerOf is the answer about a flow that others have to learn, nil if there is
// none. One that nobody asked for, that is older than the flow's newest turn or
// told already, changes nothing. One to a connection that waits here still for it
// is between that connection and its client. The lock is held.
func (p *packet) answerOf(part *part, l *local) *buspb.FlowEnd {
	lost, f := part.lost, part.f
	if lost == nil {
		return nil
	}
	answer := question{lost.Asked, lost.AskedBy}
	stale := lost.Asked == 0 || lost.Asked < f.Turn || answer == l.answered || rank(f.Outcome) >= 1 && !f.CancelDue
	if stale {
		p.room.metrics.stale.Inc()
		return nil
	}
	v := p.shard.visits[p.owner]
	if f.State == Pending && f.Offers < maxOffers && !l.taken && v != nil && v.answered(f.Flow, answer) {
		part.wakes = true
		return nil
	}
	return lost
}
