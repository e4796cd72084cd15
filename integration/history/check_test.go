package history_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/integration/history"
)

const laptop = "C.00000000000000a1"

// at is a moment in milliseconds.
func at(ms int) history.At { return history.At(time.Duration(ms) * time.Millisecond) }

// story is a history with its ledger, both good until somebody spoils them.
type story struct {
	history.History
	ledger []history.Entry
}

func (s *story) entry(epoch uint64, kind, body string) *history.Entry {
	e := history.Entry{Index: uint64(len(s.ledger) + 1), Epoch: epoch, Kind: kind, Body: []byte(body)}
	e.Time = time.Unix(1000, 0).Add(time.Duration(e.Index) * time.Second)
	s.ledger = append(s.ledger, e)
	return &s.ledger[len(s.ledger)-1]
}

// label orders a change of labels that a node proposed.
func (s *story) label(epoch uint64, incarnation string, seq uint64, add, remove string) *history.Entry {
	e := s.entry(epoch, "clients", fmt.Sprintf(`{"changes":[{"label":{"clients":[%q],"add":[%q],"remove":[%q]}}]}`, laptop, add, remove))
	e.Incarnation, e.Stream, e.Seq, e.Principal, e.RequestID = incarnation, "STREAM_PROPOSE", seq, "ann", "id of "+add
	return e
}

// op is a change that was acknowledged at once.
func (s *story) op(token, node string, begin, end int, index uint64) *history.Op {
	s.Ops = append(s.Ops, history.Op{Token: token, Operator: "ann", Kind: "label", Key: token, Tries: []history.Try{
		{Node: node, Begin: at(begin), End: at(end), Answer: history.Acknowledged, Status: 200, Index: index},
	}})
	return &s.Ops[len(s.Ops)-1]
}

func (s *story) read(begin, end int, before, after uint64, labels ...string) *history.Read {
	s.Reads = append(s.Reads, history.Read{
		Reader: "bob", Node: "b-1", Begin: at(begin), End: at(end), Client: laptop, Labels: labels, Before: before, After: after,
	})
	return &s.Reads[len(s.Reads)-1]
}

// The entries and changes of the good story.
const (
	epochOne = iota
	enrolment
	first
	second
	epochTwo
	third
)

// good is two epochs with three labels, of which the last takes the first away.
func good() *story {
	s := &story{}
	s.entry(1, "ledger.epoch", `{"incarnation":"a-1"}`)
	s.entry(1, "clients", fmt.Sprintf(`{"changes":[{"enrol":{"client":%q,"publicKey":"AA=="}}]}`, laptop))
	s.label(1, "c-1", 1, "tk-1-ann", "")
	s.label(1, "c-1", 2, "tk-2-ann", "")
	s.entry(2, "ledger.epoch", `{"incarnation":"b-1","sealedEpoch":"1"}`)
	s.label(2, "c-1", 3, "tk-3-ann", "tk-1-ann")
	s.op("tk-1-ann", "c", 100, 200, 3)
	s.op("tk-2-ann", "a", 300, 400, 4)
	s.op("tk-3-ann", "c", 500, 800, 6).Tries = []history.Try{
		{Node: "a", Begin: at(500), End: at(600), Detail: "connection reset"},
		{Node: "c", Begin: at(650), End: at(800), Answer: history.Acknowledged, Status: 200, Index: 6},
	}
	s.Ops = append(s.Ops,
		history.Op{Token: "tk-4-ann", Kind: "label", Tries: []history.Try{{Node: "c", Begin: at(810), End: at(820), Answer: history.Refused, Status: 404}}},
		history.Op{Token: "tk-5-ann", Kind: "label", Tries: []history.Try{{Node: "a", Begin: at(830), End: at(840), Status: 503}}},
	)
	s.read(110, 120, 2, 3)
	s.read(110, 120, 2, 3, "tk-1-ann")
	s.read(420, 430, 4, 4, "tk-1-ann", "tk-2-ann").Fresh = true
	s.read(900, 910, 5, 6, "tk-2-ann", "tk-3-ann").AtLeast = 6
	s.Reigns = []history.Reign{{"a-1", 1, at(0), at(450)}, {"b-1", 2, at(520), at(900)}}
	s.Finals = []history.Final{{"a-2", 6, "ab"}, {"b-1", 6, "ab"}, {"c-1", 6, "ab"}}
	return s
}

