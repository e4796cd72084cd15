package flows

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/proto/wirepb"
)

const (
	// letterBytes is how much of a message one line of the dead letters holds;
	// longer ones take several lines.
	letterBytes = 512 << 10

	// letterAllowance is how many bytes of one client are kept per day and
	// node. Beyond, dead letters are only counted.
	letterAllowance = 64 << 20

	maxComplaints = 4096 // per shard, before it forgets what it told
)

// letter is something that can never be processed.
type letter struct {
	flow, kind, reason string
	data               []byte
}

// letterLine is a line of the dead letters.
type letterLine struct {
	Time   string `json:"time"` // RFC 3339, the node's clock
	Client string `json:"client"`
	Flow   string `json:"flow,omitempty"` // session as the client named it
	Kind   string `json:"kind,omitempty"`
	Reason string `json:"reason"`
	Size   int    `json:"size"`              // bytes of the whole message
	Part   int    `json:"part,omitempty"`    // from 0; longer messages take several lines
	Bytes  []byte `json:"message,omitempty"` // base64 of the serialised message
}

// allowance counts what a client wrote to the dead letters within a day, and how
// often it changed its record by a self-report.
type allowance struct {
	since   int64 // unix seconds
	bytes   int64
	reports int64
}

// complaint is what is logged once.
type complaint struct {
	owner  owner
	flow   string
	reason string
}

// bury makes a dead letter of a message.
func (p *packet) bury(m *wirepb.VeloMessage, reason string) {
	m = trimmed(m)
	flow := shorten(m.SessionId, 80)
	data, err := proto.Marshal(m)
	if err != nil {
		reason += "; it cannot be serialised either"
	}
	kind := kindOf(m)
	p.letters = append(p.letters, letter{flow, kind, reason, data})
	p.room.metrics.buried(kind)
	p.room.complain(p, flow, kind)
}

func kindOf(m *wirepb.VeloMessage) string {
	switch {
	case m.VqlResponse != nil:
		return "rows"
	case m.LogMessage != nil:
		return "log"
	case m.FileBuffer != nil, m.UploadTransaction != nil:
		return "upload"
	case m.FlowStats != nil:
		return "status"
	}
	return "other"
}

// complain logs the first of each kind of trouble per client and flow.
func (r *Room) complain(p *packet, flow, reason string) {
	c := complaint{p.owner, flow, reason}
	s := p.shard
	if !s.tell(c) {
		return
	}
	r.log.Warn("client sent what cannot be taken", "client", p.peer.Client.String(), "flow", flow, "kind", reason)
}

// tell counts a complaint and reports whether it is the first. It has a lock of
// its own because callers may hold the shard's.
func (s *shard) tell(c complaint) bool {
	s.tellMu.Lock()
	defer s.tellMu.Unlock()
	if len(s.told) >= maxComplaints {
		clear(s.told)
	}
	s.told[c]++
	return s.told[c] == 1
}

// burials adds the packet's dead letters to a commit. The lock is held.
func (p *packet) burials(to *filestore.Commit) {
	for _, l := range p.letters {
		if !p.shard.allow(p.owner, int64(len(l.data))+200, p.peer.Received) {
			p.room.metrics.unkept.Inc()
			continue
		}
		lines, err := p.letterAppends(l)
		if err != nil {
			p.room.log.Error("dead letter cannot be written down", "client", p.peer.Client.String(), "err", err)
			continue
		}
		to.Appends = append(to.Appends, lines...)
	}
	p.letters = nil
}

// allow charges a client's allowance.
func (s *shard) allow(o owner, bytes int64, now time.Time) bool {
	a := s.allowanceOf(o, now)
	if a.bytes+bytes > letterAllowance {
		return false
	}
	a.bytes += bytes
	s.allowances[o] = a
	return true
}

// allowanceOf finds a client's day, or what a new one begins with. The lock is held.
func (s *shard) allowanceOf(o owner, now time.Time) allowance {
	a, begun := s.allowances[o]
	if !begun || a.over(now) {
		return allowance{since: now.Unix()}
	}
	return a
}

// over reports whether the day has passed.
func (a allowance) over(now time.Time) bool { return now.Unix()-a.since >= 24*60*60 }

// reported counts a change of a client's record. The lock is held.
func (s *shard) reported(o owner, now time.Time) {
	a := s.allowanceOf(o, now)
	a.reports++
	s.allowances[o] = a
}

// tooManyReports reports whether a client has changed its record often enough.
func (s *shard) tooManyReports(o owner, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.allowanceOf(o, now).reports >= maxReports
}

// letterAppends are the lines of a letter, each a batch of its own.
func (p *packet) letterAppends(l letter) ([]filestore.Append, error) {
	var out []filestore.Append
	rest := l.data
	for part := 0; part == 0 || len(rest) > 0; part++ {
		n := min(len(rest), letterBytes)
		text, err := json.Marshal(letterLine{
			Time: p.peer.Received.UTC().Format(time.RFC3339Nano), Client: p.peer.Client.String(),
			Flow: l.flow, Kind: l.kind, Reason: l.reason, Size: len(l.data), Part: part, Bytes: rest[:n],
		})
		if err != nil {
			return nil, err
		}
		sum := sha256.Sum256(text)
		out = append(out, filestore.Append{
			Set: filestore.DeadLetters(p.peer.Org), Lines: append(text, '\n'),
			Extent: filestore.Extent{Client: p.peer.Client, Name: "deadletters", Rows: 1, Digest: filestore.Digest(sum[:16])},
		})
		rest = rest[n:]
	}
	return out, nil
}

// DeadLetter keeps what a client sent and nobody can process, such as a packet
// that does not decode. It returns when the letter is durable, or dropped
// because the client has used up its allowance.
func (r *Room) DeadLetter(ctx context.Context, peer Peer, reason string, data []byte) error {
	p := r.packet(peer)
	p.letters = []letter{{kind: "packet", reason: shorten(reason, maxErrorText), data: data}}
	r.metrics.buried("packet")
	r.complain(p, "", "packet")
	if err := p.store(ctx); err != nil {
		return fmt.Errorf("keep dead letter of %s: %w: %w", peer.Client, ErrTryAgain, err)
	}
	return nil
}
