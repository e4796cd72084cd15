package frontend

import (
	"context"
	"sync"
	"time"

	"raptorpack/notifier"
)

const (
	// awayFor is how long after its last connection what is kept for a client's next
	// one is let go. It comes back sooner after a fault of the network or a restart of
	// its proxy, and then many do at once.
	awayFor   = 5 * time.Minute
	awaySweep = time.Minute
)

// partings are the clients whose connections to this node ended.
type partings struct {
	begin time.Time

	mu   sync.Mutex
	last map[notifier.Key]time.Duration // since begin
}

func newPartings() *partings {
	return &partings{begin: time.Now(), last: make(map[notifier.Key]time.Duration)}
}

func (p *partings) note(peer Peer) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.last[notifier.Key{Org: peer.Org, Client: peer.Client}] = time.Since(p.begin)
}

// due takes the clients that are away for so long. Those that came back are not looked
// for any more.
func (p *partings) due(board *notifier.Board) []notifier.Key {
	p.mu.Lock()
	defer p.mu.Unlock()
	var due []notifier.Key
	now := time.Since(p.begin)
	for key, at := range p.last {
		switch {
		case board.Connected(key.Org, key.Client):
		case now-at < awayFor:
			continue
		default:
			due = append(due, key)
		}
		delete(p.last, key)
	}
	return due
}

// forgetAway lets go of the secrets of answers to clients that went away: most of a
// session's memory, remade with one private-key operation. That of what they sent
// stays, so that a replay is recognised. It works until ctx ends.
func (f *Frontend) forgetAway(ctx context.Context) {
	tick := time.NewTicker(awaySweep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, away := range f.partings.due(f.options.Board) {
			if key, err := f.options.Keys.Key(ctx, away.Org, away.Client); err == nil {
				f.sealer.Forget(key)
			} // a client without a key is deleted: the cache lets go of it in time
		}
	}
}