func TestGoodHistoryIsGood(t *testing.T) {
	s := good()
	if found := s.Check(s.ledger); len(found) != 0 {
		t.Error(history.Report(found))
	}
}

// drop takes an entry out as if another had been ordered in its place.
func drop(s *story, i int) {
	s.ledger[i].Kind, s.ledger[i].Body = "users", []byte(`{}`)
}

func TestEachBrokenPromiseIsNoticed(t *testing.T) {
	for _, c := range []struct {
		name, rule string
		says       string
		spoil      func(s *story)
	}{
		{"an acknowledged change is lost", "missing", "tk-2-ann by ann; 0.300s to a at 0.400s: acknowledged as entry 4; entry 4 of epoch 1 holds users of c-1", func(s *story) { drop(s, second) }},
		{"the ledger ends before an acknowledged change", "missing", "the ledger ends with entry 5", func(s *story) {
			s.ledger = s.ledger[:third]
			s.Reads, s.Finals = nil, nil
		}},
		{"a change is there twice", "twice", "entry 3 of epoch 1 and entry 7 of epoch 2 both have it", func(s *story) {
			s.label(2, "c-1", 4, "tk-1-ann", "").RequestID = ""
		}},
		{"a number of a stream comes twice", "twice", "number 3 of stream STREAM_PROPOSE of c-1 comes again in entry 7", func(s *story) {
			s.label(2, "c-1", 3, "tk-3-ann", "tk-1-ann")
		}},
		{"a stream has a gap", "ledger", "in entry 7 of epoch 2 follows number 3", func(s *story) { s.label(2, "c-1", 5, "tk-5-ann", "") }},
		{"a refused change is applied", "refused", "entry 7 of epoch 2 has it: label tk-4-ann", func(s *story) { s.label(2, "c-1", 4, "tk-4-ann", "") }},
		{"an acknowledgement names another entry", "answer", "entry 4 of epoch 1 has it", func(s *story) { s.Ops[1].Tries[0].Index = 3 }},
		{"later changes are ordered first", "order", "entry 3 of epoch 1: label tk-1-ann", func(s *story) {
			s.Ops[0].Tries[0].Begin, s.Ops[0].Tries[0].End = at(410), at(420)
			s.Reads = nil
		}},
		{"an old master acknowledges after a new one", "masters", "although it began after this was acknowledged as entry 6 of epoch 2", func(s *story) {
			s.Ops[1].Tries[0].Begin, s.Ops[1].Tries[0].End = at(850), at(870)
			s.Reads = nil
		}},
		{"two nodes lead one epoch", "masters", "epoch 2 was led by b-1 (0.520s to 0.900s) and by a-1 (0.600s to 0.700s)", func(s *story) {
			s.Reigns = append(s.Reigns, history.Reign{Node: "a-1", Epoch: 2, From: at(600), To: at(700)})
		}},
		{"another leads an epoch than who began it", "masters", "entry 5 of epoch 2 was begun by b-1, and a-1 led it", func(s *story) { s.Reigns[1].Node = "a-1" }},
		{"a read lacks what its index has", "stale", "standing at 4 to 4 does not show tk-1-ann of entry 3", func(s *story) { s.Reads[2].Labels = []string{"tk-2-ann"} }},
		{"a read shows what was taken away", "stale", "shows tk-1-ann, which was taken away before entry 6", func(s *story) {
			s.Reads[3].Labels = append(s.Reads[3].Labels, "tk-1-ann")
		}},
		{"a read shows what never stood together", "stale", "never stood together", func(s *story) {
			s.Reads[3].AtLeast, s.Reads[3].Before, s.Reads[3].Labels = 0, 3, []string{"tk-1-ann", "tk-3-ann"}
		}},
		{"a fresh read lacks what was acknowledged", "stale", "was promised to be fresh, and this was acknowledged before as entry 4", func(s *story) {
			s.Reads[2].Before, s.Reads[2].After, s.Reads[2].Labels = 3, 3, []string{"tk-1-ann"}
		}},
		{"a fresh read of a node that is up to date lacks it all the same", "stale", "does not show tk-1-ann of entry 3", func(s *story) {
			s.Reads[2].Before, s.Reads[2].Labels = 2, nil
		}},
		{"a read is older than was asked for", "stale", "was promised entry 6", func(s *story) {
			s.Reads[3].Before, s.Reads[3].After, s.Reads[3].Labels = 4, 4, []string{"tk-1-ann", "tk-2-ann"}
		}},
		{"a read shows what is not there yet", "phantom", "shows tk-3-ann, which is not in the ledger up to entry 4", func(s *story) {
			s.Reads[2].Labels = append(s.Reads[2].Labels, "tk-3-ann")
		}},
		{"a read shows what never was", "phantom", "shows tk-9-zoe", func(s *story) { s.Reads[2].Labels = append(s.Reads[2].Labels, "tk-9-zoe") }},
		{"a read shows a client that never was", "phantom", "the ledger has no such client", func(s *story) { s.Reads[0].Client = "C.00000000000000b2" }},
		{"the ledger has a change of nobody", "phantom", "a change that nobody asked for: tk-9-zoe", func(s *story) { s.label(2, "c-1", 4, "tk-9-zoe", "") }},
		{"the ledger's beginning is gone", "ledger", "what came before was not kept", func(s *story) {
			s.ledger = s.ledger[2:]
			s.Reads = nil
		}},
		{"an entry is gone", "ledger", "entry 5 of epoch 2 of", func(s *story) { s.ledger = append(s.ledger[:second], s.ledger[epochTwo:]...) }},
		{"epochs go back", "ledger", "entry 6 of epoch 1", func(s *story) { s.ledger[third].Epoch = 1 }},
		{"nodes differ", "digest", "at entry 6 c-1 has digest cd and", func(s *story) { s.Finals[2].Digest = "cd" }},
		{"a node stays behind", "digest", "c-1 stands at entry 4 in the end, a-2 at 6", func(s *story) { s.Finals[2].Index = 4 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := good()
			c.spoil(s)
			found := s.Check(s.ledger)
			for _, v := range found {
				if v.Rule == c.rule && strings.Contains(v.Text, c.says) {
					return
				}
			}
			t.Errorf("no violation of %s that says %q in:\n%s", c.rule, c.says, history.Report(found))
		})
	}
}

