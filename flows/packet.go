package flows

import (
	"encoding/json"
	"fmt"
	"hash/crc32"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// logName is the name of log extents.
const logName = "log"

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// Peer is the authenticated client that sent a packet. Received is this node's
// clock.
type Peer struct {
	Org      ids.Org
	Client   ids.Client
	Received time.Time
}

// packet is what one client packet comes to. Reading it touches nothing; what it
// may do is decided by reserve.
type packet struct {
	room  *Room
	peer  Peer
	owner owner
	shard *shard

	parts    []*part   // by flow, in the order of their first message
	question *question // that the newest message between answers
	events   []eventBatch
	heard    []answerPiece // to inquiries
	letters  []letter
	gripes   []string        // flows with conflicts, to be logged without a lock
	report   *buspb.Mutation // what the newest self-report changes
	inflated int64
}

// part is what a packet says about one flow.
type part struct {
	key      Key
	f        *Flow
	items    []item
	progress *Progress
	end      *buspb.FlowEnd
	lost     *buspb.FlowEnd // the client's answer that it does not know the flow
	alive    bool           // there is more than such an answer
	about    []*aboutUpload
	listing  []*upload // what is said of them is on its way to the list
	broken   []int64   // uploads of which a buffer can never be processed

	dropped bool  // nothing of it is kept: deleted flow
	telling bool  // it carries a fact about coverage alone
	taking  bool  // it carries the fact that the client took the task
	losing  bool  // it carries the answer, for other nodes
	wakes   bool  // a connection of this node waits for the answer
	told    int64 // version of the coverage that its facts speak of
	facts   []*buspb.FlowChange
	held    []reservation
	ends    []upEnd
	limit   string
	alerts  [][]byte // of what is new
}

// item is a piece of a numbered stream: rows, log lines, or bytes of an upload.
type item struct {
	kind   itemKind
	name   string // result name
	number int64  // of an upload
	batch  batch
	chunks []chunk
	data   []byte
	end    *uploadEnd
	size   int64  // plain bytes as sent
	alert  []byte // the lines, when they are an alert
}

type itemKind int

const (
	rowItem itemKind = iota
	logItem
	dataItem
	endItem
)

func (r *Room) packet(peer Peer) *packet {
	if peer.Received.IsZero() {
		peer.Received = time.Now()
	}
	o := owner{peer.Org, peer.Client}
	return &packet{room: r, peer: peer, owner: o, shard: r.shard(o)}
}

// take reads one message.
func (p *packet) take(m *wirepb.VeloMessage) {
	if m == nil {
		return
	}
	if m.ForemanCheckin != nil {
		p.room.CheckedIn(p.peer.Org, p.peer.Client, m.ForemanCheckin.LastEventTableVersion)
		return
	}
	if q, ok := parseQuestion(m.SessionId); ok && m.FlowStats != nil {
		p.answers(q)
		return
	}
	flow, err := ids.ParseFlow(m.SessionId)
	if err != nil {
		p.bury(m, "no such session")
		return
	}
	if flow == ids.Monitoring {
		p.takeEvent(m)
		return
	}
	if _, _, asked := flow.Question(); asked {
		p.takeAnswer(flow, m)
		return
	}
	part, reason := p.part(flow)
	if part == nil {
		p.bury(m, reason)
		return
	}
	if part.dropped {
		p.room.metrics.late.Inc()
		return
	}
	if reason := p.takeFlow(part, m); reason != "" {
		p.bury(m, reason)
	}
}

// part finds what was collected for a flow so far; nil says why there is none.
func (p *packet) part(flow ids.Flow) (*part, string) {
	for _, have := range p.parts {
		if have.key.Flow == flow {
			return have, ""
		}
	}
	key := Key{p.peer.Org, p.peer.Client, flow}
	f, deleted := p.room.lookup(key)
	if f == nil && !deleted {
		return nil, "flow was not given to this client"
	}
	one := &part{key: key, f: f, dropped: deleted}
	p.parts = append(p.parts, one)
	return one, ""
}

// takeFlow reads a message of a flow that was issued. The answer is why it can
// never be processed, if so.
func (p *packet) takeFlow(part *part, m *wirepb.VeloMessage) string {
	if s := m.FlowStats; s != nil && unknownFlow(s) {
		p.takeLost(part, s.QueryStatus[0].ErrorMessage)
		return ""
	}
	part.alive, part.lost = true, nil // what was said before is older than this
	switch {
	case m.VqlResponse != nil:
		return p.takeRows(part, m.VqlResponse)
	case m.LogMessage != nil:
		return p.takeLog(part, m.LogMessage)
	case m.FileBuffer != nil:
		reason := p.takeBuffer(part, m.FileBuffer)
		if reason != "" {
			part.broken = append(part.broken, m.FileBuffer.UploadNumber)
		}
		return reason
	case m.UploadTransaction != nil:
		return p.takeTransaction(part, m.UploadTransaction)
	case m.FlowStats != nil:
		p.takeStats(part, m.FlowStats)
		return ""
	}
	return "no payload that a flow has"
}

func (p *packet) takeRows(part *part, r *wirepb.VQLResponse) string {
	name, ok := "", true
	if token := r.GetQuery().GetName(); token != "" {
		name, ok = part.f.Spec.result(token)
	}
	if !ok {
		return "rows under a name that was not given"
	}
	text, reason := p.plainRows(r)
	if reason != "" || len(text) == 0 && r.TotalRows == 0 {
		return reason
	}
	chunks, rows, err := checkLines(text, part.splice(), part.key.Client == ids.Server)
	switch {
	case err != nil:
		return "rows: " + err.Error()
	case uint64(rows) != r.TotalRows:
		return fmt.Sprintf("%d rows where the client counts %d", rows, r.TotalRows)
	case r.QueryStartRow > filestore.MaxRow-r.TotalRows:
		return "row number out of range"
	}
	part.items = append(part.items, item{
		kind: rowItem, name: name, chunks: chunks, size: int64(len(text)),
		batch: batch{int64(r.QueryStartRow), rows, crc32.Checksum(text, castagnoli)},
	})
	return ""
}

// splice is what stands first in each line of a file that many clients share.
func (p *part) splice() []byte {
	if p.f.Spec.Hunt.IsZero() {
		return nil
	}
	return spliceOf(p.key.Client, p.key.Flow)
}

// plainRows gives the JSON lines of a response, inflated within bounds.
func (p *packet) plainRows(r *wirepb.VQLResponse) ([]byte, string) {
	if len(r.CompressedJsonResponse) == 0 {
		return []byte(r.JsonlResponse), ""
	}
	if r.JsonlResponse != "" {
		return nil, "rows both plain and compressed"
	}
	text, err := p.inflate(r.CompressedJsonResponse, r.UncompressedSize, maxInflated)
	if err != nil {
		return nil, "rows: " + err.Error()
	}
	return text, ""
}

func (p *packet) takeLog(part *part, m *wirepb.LogMessage) string {
	if m.Jsonl == "" {
		if m.ErrorMessage != "" {
			return "log message without lines"
		}
		return ""
	}
	text := part.named(m.Jsonl)
	chunks, rows, err := checkLines(text, part.splice(), part.key.Client == ids.Server)
	switch {
	case err != nil:
		return "log: " + err.Error()
	case uint64(rows) != m.NumberOfRows:
		return fmt.Sprintf("%d log lines where the client counts %d", rows, m.NumberOfRows)
	case m.Id < 0 || m.Id > filestore.MaxRow-rows:
		return "log number out of range"
	}
	one := item{
		kind: logItem, chunks: chunks, size: int64(len(text)),
		batch: batch{m.Id, rows, crc32.Checksum(text, castagnoli)},
	}
	if m.Level == "ALERT" {
		one.alert = text
	}
	part.items = append(part.items, one)
	return ""
}

// named puts the names of results back where a log has the opaque ones.
func (p *part) named(text string) []byte {
	for _, n := range p.f.Spec.Names {
		if n.Token != n.Result && n.Token != "" && strings.Contains(text, n.Token) {
			text = strings.ReplaceAll(text, n.Token, jsonInner(n.Result))
		}
	}
	return []byte(text)
}

// jsonInner is text as it stands between the quotes of a JSON string.
func jsonInner(text string) string {
	quoted, err := json.Marshal(text)
	if err != nil {
		return ""
	}
	return string(quoted[1 : len(quoted)-1])
}

// append turns a reserved item into what the store takes.
func (p *part) append(to *filestore.Commit, i *item) {
	if i.kind == rowItem && i.name == "" {
		return // rows of a statement without a name: counted, not kept
	}
	set, name := p.setOf(i)
	first := i.batch.first
	for _, c := range i.chunks {
		to.Appends = append(to.Appends, filestore.Append{
			Set: set, Lines: c.lines,
			Extent: filestore.Extent{
				Client: p.key.Client, Flow: p.key.Flow, Name: name, FirstRow: first, Rows: c.rows,
			},
		})
		first += c.rows
	}
}

func (p *part) setOf(i *item) (filestore.Set, string) {
	if i.kind == logItem {
		return p.f.logs(), logName
	}
	return p.f.results(i.name), i.name
}

// results is where the rows of one result lie.
func (f *Flow) results(name string) filestore.Set {
	if h := f.Spec.Hunt; !h.IsZero() {
		return filestore.HuntResults(f.Org, h, name)
	}
	return filestore.FlowResults(f.Org, f.Client, f.Flow, name)
}

func (f *Flow) logs() filestore.Set {
	if h := f.Spec.Hunt; !h.IsZero() {
		return filestore.HuntLogs(f.Org, h)
	}
	return filestore.FlowLogs(f.Org, f.Client, f.Flow)
}

// trimmed is a message without what must never be stored.
func trimmed(m *wirepb.VeloMessage) *wirepb.VeloMessage {
	if q := m.GetVqlResponse().GetQuery(); q != nil {
		q.Vql = ""
	}
	for _, q := range m.GetFlowStats().GetQueryStatus() {
		q.Backtrace = ""
	}
	if m.GetStatus() != nil {
		m.Status.Backtrace = ""
	}
	return m
}
