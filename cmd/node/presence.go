package node

import (
	"context"
	"slices"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/notifier"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
)

// presenceAtOnce bounds the clients of one message: some 150 KiB.
const presenceAtOnce = 4000

// presence tells the other nodes which clients wait here and which event artifacts
// have new rows of this node, and takes the same from them. It is state, not a history: each listener has a set of clients to be
// told of, as they stand when it is told.
type presence struct {
	board   *notifier.Board
	clients *clients.Room
	heard   func(org ids.Org, event string) // rows of an event artifact lie at another node

	mu      sync.Mutex
	watches map[*presenceWatch]struct{}
}

func newPresence(board *notifier.Board, room *clients.Room, heard func(ids.Org, string)) *presence {
	return &presence{board: board, clients: room, heard: heard, watches: map[*presenceWatch]struct{}{}}
}

// run passes on who came and went until ctx ends.
func (p *presence) run(ctx context.Context) error {
	changed := p.board.Track()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
		changes := p.board.Changes()
		for _, w := range p.listeners() {
			w.note(changes)
		}
	}
}

func (p *presence) listeners() []*presenceWatch {
	p.mu.Lock()
	defer p.mu.Unlock()
	watches := make([]*presenceWatch, 0, len(p.watches))
	for w := range p.watches {
		watches = append(watches, w)
	}
	return watches
}

// grown notes that this node stored rows of an event artifact. Who begins to listen
// later is not told: it looks by itself.
func (p *presence) grown(org ids.Org, event string) {
	for _, w := range p.listeners() {
		w.grew(eventName{org, event})
	}
}

// eventName names the rows of an event artifact.
type eventName struct {
	org  ids.Org
	name string
}

// Watch implements replication.Soft: a new listener is told of everybody.
func (p *presence) Watch() replication.SoftWatch {
	w := &presenceWatch{p: p, changed: notifier.NewSignal(), dirty: map[notifier.Key]struct{}{}, events: map[eventName]struct{}{}}
	p.mu.Lock()
	p.watches[w] = struct{}{} // before looking, so that nobody is missed
	p.mu.Unlock()
	for key := range p.board.All() {
		w.mark(key)
	}
	return w
}

// Hear implements replication.Soft. What does not read as presence is a later
// version's word.
func (p *presence) Hear(incarnation string, message []byte) {
	var told buspb.Presence
	if proto.Unmarshal(message, &told) != nil {
		return
	}
	org, err := ids.ParseOrg(told.GetOrg())
	if err != nil {
		return
	}
	p.clients.RemoteOnline(incarnation, org, clientsOf(told.GetOnline()), clientsOf(told.GetOffline()))
	seen := make([]clients.Sighting, len(told.GetSeen()))
	for i, s := range told.GetSeen() {
		seen[i] = clients.Sighting{Client: ids.ClientOfNumber(s.GetClient()), At: time.UnixMilli(s.GetTime()), Address: s.GetAddress()}
	}
	p.clients.RemoteSeen(incarnation, org, seen)
	for _, event := range told.GetGrown() {
		p.heard(org, event)
	}
}

// Gone implements replication.Soft.
func (p *presence) Gone(incarnation string) { p.clients.RemoteGone(incarnation) }

func clientsOf(numbers []uint64) []ids.Client {
	out := make([]ids.Client, len(numbers))
	for i, n := range numbers {
		out[i] = ids.ClientOfNumber(n)
	}
	return out
}

// presenceWatch is what one listener has not been told yet.
type presenceWatch struct {
	p       *presence
	changed notifier.Signal

	mu     sync.Mutex
	dirty  map[notifier.Key]struct{}
	events map[eventName]struct{} // that grew; as many as there are event artifacts at most
}

func (w *presenceWatch) note(changes []notifier.Change) {
	w.mu.Lock()
	for _, c := range changes {
		w.dirty[c.Key] = struct{}{}
	}
	w.mu.Unlock()
	w.changed.Ring()
}

func (w *presenceWatch) mark(key notifier.Key) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.dirty[key] = struct{}{}
}

func (w *presenceWatch) grew(event eventName) {
	w.mu.Lock()
	w.events[event] = struct{}{}
	w.mu.Unlock()
	w.changed.Ring()
}

// Changed implements replication.SoftWatch.
func (w *presenceWatch) Changed() <-chan struct{} { return w.changed }

// Take implements replication.SoftWatch.
func (w *presenceWatch) Take() [][]byte {
	w.mu.Lock()
	dirty, events := w.dirty, w.events
	w.dirty, w.events = map[notifier.Key]struct{}{}, map[eventName]struct{}{}
	w.mu.Unlock()
	byOrg := map[ids.Org][]ids.Client{}
	for key := range dirty {
		byOrg[key.Org] = append(byOrg[key.Org], key.Client)
	}
	var messages [][]byte
	for org, all := range byOrg {
		for some := range slices.Chunk(all, presenceAtOnce) {
			messages = append(messages, w.p.message(org, some))
		}
	}
	return append(messages, growth(events)...)
}

// growth tells of event artifacts, each org's by itself.
func growth(events map[eventName]struct{}) [][]byte {
	byOrg := map[ids.Org]*buspb.Presence{}
	for event := range events {
		if byOrg[event.org] == nil {
			byOrg[event.org] = &buspb.Presence{Org: event.org.String()}
		}
		byOrg[event.org].Grown = append(byOrg[event.org].Grown, event.name)
	}
	var messages [][]byte
	for _, told := range byOrg {
		raw, _ := proto.Marshal(told) // names that this program checked always encode
		messages = append(messages, raw)
	}
	return messages
}

// message tells how things stand with some clients of one org.
func (p *presence) message(org ids.Org, some []ids.Client) []byte {
	told := &buspb.Presence{Org: org.String()}
	for _, client := range some {
		n, ok := client.Number()
		if !ok {
			continue
		}
		if p.board.Connected(org, client) {
			told.Online = append(told.Online, n)
		} else {
			told.Offline = append(told.Offline, n)
		}
		if seen := p.clients.Seen(org, client); !seen.At.IsZero() {
			told.Seen = append(told.Seen, &buspb.Sighting{Client: n, Time: seen.At.UnixMilli(), Address: seen.Address})
		}
	}
	// Numbers and addresses that this program made always encode.
	raw, _ := proto.Marshal(told)
	return raw
}

// Close implements replication.SoftWatch.
func (w *presenceWatch) Close() {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	delete(w.p.watches, w)
}
