package flows

import (
	"context"
	"fmt"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/ids"
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
	if r.o.Fresh != nil && p.unsure(messages) {
		if err := r.catchUp(ctx); err != nil {
			return err
		}
	}
	for _, m := range messages {
		p.take(m)
	}
	if err := p.store(ctx); err != nil {
		return err
	}
	r.hear(p)
	return nil
}

// unsure reports whether a message names what this node does not know, though
// another may have given it to the client: only then is it none of ours when this
// node has caught up.
func (p *packet) unsure(messages []*wirepb.VeloMessage) bool {
	return slices.ContainsFunc(messages, func(m *wirepb.VeloMessage) bool {
		flow, err := ids.ParseFlow(m.GetSessionId())
		if _, asked := parseQuestion(m.GetSessionId()); err != nil || asked {
			return false
		}
		if _, _, asked := flow.Question(); asked {
			return false
		}
		if flow == ids.Monitoring {
			return p.unsureEvent(m)
		}
		f, deleted := p.room.lookup(Key{p.peer.Org, p.peer.Client, flow})
		return f == nil && !deleted
	})
}

func (p *packet) unsureEvent(m *wirepb.VeloMessage) bool {
	token := m.GetVqlResponse().GetQuery().GetName()
	if m.LogMessage != nil {
		token = m.LogMessage.Artifact
	}
	if token == "" || token == clientInfoName {
		return false
	}
	_, ok := p.room.eventName(p.owner, token)
	return !ok
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
		p.look(part)
		if part.f == nil || part.dropped {
			continue
		}
		if part.f.Spec.Hunt.IsZero() {
			commit.Class = filestore.Interactive
		}
		l := p.shard.localOf(part.key, p.peer.Received)
		p.reserveAbout(part, l, commit)
		for i := range part.items {
			p.reserveItem(part, l, &part.items[i], mine, commit)
		}
		ends = ends || len(part.ends) > 0
	}
	p.reserveEvents(commit, mine)
	p.burials(commit)
	if !ends {
		commit.Facts = p.allFacts(commit)
	}
	return commit, nil
}

// look takes the newest record of a flow. A deletion that came since the messages
// were read drops them; one that comes later finds them reserved, and waits.
func (p *packet) look(part *part) {
	f, deleted := p.room.lookup(part.key)
	if f != nil {
		part.f = f
		return
	}
	if !part.dropped {
		p.room.metrics.late.Inc()
	}
	part.dropped = part.dropped || deleted || part.f != nil
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
	v := s.judge(i.batch)
	if i.kind == dataItem {
		v = s.judgeBytes(i.batch)
	}
	switch {
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

// settle ends the reservations of the first commit.
func (p *packet) settle(durable bool) {
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	for _, part := range p.parts {
		l := p.shard.locals[part.key]
		for _, h := range part.held {
			if durable && h.item.kind == dataItem {
				h.stream.overwrite(h.batch)
			}
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
		part.settleAbout(durable)
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
		p.shard.reported(p.owner, p.peer.Received)
	}
	p.shard.mu.Unlock()
	signal(followers)
	p.room.closing.look()
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
		if part.lost != nil && part.losing {
			l.answered = question{part.lost.Asked, part.lost.AskedBy}
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
		if part.wakes {
			r.offers.add(part.key)
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
