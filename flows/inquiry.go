package flows

import (
	"bytes"
	"slices"
	"strconv"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

const (
	// inquiryLife is how long an inquiry is waited for. Its request may run for ten
	// minutes, and a connection that broke may have it sent again.
	inquiryLife = 11 * time.Minute

	maxAnswerBytes  = 64 << 10 // rows of one answer
	maxAnswersBytes = 64 << 20 // rows of all answers that wait for their end

	maxInquiries = 36 * 36 * 36 * 36 * 36 // of a node before their names begin anew
)

// Inquiry is a request whose rows only decide something and are kept nowhere, as the
// condition of a hunt. It is soft: it goes with its node, and whoever made it asks
// again when nothing comes of it. The answer may come to any node, since a client
// speaks over other connections than it hears.
type Inquiry struct {
	Org     ids.Org
	Client  ids.Client
	Hunt    ids.Hunt
	Asked   uint64 // the newest entry that whoever asks knew of
	Request []byte // as of PackRequest

	// Expired is called when no answer came to this node in time; it must not block.
	Expired func()
}

// Heard is what a client answered to an inquiry of any node.
type Heard struct {
	Org    ids.Org
	Client ids.Client
	Hunt   ids.Hunt
	Asked  uint64
	Rows   [][]byte // JSON objects, in order
	Whole  bool     // all rows are here; else some came to another node
	Count  int64    // rows that the client made
	Error  string   // what went wrong at the client, or with the rows; empty: nothing
}

// inquiry is one that waits for its answer.
type inquiry struct {
	Inquiry
	flow ids.Flow
	sent bool
	end  time.Time
}

// Inquire gives a request to a client that is connected here, once. It does not wait.
func (r *Room) Inquire(q Inquiry) {
	by := r.mark[:min(len(r.mark), 6)] + strconv.FormatUint(r.inquired.Add(1)%maxInquiries, 36)
	one := &inquiry{Inquiry: q, flow: q.Hunt.Question(q.Asked, by), end: time.Now().Add(inquiryLife)}
	o := owner{q.Org, q.Client}
	s := r.shard(o)
	s.mu.Lock()
	s.inquiries[o] = append(s.inquiries[o], one)
	var wakes []chan struct{}
	if v := s.visits[o]; v != nil {
		wakes = v.wakes()
	}
	s.mu.Unlock()
	signal(wakes)
	if r.o.Wake != nil {
		r.o.Wake(q.Org, q.Client)
	}
}

// inquire plans the inquiries that were not sent yet: after everything else, as hunts
// are overtaken.
func (d *delivery) inquire() {
	for _, q := range d.s.inquiries[d.a.owner] {
		if q.sent || d.flying >= d.bound(1) {
			continue
		}
		d.flying++
		d.inquiries = append(d.inquiries, q)
		if d.real {
			q.sent = true
		}
	}
}

func (r *Room) inquiryMessage(q *inquiry) *wirepb.VeloMessage {
	r.metrics.inquiries.Inc()
	return r.startMessage(q.Client, q.flow, q.Request, false)
}

// expireInquiries takes out what was waited for long enough. The lock is held.
func (r *Room) expireInquiries(s *shard, now time.Time) []*inquiry {
	var over []*inquiry
	for o, all := range s.inquiries {
		kept := slices.DeleteFunc(all, func(q *inquiry) bool {
			if now.Before(q.end) {
				return false
			}
			over = append(over, q)
			return true
		})
		if s.inquiries[o] = kept; len(kept) == 0 {
			delete(s.inquiries, o)
		}
	}
	for key, a := range s.answers {
		if now.Sub(a.at) >= inquiryLife {
			r.forgetAnswer(s, key)
		}
	}
	return over
}

// answer is what came of an answer so far.
type answer struct {
	at    time.Time
	parts map[int64][][]byte // by the number of the first row
	count int64
	bytes int64
	fault string
}

// answerPiece is what one message says.
type answerPiece struct {
	key   Key
	first int64
	rows  [][]byte
	bytes int64
	fault string
	end   *wirepb.FlowStats
}

// takeAnswer reads a message of a flow that answers an inquiry. Its log and uploads
// are of no use.
func (p *packet) takeAnswer(flow ids.Flow, m *wirepb.VeloMessage) {
	piece := answerPiece{key: Key{p.peer.Org, p.peer.Client, flow}}
	switch {
	case m.VqlResponse != nil:
		piece.first = int64(min(m.VqlResponse.QueryStartRow, 1<<40))
		text, reason := p.plainRows(m.VqlResponse)
		if reason == "" {
			chunks, _, err := checkLines(text, nil, false)
			if err != nil {
				reason = err.Error()
			}
			for _, c := range chunks {
				piece.rows = append(piece.rows, linesOf(c.lines)...)
			}
		}
		piece.bytes, piece.fault = int64(len(text)), reason
	case m.FlowStats != nil && m.FlowStats.FlowComplete && !unknownFlow(m.FlowStats):
		piece.end = m.FlowStats
	default:
		return
	}
	p.heard = append(p.heard, piece)
}

// linesOf splits checked lines; they share its memory.
func linesOf(lines []byte) [][]byte {
	var out [][]byte
	for line := range bytes.Lines(lines) {
		out = append(out, bytes.TrimSuffix(line, []byte{'\n'}))
	}
	return out
}

// hear takes the answers of a packet that is stored, and passes on those that are
// complete.
func (r *Room) hear(p *packet) {
	if len(p.heard) == 0 {
		return
	}
	var heard []Heard
	p.shard.mu.Lock()
	for _, piece := range p.heard {
		if piece.end == nil {
			r.keepAnswer(p.shard, p.peer.Received, piece)
			continue
		}
		heard = append(heard, p.shard.answered(piece))
		r.forgetAnswer(p.shard, piece.key)
		p.shard.settleInquiry(p.owner, piece.key.Flow)
	}
	p.shard.mu.Unlock()
	for _, h := range heard {
		r.metrics.answered.Inc()
		if r.o.Heard != nil {
			r.o.Heard(h)
		}
	}
}

// keepAnswer keeps rows until their end comes. The lock is held.
func (r *Room) keepAnswer(s *shard, now time.Time, piece answerPiece) {
	a := s.answers[piece.key]
	if a == nil {
		a = &answer{at: now, parts: map[int64][][]byte{}}
		s.answers[piece.key] = a
	}
	if _, again := a.parts[piece.first]; again {
		return
	}
	a.count += int64(len(piece.rows))
	switch {
	case piece.fault != "":
		a.fault = "rows: " + piece.fault
		piece.rows = nil
	case a.bytes+piece.bytes > maxAnswerBytes:
		a.fault = "more than 64 KiB of rows"
		piece.rows = nil
	case r.answerBytes.Load()+piece.bytes > maxAnswersBytes:
		a.fault = "too many answers at once"
		piece.rows = nil
	default:
		a.bytes += piece.bytes
		r.answerBytes.Add(piece.bytes)
	}
	a.parts[piece.first] = piece.rows
}

// forgetAnswer lets go of an answer. The lock is held.
func (r *Room) forgetAnswer(s *shard, key Key) {
	if a := s.answers[key]; a != nil {
		r.answerBytes.Add(-a.bytes)
		delete(s.answers, key)
	}
}

// answered is what is known when the end of an answer came. The lock is held.
func (s *shard) answered(end answerPiece) Heard {
	hunt, asked, _ := end.key.Flow.Question()
	h := Heard{Org: end.key.Org, Client: end.key.Client, Hunt: hunt, Asked: asked}
	progress := &Progress{}
	for _, q := range end.end.QueryStatus {
		progress.add(q)
	}
	h.Count, h.Error = progress.Totals.Rows, progress.Error
	a := s.answers[end.key]
	if a == nil {
		h.Whole = h.Count == 0
		return h
	}
	h.Count, h.Whole = max(h.Count, a.count), a.count >= h.Count
	if h.Error == "" {
		h.Error = a.fault
	}
	firsts := make([]int64, 0, len(a.parts))
	for first := range a.parts {
		firsts = append(firsts, first)
	}
	slices.Sort(firsts)
	for _, first := range firsts {
		h.Rows = append(h.Rows, a.parts[first]...)
	}
	return h
}

// settleInquiry takes out an inquiry of this node that was answered. The lock is held.
func (s *shard) settleInquiry(o owner, flow ids.Flow) {
	kept := slices.DeleteFunc(s.inquiries[o], func(q *inquiry) bool { return q.flow == flow })
	if s.inquiries[o] = kept; len(kept) == 0 {
		delete(s.inquiries, o)
	}
}
