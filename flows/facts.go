package flows

import (
	"context"
	"errors"
	"fmt"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

// allFacts is what the ledger has to learn of this packet: one mutation for all
// flows, besides what a self-report changes. Ends of flows of hunts leave their record
// in the commit. The lock is held.
func (p *packet) allFacts(commit *filestore.Commit) []*buspb.Mutation {
	var changes []*buspb.FlowChange
	for _, part := range p.parts {
		l := p.shard.locals[part.key]
		if l == nil || part.f == nil || part.dropped {
			continue
		}
		part.facts = part.factsOf(l, p.answerOf(part, l), p.room.o.Incarnation, p.peer.Received)
		changes = append(changes, part.facts...)
		commit.Appends = append(commit.Appends, part.records()...)
	}
	var facts []*buspb.Mutation
	if p.report != nil {
		facts = append(facts, p.report)
	}
	if len(changes) > 0 {
		m, err := mutation(p.peer.Org, "", changes...)
		if err != nil { // texts were made valid before: a mistake of ours
			p.room.log.Error("flow facts cannot be serialised", "client", p.peer.Client.String(), "err", err)
			return facts
		}
		facts = append(facts, m)
	}
	return facts
}

// factsOf says what is new about one flow. What came after its end and is not
// told yet waits for tellPause: Run tells it, unless a later packet does.
func (p *part) factsOf(l *local, lost *buspb.FlowEnd, incarnation string, now time.Time) []*buspb.FlowChange {
	known := max(l.endRank, rank(p.f.Outcome))
	out := p.endFacts(l, known, incarnation)
	p.taking = len(out) > 0
	if !p.taking && p.alive && p.f.Taken.IsZero() && !l.taken {
		p.taking = true
		out = append(out, &buspb.FlowChange{Change: &buspb.FlowChange_Taken{Taken: &buspb.FlowTaken{Key: p.key.proto()}}})
	}
	if p.losing = lost != nil; p.losing {
		if l.version+p.news() > 0 {
			lost.Coverage = p.coverage(l, incarnation)
		}
		out = append(out, &buspb.FlowChange{Change: &buspb.FlowChange_End{End: lost}})
	}
	if p.told == 0 && known > 0 && l.version+p.news() > l.reported && now.Sub(l.told) >= tellPause {
		p.telling = true
		out = append(out, &buspb.FlowChange{Change: &buspb.FlowChange_Coverage{Coverage: p.coverage(l, incarnation)}})
	}
	return out
}

// endFacts are a limit that the packet broke, and an end that is stronger than
// what is known.
func (p *part) endFacts(l *local, known int, incarnation string) []*buspb.FlowChange {
	var out []*buspb.FlowChange
	if p.limit != "" && known < rank(buspb.FlowEnd_OUTCOME_LIMIT) {
		end := &buspb.FlowEnd{
			Key: p.key.proto(), Outcome: buspb.FlowEnd_OUTCOME_LIMIT, Error: p.limit, Coverage: p.coverage(l, incarnation),
		}
		out = append(out, &buspb.FlowChange{Change: &buspb.FlowChange_End{End: end}})
	}
	if p.end != nil && (rank(p.end.Outcome) > known || p.f.CancelDue) {
		p.end.Coverage = p.coverage(l, incarnation)
		out = append(out, &buspb.FlowChange{Change: &buspb.FlowChange_End{End: p.end}})
	}
	return out
}

// coverage tells what this node holds once the packet is durable.
func (p *part) coverage(l *local, incarnation string) *buspb.FlowCoverage {
	p.told = l.version + p.news()
	c := l.coverage(p.key, incarnation, p.held)
	uploads := l.ends.have.Clone()
	for _, e := range p.ends {
		uploads.Add(e.batch.first, e.batch.end())
		c.UploadBytes += e.stored
		c.UploadSizes = append(c.UploadSizes, e.batch.first, e.stored)
	}
	c.Uploads = boundsOf(uploads)
	return c
}

// news counts how often the packet changes what is held.
func (p *part) news() int64 {
	n := int64(len(p.ends))
	for _, h := range p.held {
		if h.item.kind == rowItem {
			n++
		}
	}
	return n
}

// finish names the uploads that end in this packet, lists them and tells the
// ledger. Their bytes are durable already.
func (p *packet) finish(ctx context.Context) error {
	commit := &filestore.Commit{Class: filestore.Interactive}
	if err := p.finishUploads(ctx, commit); err != nil {
		p.settleEnds(false)
		return err
	}
	p.shard.mu.Lock()
	p.burials(commit)
	commit.Facts = p.allFacts(commit)
	p.shard.mu.Unlock()
	err := p.submit(ctx, commit)
	p.settleEnds(err == nil)
	return err
}

func (p *packet) finishUploads(ctx context.Context, commit *filestore.Commit) error {
	for _, part := range p.parts {
		kept := part.ends[:0]
		for _, e := range part.ends {
			row, stored, err := p.finishUpload(ctx, part, &e)
			if errors.Is(err, errGivenUp) {
				p.giveUpUpload(part, &e, err)
				continue
			}
			if err != nil {
				return err
			}
			e.stored = stored
			kept = append(kept, e)
			commit.Appends = append(commit.Appends, row)
		}
		part.ends = kept
	}
	return nil
}

// errGivenUp means that an upload cannot be stored: it ended long ago and its bytes
// never came, or what the client says of it makes no sense.
var errGivenUp = errors.New("upload cannot be stored")

func (p *packet) finishUpload(ctx context.Context, part *part, e *upEnd) (filestore.Append, int64, error) {
	end := e.item.end
	stored, err := p.room.o.Committer.FinishUpload(ctx, filestore.UploadFinish{
		Key: part.uploadKey(end.number), Accessor: end.accessor, Components: end.components,
		Size: end.size, StoredSize: end.stored, Index: end.index, Whole: part.whole(end),
	})
	if err != nil {
		if p.patient(e, err) {
			return filestore.Append{}, 0, fmt.Errorf("finish upload %d of %s: %w", end.number, part.key.Flow, err)
		}
		return filestore.Append{}, 0, fmt.Errorf("%w: %w", errGivenUp, err)
	}
	row, err := end.row(part, e.about, stored, p.peer.Received)
	return row, stored.StoredSize, err
}

// whole reports whether all bytes of an upload came in this packet.
func (p *part) whole(end *uploadEnd) bool {
	var have filestore.Intervals
	for i := range p.items {
		if item := &p.items[i]; item.kind == dataItem && item.number == end.number {
			have.Add(item.batch.first, item.batch.end())
		}
	}
	return have.Has(0, end.stored)
}

// patient reports whether an upload that cannot be finished may be finished
// later. Bytes may be on their way through another node, but a client that never
// sends them must not send its last buffer for ever.
func (p *packet) patient(e *upEnd, err error) bool {
	if errors.Is(err, filestore.ErrBadIndex) || errors.Is(err, filestore.ErrBadAppend) || errors.Is(err, filestore.ErrBadName) {
		return false
	}
	if !errors.Is(err, filestore.ErrIncomplete) {
		return true
	}
	p.shard.mu.Lock()
	defer p.shard.mu.Unlock()
	if e.up.failing.IsZero() {
		e.up.failing = p.peer.Received
	}
	return p.peer.Received.Sub(e.up.failing) < finishPatience
}

// giveUpUpload buries the end of an upload; its flow will miss it.
func (p *packet) giveUpUpload(part *part, e *upEnd, err error) {
	p.shard.mu.Lock()
	e.stream.settle(e.batch, false)
	p.shard.mu.Unlock()
	reason := fmt.Sprintf("upload %d ended but bytes are missing", e.item.end.number)
	if !errors.Is(err, filestore.ErrIncomplete) {
		reason = fmt.Sprintf("upload %d ended but cannot be stored", e.item.end.number)
	}
	p.letters = append(p.letters, letter{flow: part.key.Flow.String(), reason: shorten(reason+": "+err.Error(), maxErrorText)})
	p.room.complain(p, part.key.Flow.String(), reason)
}
