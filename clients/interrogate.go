package clients

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"sync"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// ErrUnfinished is what InterrogatorOptions.Read returns while the flow has no
// final state. Trying again helps once it has.
var ErrUnfinished = errors.New("interrogation is under way")

// Answers are what an interrogation brought.
type Answers struct {
	Basic []byte   // the row of BasicInformation; nil when there was none
	Users []string // names of the host's accounts
}

// InterrogatorOptions say what an Interrogator works with. All are required.
type InterrogatorOptions struct {
	Room *Room

	// Start asks clients about their hosts, all by one flow, and returns it when
	// the tasks are durable.
	Start func(ctx context.Context, org ids.Org, clients []ids.Client) (ids.Flow, error)

	// Read returns what came of an ended interrogation.
	Read func(ctx context.Context, org ids.Org, client ids.Client, flow ids.Flow) (*Answers, error)

	Propose func(ctx context.Context, m *buspb.Mutation) error
	Logger  *slog.Logger
}

const (
	interrogateAtOnce = 500             // clients of one entry
	interrogateRetry  = 5 * time.Second // after a failed entry or reading

	// A new client is asked when a reader connection of it is open somewhere. A task
	// that is older than the connection costs it a question and its answer first,
	// which are seconds for a client that reads once in a second. One that does not
	// come within interrogateAnyway is asked all the same.
	interrogateLook   = 50 * time.Millisecond
	interrogateAnyway = 10 * time.Second

	// interrogateReads is how often one answer is read that cannot be: a mount
	// that hangs comes back within these minutes. The next master tries again.
	interrogateReads = 100
)

// Interrogator asks each new client about its host and reads the answers. It runs
// where the master is; Enrolled and Ended may be called on every node and cost
// nothing while it does not run.
type Interrogator struct {
	o      InterrogatorOptions
	signal chan struct{} // one slot: something waits; a full slot says so already

	mu      sync.Mutex
	running bool
	ask     map[clientKey]time.Time // since when; zero: they have waited enough
	read    map[clientKey]ids.Flow
	later   map[clientKey]unread // what could not be read, until the next try
}

// unread is an answer that could not be read.
type unread struct {
	flow  ids.Flow
	tries int
}

// clientKey names a client among all.
type clientKey struct {
	org    ids.Org
	client ids.Client
}

// NewInterrogator makes an Interrogator that does nothing before Run.
func NewInterrogator(o InterrogatorOptions) *Interrogator {
	return &Interrogator{
		o: o, signal: make(chan struct{}, 1),
		ask: map[clientKey]time.Time{}, read: map[clientKey]ids.Flow{}, later: map[clientKey]unread{},
	}
}

// Enrolled says that a client is new.
func (i *Interrogator) Enrolled(org ids.Org, client ids.Client) {
	if i.o.Room.silent(org, client) {
		return // nobody will ever answer
	}
	now := time.Now()
	i.note(func() { i.ask[clientKey{org, client}] = now })
}

// Ended says that a flow has its final state. Only interrogations are of interest.
func (i *Interrogator) Ended(org ids.Org, client ids.Client, flow ids.Flow) {
	known, err := i.o.Room.look(org, client)
	if err != nil || known.inquired().asked != flow {
		return
	}
	i.note(func() { i.read[clientKey{org, client}] = flow })
}

func (i *Interrogator) note(do func()) {
	i.mu.Lock()
	running := i.running
	if running {
		do()
	}
	i.mu.Unlock()
	if running {
		i.wake()
	}
}

func (i *Interrogator) wake() {
	select {
	case i.signal <- struct{}{}:
	default:
	}
}

// Run works until ctx ends. It begins with what earlier masters left undone.
func (i *Interrogator) Run(ctx context.Context) error {
	i.begin()
	defer i.end()
	var again, look <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-again:
			again = nil
			i.retry()
		case <-look:
			look = nil
		case <-i.signal:
		}
		for ctx.Err() == nil {
			did, err := i.step(ctx)
			if err != nil && ctx.Err() == nil {
				i.o.Logger.Warn("interrogation stands back", "err", err)
				sleep(ctx, interrogateRetry)
			}
			if !did {
				break
			}
		}
		if again == nil && i.failing() {
			again = time.After(interrogateRetry)
		}
		if look == nil && i.expecting() {
			look = time.After(interrogateLook)
		}
	}
}

// expecting reports whether new clients are to be asked when they come.
func (i *Interrogator) expecting() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.ask) > 0
}

// failing reports whether answers wait for another try.
func (i *Interrogator) failing() bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return len(i.later) > 0
}

// retry puts what could not be read back to what is read.
func (i *Interrogator) retry() {
	i.mu.Lock()
	defer i.mu.Unlock()
	for key, u := range i.later {
		if i.read[key].IsZero() {
			i.read[key] = u.flow
		}
	}
}

// unreadable notes that an answer could not be read. It reports false when there
// is no use in another try.
func (i *Interrogator) unreadable(key clientKey, flow ids.Flow) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	u := i.later[key]
	if u.flow != flow {
		u = unread{flow: flow}
	}
	u.tries++
	i.later[key] = u
	if u.tries >= interrogateReads {
		delete(i.later, key)
	}
	return u.tries < interrogateReads
}

// readable forgets that an answer could not be read.
func (i *Interrogator) readable(key clientKey) {
	i.mu.Lock()
	defer i.mu.Unlock()
	delete(i.later, key)
}