// What repeats a request id is in the ledger, but changes nothing.
func TestRepeatedRequestIsAppliedOnce(t *testing.T) {
	s := good()
	s.label(2, "b-1", 1, "tk-1-ann", "")
	s.read(950, 960, 7, 7, "tk-2-ann", "tk-3-ann")
	for i := range s.Finals {
		s.Finals[i].Index = 7
	}
	if found := s.Check(s.ledger); len(found) != 0 {
		t.Error(history.Report(found))
	}
	s.ledger[6].Time = s.ledger[6].Time.Add(24 * time.Hour) // nobody remembers it any more
	if found := s.Check(s.ledger); len(found) == 0 {
		t.Error("a request that is repeated after a day changes something again")
	}
}

// A pack that breaks one promise a thousand times is told of in a few lines.
func TestReportsStayShort(t *testing.T) {
	s := good()
	for i := range 1000 {
		s.read(910+i, 911+i, 6, 6, "tk-9-zoe")
	}
	found := s.Check(s.ledger)
	if report := history.Report(found); len(found) != 11 || !strings.Contains(report, "violation phantom: and 990 more") {
		t.Error(report)
	}
}

func TestLedgerIsReadAsItIsPrinted(t *testing.T) {
	entries, err := history.ParseLedger(strings.NewReader(
		`{"index":7,"epoch":2,"time":"2026-01-02T03:04:05.000006Z","incarnation":"c-1","stream":"STREAM_OUTBOX","seq":9,` +
			`"kind":"flows","principal":"ann","request_id":"r","body":{"x":1},"chain":"00"}` + "\n"))
	if err != nil || len(entries) != 1 {
		t.Fatalf("%v, %v", entries, err)
	}
	e := entries[0]
	if e.Index != 7 || e.Epoch != 2 || e.Incarnation != "c-1" || e.Stream != "STREAM_OUTBOX" || e.Seq != 9 || e.Kind != "flows" ||
		e.Principal != "ann" || e.RequestID != "r" || string(e.Body) != `{"x":1}` || e.Time.Year() != 2026 {
		t.Errorf("%+v", e)
	}
	if _, err := history.ParseLedger(strings.NewReader("nonsense\n")); err == nil {
		t.Error("nonsense was read as an entry")
	}
}
