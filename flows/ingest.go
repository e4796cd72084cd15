package flows

import (
	"context"
	"fmt"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
)

// reservation is a batch that this packet makes durable.
type reservation struct {
	stream *stream
	batch  batch
	item   *item
}

// upEnd is an upload that this packet ends.
type upEnd struct {
	reservation
	about  *aboutUpload
	up     *upload
	stored int64 // bytes, once it has its name
}

// Ingest takes what one client sent. It returns nil when everything is durable
// that the messages caused: rows, logs, uploads, and the facts about them. After
// an error nothing is acknowledged and the client sends the same again; what was
// stored meanwhile is recognised then. Messages that can never be processed are
// dead letters and are no error. The messages are given away.
func (r *Room) Ingest(ctx context.Context, peer Peer, messages []*wirepb.VeloMessage) error {
	start := time.Now()
	err := r.ingest(ctx, peer, messages)
	r.metrics.ingest(time.Since(start), err)
	if err != nil {
		return fmt.Errorf("take in from %s: %w: %w", peer.Client, ErrTryAgain, err)
	}
	return nil
}

func (r *Room) ingest(ctx context.Context, peer Peer, messages []*wirepb.VeloMessage) error {
	release, err := r.inflate.reserve(ctx, declaredBytes(messages))
	if err != nil {
		return err
	}
	defer release()
	p := r.packet(peer)
	for _, m := range messages {
		p.take(m)
	}
	return p.store(ctx)
}

// store makes the packet durable: data and facts in one commit, or, when an
// upload ends, data first, then the uploads' names, then list and facts.
func (p *packet) store(ctx context.Context) error {
	flight := &flight{done: make(chan struct{})}
	commit, err := p.reserve(ctx, flight)
	if err != nil {
		return err
	}
	defer close(flight.done)
	for _, flow := range p.gripes {
		p.room.complain(p, flow, "a batch came again with other bytes")
	}
	ends := false
	for _, part := range p.parts {
		ends = ends || len(part.ends) > 0
	}
	err = p.submit(ctx, commit)
	p.settle(err == nil)
	if err == nil && ends {
		return p.finish(ctx)
	}
	p.settleEnds(err == nil)
	return err
}

func (p *packet) submit(ctx context.Context, c *filestore.Commit) error {
	if len(c.Appends)+len(c.Uploads)+len(c.Facts) == 0 {
		return nil
	}
	return p.room.o.Committer.Submit(ctx, c)
}

