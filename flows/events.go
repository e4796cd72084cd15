package flows

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"strconv"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// clientInfoName is the one name under which clients report about themselves
// without having been asked. It is never opaque.
const clientInfoName = "Server.Internal.ClientInfo"

const maxInfo = 64 << 10 // bytes of a self-report

// maxReports is how often a day one client may change its record through this
// node: each time is an entry of the ledger.
const maxReports = 100

// eventMemoryLife is how long an event batch is remembered.
const eventMemoryLife = 24 * time.Hour

// eventBatch is a batch of event rows, or of the log of event queries. Its rows
// have no numbers, so the batch is known by its digest.
type eventBatch struct {
	digest  filestore.Digest
	appends []filestore.Append
	name    string // result name of rows; "": the lines are a log
	alert   string // artifact, when the lines are an alert
	text    []byte
}

// takeEvent reads a message of the session that event queries share.
func (p *packet) takeEvent(m *wirepb.VeloMessage) {
	reason := "no payload that event queries have"
	switch {
	case m.VqlResponse.GetQuery().GetName() == clientInfoName && m.VqlResponse != nil:
		reason = p.takeInfo(m.VqlResponse)
	case m.VqlResponse != nil:
		reason = p.takeEventRows(m.VqlResponse)
	case m.LogMessage != nil:
		reason = p.takeEventLog(m.LogMessage)
	case m.FileBuffer != nil:
		// The bytes would fill the dead letters; their number restarts with each
		// table, so they cannot be told apart from a resend either.
		m.FileBuffer.Data = nil
		reason = "upload of an event query"
	case m.UploadTransaction != nil:
		reason = "upload of an event query"
	}
	if reason != "" {
		p.bury(m, reason)
	}
}

func (p *packet) takeInfo(r *wirepb.VQLResponse) string {
	text, reason := p.plainRows(r)
	if reason != "" {
		return reason
	}
	return p.info(text)
}

// SelfReport takes what an agent tells about its machine, a JSON object on one
// line, for callers that see it before Ingest does. It returns when what it
// changes is durable; one that cannot be taken is a dead letter.
func (r *Room) SelfReport(ctx context.Context, peer Peer, line []byte) error {
	p := r.packet(peer)
	if reason := p.info(line); reason != "" {
		p.letters = append(p.letters, letter{kind: "info", reason: reason, data: line})
		r.metrics.buried("other")
	}
	if err := p.store(ctx); err != nil {
		return fmt.Errorf("take self-report of %s: %w: %w", peer.Client, ErrTryAgain, err)
	}
	return nil
}

// info plans what a self-report changes.
func (p *packet) info(text []byte) string {
	if p.room.o.Info == nil {
		return "nobody takes self-reports"
	}
	chunks, rows, err := checkLines(text, nil, false)
	if err != nil || rows != 1 || len(text) > maxInfo {
		return "self-report is not one JSON object"
	}
	m, err := p.room.o.Info.PlanInfo(p.peer.Org, p.peer.Client, chunks[0].lines, p.peer.Received)
	if err != nil {
		return "self-report: " + err.Error()
	}
	if m != nil && p.shard.tooManyReports(p.owner, p.peer.Received) {
		return "self-report: more than " + plural(maxReports, "change") + " in a day"
	}
	p.report = m // of several in one packet the newest counts
	return ""
}

func (p *packet) takeEventRows(r *wirepb.VQLResponse) string {
	token := r.GetQuery().GetName()
	if token == "" {
		return "" // a statement without a name: its rows are nobody's
	}
	name, ok := p.room.eventName(p.owner, token)
	if !ok {
		return "event rows under a name that was not given"
	}
	text, reason := p.plainRows(r)
	if reason != "" || len(text) == 0 {
		return reason
	}
	batch, reason := p.eventBatch(eventLines{
		set: filestore.Events(p.peer.Org, name, p.peer.Received), kind: "rows", result: name, extent: name,
		stamp: r.Timestamp, text: text, claimed: r.TotalRows,
	})
	if reason == "" {
		batch.name = name
		p.events = append(p.events, batch)
	}
	return reason
}

func (p *packet) takeEventLog(m *wirepb.LogMessage) string {
	name, ok := p.room.eventName(p.owner, m.Artifact)
	if !ok {
		return "log of an event query that was not given"
	}
	if m.Jsonl == "" {
		return ""
	}
	text := []byte(m.Jsonl)
	batch, reason := p.eventBatch(eventLines{
		set: filestore.EventLogs(p.peer.Org, name, p.peer.Received), kind: logName, result: name, extent: logName,
		stamp: uint64(m.Id), text: text, claimed: m.NumberOfRows,
	})
	if reason != "" {
		return reason
	}
	if m.Level == "ALERT" {
		batch.alert, batch.text = name, text
	}
	p.events = append(p.events, batch)
	return ""
}