func (i *Interrogator) begin() {
	i.mu.Lock()
	i.running = true
	i.mu.Unlock()
	now := time.Now()
	for _, org := range i.o.Room.Orgs() {
		i.o.Room.inquiries(org, func(client ids.Client, q *inquiry) {
			key := clientKey{org, client}
			if i.o.Room.silent(org, client) {
				return
			}
			i.note(func() {
				if q.asked.IsZero() {
					i.ask[key] = now
				} else {
					i.read[key] = q.asked
				}
			})
		})
	}
	i.wake()
}

// inquiries yields the clients of an org who were not asked yet or whose answer
// was not read.
func (r *Room) inquiries(org ids.Org, yield func(client ids.Client, q *inquiry)) {
	r.mu.RLock()
	t := r.orgs[org]
	r.mu.RUnlock()
	if t == nil {
		return
	}
	var p peek
	for ordinal, n := uint32(0), uint32(1); n > 0; ordinal += n {
		n = r.peekRow(&p, t, ordinal)
		for i := range n {
			c := &p.cells[i]
			if q := c.inquired(); c.text != "" && (q.asked.IsZero() || q.answered != q.asked) {
				yield(p.born[i].id.client(), q)
			}
		}
	}
}

func (i *Interrogator) end() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.running = false
	clear(i.ask)
	clear(i.read)
	clear(i.later)
}

// step takes one batch of either kind and reports whether more may wait.
func (i *Interrogator) step(ctx context.Context) (bool, error) {
	org, ask, read := i.take(i.ready(time.Now()))
	if len(ask) == 0 && len(read) == 0 {
		return false, nil
	}
	err := errors.Join(i.askAll(ctx, org, ask), i.readAll(ctx, org, read))
	if err != nil {
		i.note(func() {
			for _, client := range ask {
				i.ask[clientKey{org, client}] = time.Time{}
			}
			for client, flow := range read {
				i.read[clientKey{org, client}] = flow
			}
		})
	}
	return true, err
}

// ready lists the new clients who wait somewhere, or have been waited for long enough.
func (i *Interrogator) ready(now time.Time) []clientKey {
	i.mu.Lock()
	ask := maps.Clone(i.ask)
	i.mu.Unlock()
	var out []clientKey
	for key, since := range ask {
		if now.Sub(since) >= interrogateAnyway || i.o.Room.Seen(key.org, key.client).Online {
			out = append(out, key)
		}
	}
	return out
}

// take removes a batch of one org from what waits.
func (i *Interrogator) take(ready []clientKey) (org ids.Org, ask []ids.Client, read map[ids.Client]ids.Flow) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if len(ready) > 0 {
		org = ready[0].org
	} else {
		for key := range i.read {
			org = key.org
			break
		}
	}
	for _, key := range ready {
		if key.org == org && len(ask) < interrogateAtOnce {
			ask = append(ask, key.client)
			delete(i.ask, key)
		}
	}
	read = map[ids.Client]ids.Flow{}
	for key, flow := range i.read {
		if key.org == org && len(read) < interrogateAtOnce {
			read[key.client] = flow
			delete(i.read, key)
		}
	}
	return org, ask, read
}

func (i *Interrogator) askAll(ctx context.Context, org ids.Org, ask []ids.Client) error {
	var wanted []ids.Client
	for _, client := range ask {
		if known, err := i.o.Room.look(org, client); err == nil && known.inquired().asked.IsZero() {
			wanted = append(wanted, client)
		}
	}
	if len(wanted) == 0 {
		return nil
	}
	flow, err := i.o.Start(ctx, org, wanted)
	if err != nil {
		return fmt.Errorf("interrogate %d clients: %w", len(wanted), err)
	}
	m, err := i.o.Room.PlanInterrogated(org, wanted, flow)
	if err != nil {
		return err
	}
	if err := i.o.Propose(ctx, m); err != nil && !errors.Is(err, ErrUnknownClient) {
		return err
	}
	// An answer may have come before the record named its flow.
	for _, client := range wanted {
		i.note(func() { i.read[clientKey{org, client}] = flow })
	}
	return nil
}

func (i *Interrogator) readAll(ctx context.Context, org ids.Org, read map[ids.Client]ids.Flow) error {
	var changes []*buspb.ClientChange
	for client, flow := range read {
		key := clientKey{org, client}
		answers, err := i.o.Read(ctx, org, client, flow)
		if err != nil && !errors.Is(err, ErrUnfinished) {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if !i.unreadable(key, flow) {
				i.o.Logger.Warn("interrogation cannot be read", "client", client, "flow", flow, "err", err)
			}
			continue
		}
		i.readable(key)
		if err != nil {
			continue // Ended brings it back
		}
		info := &buspb.ClientInfo{Client: client.String(), Interrogation: flow.String()}
		if answers.Basic != nil {
			if info, err = readInfo(client, answers.Basic, flow, answers.Users); err != nil {
				i.o.Logger.Warn("client answered an interrogation with something else", "client", client, "flow", flow, "err", err)
				info = &buspb.ClientInfo{Client: client.String(), Interrogation: flow.String()}
			}
		}
		changes = append(changes, infoChange(info))
	}
	if len(changes) == 0 {
		return nil
	}
	m, err := mutation(org, changes...)
	if err != nil {
		return err
	}
	// A client that was deleted meanwhile needs no answer.
	if err := i.o.Propose(ctx, m); err != nil && !errors.Is(err, ErrUnknownClient) {
		return err
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
