package replication

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/buspb"
)

// outcome is what became of an entry: its index, or that of the earlier entry
// which it repeats, and the refusal if a State said no.
type outcome struct {
	index uint64
	no    *refusal
}

// answer is what the proposer gets: nil or the refusal.
func (o outcome) answer() error {
	if o.no == nil {
		return nil
	}
	return o.no
}

// verdict is how an entry was taken.
type verdict byte

const (
	applied   verdict = iota // the State took it
	refused                  // the State said no
	repeated                 // an earlier entry had its request id
	misplaced                // it is not the next of its stream
)

var (
	verdictNames = [...]string{"applied", "refused", "repeated", "misplaced"}

	errMisplaced = errors.New("not the next of its stream")
)

// maxRefusalText bounds what request ids remember of a refusal.
const maxRefusalText = 4 << 10

// apply takes one entry that is committed and whose body is whole, and keeps its
// payload. It is called by one goroutine at a time, in the order of the ledger.
func (n *Node) apply(e *buspb.Entry, payload []byte, at place) (outcome, error) {
	v, out, err := n.admit(e, at)
	if err != nil {
		return out, err
	}
	if v == applied && e.Mutation.Kind == kindLevel {
		if err := n.takeLevel(e); err != nil {
			return out, err
		}
	}
	if v == applied {
		if cause := n.change(e); cause != nil {
			v, out.no = refused, shorten(cause)
		}
	}
	n.settle(e, payload, at, v, out)
	n.m.entries.WithLabelValues(verdictNames[v]).Inc()
	if v == misplaced {
		o, seq := originOf(e)
		n.log.Error("entry is not the next of its stream", "index", e.Index, "epoch", e.Epoch,
			"incarnation", o.incarnation, "stream", o.stream.String(), "seq", seq)
	}
	n.props.settled(e, out)
	return out, nil
}

// admit decides by the ledger's own memory whether a State sees e at all.
func (n *Node) admit(e *buspb.Entry, at place) (verdict, outcome, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if e.Index != n.at.index+1 {
		return misplaced, outcome{}, fmt.Errorf("apply entry %d after %d: %w", e.Index, n.at.index, ErrGap)
	}
	n.reached = e.Index
	n.memory.forget(at.time)
	if !n.memory.inSequence(e) {
		return misplaced, outcome{e.Index, shorten(errMisplaced)}, nil
	}
	if r := n.memory.earlier(e.Mutation.Principal, e.Mutation.RequestId); r != nil {
		return repeated, outcome{r.index, r.no}, nil
	}
	return applied, outcome{index: e.Index}, nil
}

// change lets the State, or the ledger itself, take e.
func (n *Node) change(e *buspb.Entry) error {
	switch kind := e.Mutation.Kind; kind {
	case kindEpoch, kindLevel:
		return nil
	case kindRetire:
		return n.retire(e)
	case kindCompare:
		n.compared.take(n, e.Index)
		return nil
	default:
		s := n.states[kind]
		if s == nil {
			n.log.Error("entry of unknown kind", "index", e.Index, "kind", kind)
			return ErrUnknownKind
		}
		return s.Apply(e)
	}
}

// takeLevel takes over another level of the ledger. A program that does not know it must
// not go on.
func (n *Node) takeLevel(e *buspb.Entry) error {
	level, err := levelOf(e)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := n.checkLevel(level); err != nil {
		return fmt.Errorf("apply entry %d: %w", e.Index, err)
	}
	n.memory.level = max(n.memory.level, level)
	return nil
}

func (n *Node) retire(e *buspb.Entry) error {
	var body buspb.OriginsRetired
	if err := proto.Unmarshal(e.Mutation.Body, &body); err != nil {
		return fmt.Errorf("retire origins: %w", ErrInvalid)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.memory.retire(body.Incarnations)
	return nil
}

// settle moves the node's position past e.
func (n *Node) settle(e *buspb.Entry, payload []byte, at place, v verdict, out outcome) {
	h := sha256.New()
	n.mu.Lock()
	defer n.mu.Unlock()
	if v != misplaced {
		n.memory.advance(e)
	}
	if v == applied || v == refused {
		n.memory.remember(e, out.no)
	}
	h.Write(n.digest[:])
	h.Write(at.chain[:])
	h.Write([]byte{byte(v)})
	if out.no != nil {
		h.Write([]byte(out.no.text))
	}
	h.Sum(n.digest[:0])
	n.at = at
	n.window.add(passed{payload, at, n.digest})
}

// shorten makes a refusal of a State's error: valid, bounded text that the
// snapshot keeps to the letter.
func shorten(cause error) *refusal {
	text := strings.ToValidUTF8(cause.Error(), "?")
	if len(text) > maxRefusalText {
		text = strings.ToValidUTF8(text[:maxRefusalText], "")
	}
	return &refusal{text: text, cause: cause}
}