// reserve decides, for the whole packet at once, what of it is new. A batch that
// another packet carries right now is waited for first; nothing is held
// meanwhile, so no two packets can wait for each other.
func (p *packet) reserve(ctx context.Context, mine *flight) (*filestore.Commit, error) {
	for {
		p.shard.mu.Lock()
		other := p.clash()
		if other == nil {
			break
		}
		p.shard.mu.Unlock()
		p.room.metrics.waits.Inc()
		select {
		case <-other.done:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	defer p.shard.mu.Unlock()
	commit := &filestore.Commit{Class: filestore.Bulk}
	ends := false
	for _, part := range p.parts {
		if part.f == nil || part.dropped {
			continue
		}
		if part.f.Spec.Hunt.IsZero() {
			commit.Class = filestore.Interactive
		}
		l := p.shard.localOf(part.key, p.peer.Received)
		p.reserveAbout(part, l)
		for i := range part.items {
			p.reserveItem(part, l, &part.items[i], mine, commit)
		}
		ends = ends || len(part.ends) > 0
	}
	p.reserveEvents(commit, mine)
	p.burials(commit)
	if !ends {
		commit.Facts = p.allFacts()
	}
	return commit, nil
}

// reserveAbout keeps what a client says of uploads to come, within bounds: an
// upload without it is listed without the file's own times.
func (p *packet) reserveAbout(part *part, l *local) {
	for _, a := range part.about {
		if l.ends.have.Has(a.number, a.number+1) || p.tooMany(part, l, a.number) != "" {
			continue
		}
		known := l.uploads[a.number]
		if known != nil {
			l.forgetAbout(known)
		}
		if l.aboutBytes+a.bytes() <= maxAboutBytes {
			l.upload(a.number).about = a
			l.aboutBytes += a.bytes()
		}
	}
}

// clash finds another packet that carries the same batch. The lock is held.
func (p *packet) clash() *flight {
	for _, part := range p.parts {
		l := p.shard.locals[part.key]
		if l == nil {
			continue
		}
		for i := range part.items {
			if other := l.clash(&part.items[i]); other != nil {
				return other
			}
		}
	}
	for i := range p.events {
		if other := p.room.seen.flying(p.events[i].digest); other != nil {
			return other
		}
	}
	return nil
}

// clash finds another packet that carries the item, or bytes of the upload that
// it ends. It makes no notes: the item may yet be refused.
func (l *local) clash(i *item) *flight {
	var s *stream
	switch i.kind {
	case rowItem:
		s = l.names[i.name]
	case logItem:
		s = &l.logs
	case dataItem:
		if u := l.uploads[i.number]; u != nil {
			s = &u.writes
		}
	case endItem:
		s = &l.ends
		if u := l.uploads[i.number]; u != nil {
			for _, other := range u.writes.flying {
				return other
			}
		}
	}
	if s == nil {
		return nil
	}
	for other, f := range s.flying {
		if other.first == i.batch.first && other.count == i.batch.count {
			return f
		}
	}
	return nil
}

// of is the stream an item belongs to.
func (l *local) of(i *item) *stream {
	switch i.kind {
	case logItem:
		return &l.logs
	case dataItem:
		return &l.upload(i.number).writes
	case endItem:
		return &l.ends
	default:
		return l.stream(i.name)
	}
}

// reserveItem puts an item into the commit unless it is had, late or too much.
func (p *packet) reserveItem(part *part, l *local, i *item, mine *flight, commit *filestore.Commit) {
	m := p.room.metrics
	if p.late(part, l, i) {
		m.late.Inc()
		return
	}
	if i.kind == endItem && (part.limit != "" || slices.Contains(part.broken, i.number)) {
		return // bytes of it may be refused in this very packet: it would wait for them in vain
	}
	if i.kind == dataItem || i.kind == endItem {
		if text := p.tooMany(part, l, i.number); text != "" {
			p.refuse(part, i, text)
			return
		}
	}
	s := l.of(i)
	switch v := s.judge(i.batch); {
	case v == had, v == conflict && i.kind == endItem:
		m.duplicates.Inc()
		return
	case v == conflict && i.kind != dataItem:
		m.conflicts.Inc()
		if l.conflicts >= maxConflicts {
			m.duplicates.Inc()
			return
		}
		l.conflicts++
		l.version++
		p.gripes = append(p.gripes, part.key.Flow.String())
	}
	if text := p.over(part, l, s, i); text != "" {
		p.refuse(part, i, text)
		return
	}
	l.charge(i, 1)
	s.reserve(i.batch, mine)
	held := reservation{s, i.batch, i}
	if i.kind == endItem {
		u := l.upload(i.number)
		part.ends = append(part.ends, upEnd{reservation: held, about: u.about, up: u})
		return
	}
	part.held = append(part.held, held)
	if i.kind == dataItem {
		commit.Uploads = append(commit.Uploads, filestore.UploadWrite{Key: part.uploadKey(i.number), Offset: i.batch.first, Data: i.data})
		return
	}
	part.append(commit, i)
	if i.alert != nil {
		part.alerts = append(part.alerts, i.alert)
	}
}

// refuse leaves an item out because of a limit, which ends the flow unless it is
// that of its log.
func (p *packet) refuse(part *part, i *item, limit string) {
	p.room.metrics.overLimit.Inc()
	if i.kind != logItem && part.limit == "" {
		part.limit = limit
	}
}

func (p *part) uploadKey(number int64) filestore.UploadKey {
	return filestore.UploadKey{Org: p.key.Org, Client: p.key.Client, Flow: p.key.Flow, Number: number}
}

// grace is how long rows and logs of a flow that ended without being complete are
// still taken.
const grace = 24 * time.Hour

// late reports that a flow wants no more of this. Complete means that every row
// is here; of anything else that ended, stragglers are welcome for a while.
func (p *packet) late(part *part, l *local, i *item) bool {
	f := part.f
	if l.limited && i.kind != logItem || f.Outcome == buspb.FlowEnd_OUTCOME_LIMIT && i.kind != logItem {
		return true
	}
	old := !f.Ended.IsZero() && p.peer.Received.Sub(f.Ended) > grace
	switch f.State {
	case Completed:
		return i.kind != logItem || old
	case Errored, Cancelled, Incomplete:
		return old
	}
	return false
}

// beyond says that a limit would be broken: set by the flow, or the server's.
func beyond(have, more, set, std int64, noun string) string {
	limit := set
	if limit <= 0 {
		limit = std
	}
	if have+more <= limit {
		return ""
	}
	return "limit of " + plural(limit, noun) + " exceeded"
}

// tooMany says that an upload would be one more than the flow may have. It is
// asked before anything is noted of the upload.
func (p *packet) tooMany(part *part, l *local, number int64) string {
	if l.uploads[number] != nil {
		return ""
	}
	return beyond(int64(len(l.uploads)), 1, part.f.Spec.Limits.Uploads, p.room.o.Defaults.Uploads, "upload")
}

// over says which limit an item would break, if any. Limits hold per node.
func (p *packet) over(part *part, l *local, s *stream, i *item) string {
	set, std := part.f.Spec.Limits, p.room.o.Defaults
	switch i.kind {
	case rowItem:
		if len(s.have) >= maxIntervals {
			return "rows are too scattered"
		}
		if text := beyond(l.rows, i.batch.count, set.Rows, std.Rows, "row"); text != "" {
			return text
		}
		return beyond(l.rowBytes, i.size, set.RowBytes, std.RowBytes, "byte of rows")
	case logItem:
		if len(s.have) >= maxIntervals {
			return "log is too scattered"
		}
		// The client writes a line more to say that it fell silent.
		return beyond(l.logLines, i.batch.count-logSlack, set.Logs, std.Logs, "log line")
	case dataItem:
		if len(s.have) >= maxIntervals {
			return "upload is too scattered"
		}
		if text := beyond(i.batch.end(), 0, set.UploadBytes, std.UploadBytes, "byte of uploads"); text != "" {
			return text
		}
		i.size = i.batch.count - s.overlap(i.batch)
		return beyond(l.uploadBytes, i.size, set.UploadBytes, std.UploadBytes, "byte of uploads")
	case endItem:
		if len(s.have) >= maxIntervals {
			return "numbers of uploads are too scattered"
		}
	}
	return ""
}

// logSlack is how many log lines beyond the limit are taken.
const logSlack = 100

// overlap counts what of b is had already.
func (s *stream) overlap(b batch) int64 {
	return b.count - s.have.Missing(b.first, b.end()).Len()
}

// charge counts an item against the flow's limits; sign -1 gives it back.
func (l *local) charge(i *item, sign int64) {
	switch i.kind {
	case rowItem:
		l.rows += sign * i.batch.count
		l.rowBytes += sign * i.size
	case logItem:
		l.logLines += sign * i.batch.count
	case dataItem:
		l.uploadBytes += sign * i.size
	}
}

// settle ends the reservations of the first commit.
func (p *packet) settle(durable bool) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	for _, part := range p.parts {
		l := p.shard.locals[part.key]
		for _, h := range part.held {
			h.stream.settle(h.batch, durable)
			if l == nil {
				continue
			}
			if !durable {
				l.charge(h.item, -1)
				continue
			}
			if h.item.kind == rowItem {
				l.version++
			}
		}
		if durable {
			p.room.metrics.took(part.held)
		}
		part.held = nil
	}
	p.settleEvents(durable)
}

// settleEnds ends the packet: the uploads that it names, and its facts. Every
// reservation is settled here or in settle, whatever happened: one that stayed
// would be waited for by resends for ever.
func (p *packet) settleEnds(durable bool) {
	p.shard.mu.Lock()
	var followers []chan struct{}
	for _, part := range p.parts {
		l := p.shard.locals[part.key]
		for _, e := range part.ends {
			if durable {
				e.up.stored = e.stored
			}
			e.stream.settle(e.batch, durable)
			if durable && l != nil {
				l.version++
				l.forgetAbout(e.up)
			}
		}
		if l == nil || part.f == nil {
			continue
		}
		if durable {
			l.settleFacts(part, p.peer.Received)
		}
		if v := p.shard.visits[p.owner]; v != nil {
			v.heard(part, p.peer.Received)
		}
		followers = append(followers, p.shard.followers(part.key)...)
	}
	if durable && p.report != nil {
		p.shard.allowanceOf(p.owner, p.peer.Received).reports++
	}
	p.shard.mu.Unlock()
	signal(followers)
	if durable {
		p.after()
	}
}

func (l *local) settleFacts(part *part, now time.Time) {
	if len(part.facts) > 0 {
		l.taken = l.taken || part.taking
		if part.told > 0 {
			l.reported = max(l.reported, part.told)
		}
		if part.telling {
			l.told = now
		}
		if part.end != nil {
			l.endRank = max(l.endRank, rank(part.end.Outcome))
		}
		if part.limit != "" {
			l.limited, l.endRank = true, rank(buspb.FlowEnd_OUTCOME_LIMIT)
		}
	}
	if part.progress != nil {
		l.progress = part.progress
	}
}

// after is what follows once a packet is durable, with no lock held.
func (p *packet) after() {
	r := p.room
	for _, part := range p.parts {
		if part.f == nil || part.dropped {
			continue
		}
		if part.end != nil && part.end.Outcome == buspb.FlowEnd_OUTCOME_UNKNOWN && !part.taking && len(part.facts) == 0 {
			r.Unknown(part.key)
			if r.o.Lost != nil {
				r.o.Lost(part.key.Org, part.key.Client, part.key.Flow)
			}
		}
		if r.o.Alert != nil {
			for _, line := range part.alerts {
				r.o.Alert(part.key, "", line)
			}
		}
		r.oweIfEnded(part.key)
	}
}

// oweIfEnded notes that others have to learn what this node holds of a flow that
// has ended while data was on its way.
func (r *Room) oweIfEnded(key Key) {
	f, _ := r.lookup(key)
	s := r.shard(key.owner())
	s.mu.Lock()
	l := s.locals[key]
	owed := l != nil && l.version > l.reported && (l.endRank > 0 || f != nil && f.Outcome != 0)
	s.mu.Unlock()
	if owed {
		r.due.add(key)
	}
}