// eventLines are lines of event rows, or of the log of event queries.
type eventLines struct {
	set          filestore.Set
	kind, result string
	extent       string
	stamp        uint64 // the client's time of rows, the number of a log's first line
	text         []byte
	claimed      uint64 // lines, as the client counts
}

// digest is what a resend is known by. The set is not in it: a resend after
// midnight belongs to another day.
func (e *eventLines) digest(peer Peer) filestore.Digest {
	hash := sha256.New()
	for _, part := range []string{peer.Org.String(), peer.Client.String(), e.kind, e.result} {
		hash.Write([]byte(part))
		hash.Write([]byte{0})
	}
	hash.Write(binary.BigEndian.AppendUint64(nil, e.stamp))
	hash.Write(e.text)
	return filestore.Digest(hash.Sum(nil)[:16])
}

// eventBatch checks lines and puts the client and the server's time, in whole
// seconds, in front of each.
func (p *packet) eventBatch(e eventLines) (eventBatch, string) {
	splice := []byte(`"ClientId":"` + p.peer.Client.String() + `","_ts":` + strconv.FormatInt(p.peer.Received.Unix(), 10))
	chunks, rows, err := checkLines(e.text, splice, false)
	if err != nil {
		return eventBatch{}, "events: " + err.Error()
	}
	if uint64(rows) != e.claimed {
		return eventBatch{}, fmt.Sprintf("%d event rows where the client counts %d", rows, e.claimed)
	}
	b := eventBatch{digest: e.digest(p.peer)}
	first := int64(0)
	for _, c := range chunks {
		b.appends = append(b.appends, filestore.Append{Set: e.set, Lines: c.lines, Extent: filestore.Extent{
			Client: p.peer.Client, Name: e.extent, FirstRow: first, Rows: c.rows, Digest: b.digest,
		}})
		first += c.rows
	}
	return b, ""
}

// reserveEvents puts event batches into the commit that are not known yet.
func (p *packet) reserveEvents(to *filestore.Commit, mine *flight) {
	kept := p.events[:0]
	for _, b := range p.events {
		if !p.room.seen.reserve(b.digest, mine, p.peer.Received) {
			p.room.metrics.duplicates.Inc()
			continue
		}
		kept = append(kept, b)
		to.Appends = append(to.Appends, b.appends...)
	}
	p.events = kept
}

// settleEvents ends the reservations.
func (p *packet) settleEvents(durable bool) {
	for _, b := range p.events {
		p.room.seen.settle(b.digest, durable)
		if !durable {
			continue
		}
		p.room.metrics.events.Inc()
		if b.name != "" {
			p.room.StoredEvents(p.peer.Org, b.name)
		}
		if b.alert != "" && p.room.o.Alert != nil {
			p.room.o.Alert(Key{p.peer.Org, p.peer.Client, ids.Monitoring}, b.alert, b.text)
		}
	}
}

// eventMemory remembers which event batches this node has, within bounds: of
// very many only the newest are known, and a resend of an older one is told
// apart by readers.
type eventMemory struct {
	limit int

	mu     sync.Mutex
	flight map[filestore.Digest]*flight
	known  map[filestore.Digest]struct{}
	queue  []seenEvent // oldest first, from head
	head   int
}

type seenEvent struct {
	digest filestore.Digest
	at     time.Time
}

func newEventMemory(limit int) *eventMemory {
	return &eventMemory{limit: limit, flight: map[filestore.Digest]*flight{}, known: map[filestore.Digest]struct{}{}}
}

func (e *eventMemory) flying(d filestore.Digest) *flight {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.flight[d]
}

// reserve reports whether the batch is new.
func (e *eventMemory) reserve(d filestore.Digest, f *flight, now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for e.head < len(e.queue) && (now.Sub(e.queue[e.head].at) > eventMemoryLife || len(e.queue)-e.head >= e.limit) {
		delete(e.known, e.queue[e.head].digest)
		e.head++
	}
	if e.head > 1024 && e.head > len(e.queue)/2 {
		e.queue = append([]seenEvent(nil), e.queue[e.head:]...)
		e.head = 0
	}
	if _, known := e.known[d]; known || e.flight[d] != nil {
		return false
	}
	e.flight[d] = f
	e.queue = append(e.queue, seenEvent{d, now})
	return true
}

func (e *eventMemory) settle(d filestore.Digest, durable bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.flight, d)
	if durable {
		e.known[d] = struct{}{}
	}
}
