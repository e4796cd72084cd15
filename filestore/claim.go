package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sync"
	"time"
)

// claim is a name that this process took by linking a file to it, and the
// lease on it that heartbeats renew. Incarnations and mastership terms are
// both one.
//
// The lease lasts from the time *before* the last renewal that completed while
// it still lasted, plus TTL, by this machine's own clock. A watcher counts from
// *after* it first saw a record; so it never ends before the holder does.
type claim struct {
	store *Store
	kind  string // "incarnation" or "mastership", for metrics and log
	path  string
	ttl   time.Duration
	own   fs.FileInfo

	hurry  chan struct{} // one slot: renew now; one that is full says so already
	turn   chan struct{} // one slot: who filled it may touch the two fields below; others wait
	handle *Handle
	beat   Heartbeat // as last written or tried; Run never changes

	mu      sync.Mutex
	until   instant // zero: lost or given up
	problem error   // what the last renewal met
	life    uint64  // for the next record, as gossip is
	gossip  string
}

// instant is a moment by two clocks of this machine: the monotonic one, which
// may stop while the machine sleeps, and the time since boot, which does not.
type instant struct {
	mono time.Time
	boot time.Duration
}

func now() instant { return instant{time.Now(), bootTime()} }

func (i instant) add(d time.Duration) instant { return instant{i.mono.Add(d), i.boot + d} }

// before reports whether i comes before j by both clocks.
func (i instant) before(j instant) bool { return i.mono.Before(j.mono) && i.boot < j.boot }

// take claims name, or fails with ErrExists. Its lease begins before the link.
func (s *Store) take(ctx context.Context, kind, name, node string, ttl time.Duration) (*claim, error) {
	u := s.Urgent()
	beat := s.self.newHeartbeat(node, ttl)
	record, err := beat.Encode()
	if err != nil {
		return nil, err
	}
	temp, err := u.writeTemp(ctx, path.Dir(name), record)
	if err != nil {
		return nil, err
	}
	defer u.dropTemp(ctx, temp.path)
	defer temp.handle.discard(ctx)
	begin := now()
	if err := u.linkOwn(ctx, temp.path, name, temp.info); err != nil {
		return nil, err
	}
	if err := u.SyncDir(ctx, path.Dir(name)); err != nil {
		return nil, err // ours, but perhaps not for long: nobody renews it
	}
	c := &claim{store: u, kind: kind, path: name, ttl: ttl, own: temp.info, hurry: make(chan struct{}, 1), turn: make(chan struct{}, 1), beat: beat}
	// A descriptor under the final name: an NFS client would keep the temporary
	// one around for as long as it is open.
	if c.handle, err = c.reopen(ctx); err != nil {
		return nil, err
	}
	c.until = begin.add(ttl)
	s.metrics.leases.WithLabelValues(kind, "claimed").Inc()
	return c, nil
}

func (c *claim) reopen(ctx context.Context) (*Handle, error) {
	h, err := c.store.OpenWrite(ctx, c.path)
	if err != nil {
		return nil, err
	}
	info, err := h.Stat(ctx)
	if err == nil && !os.SameFile(info, c.own) {
		err = fmt.Errorf("%s is not the file that was claimed: %w", c.path, ErrLeaseLost)
	}
	if err != nil {
		h.discard(ctx)
		return nil, err
	}
	return h, nil
}

// valid reports whether the lease lasts at this moment. Once false, for ever,
// unless resume begins another.
func (c *claim) valid() bool {
	moment := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	return moment.before(c.until)
}

// remaining is how long the lease lasts without another renewal.
func (c *claim) remaining() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Until(c.until.mono)
}

// trouble tells why the lease was not renewed for more than half of its time,
// nil if it was.
func (c *claim) trouble() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	age := c.ttl - time.Until(c.until.mono)
	switch {
	case c.until == instant{}:
		return fmt.Errorf("%s: %w", c.path, ErrLeaseLost)
	case age <= c.ttl/2:
		return nil
	case c.problem != nil:
		return fmt.Errorf("%s was not renewed for %v: %w", c.path, age.Round(time.Second), c.problem)
	}
	return fmt.Errorf("%s was not renewed for %v: %w", c.path, age.Round(time.Second), errNoAnswer)
}

// errNoAnswer is a file call that has not returned yet.
var errNoAnswer = errors.New("no answer")

// note keeps what a renewal met.
func (c *claim) note(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.problem = err
}

// extend prolongs the lease from a moment, unless it ran out meanwhile.
func (c *claim) extend(from instant) bool {
	moment := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !moment.before(c.until) {
		c.until = instant{}
		return false
	}
	c.until = from.add(c.ttl)
	return true
}

// resume begins the lease of a new life: from a renewal that completed within the
// TTL since begin, which lies before everything that told others of the new life.
func (c *claim) resume(begin, renewal instant) bool {
	moment := now()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !moment.before(begin.add(c.ttl)) {
		return false
	}
	c.until, c.problem = renewal.add(c.ttl), nil
	return true
}

func (c *claim) nextLife() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life++
}

func (c *claim) currentLife() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.life
}

// advertise puts an address into the next record, which is written at once.
func (c *claim) advertise(gossip string) {
	c.mu.Lock()
	changed := c.gossip != gossip
	c.gossip = gossip
	c.mu.Unlock()
	if !changed {
		return
	}
	select {
	case c.hurry <- struct{}{}:
	default:
	}
}

func (c *claim) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until = instant{}
}

func (c *claim) lost(cause error) error {
	c.end()
	c.store.metrics.leases.WithLabelValues(c.kind, "lost").Inc()
	if cause == nil {
		return fmt.Errorf("%s %s: %w", c.kind, c.path, ErrLeaseLost)
	}
	return fmt.Errorf("%s %s: %w: %w", c.kind, c.path, ErrLeaseLost, cause)
}

// keep renews every quarter of the TTL until ctx ends (nil) or the lease is
// lost. After each renewal it asks check, whose ErrSealed or ErrLeaseLost ends
// the lease at once and whose other errors only leave the question open.
func (c *claim) keep(ctx context.Context, check func(context.Context) error) error {
	pause := c.ttl / 4
	for c.rest(ctx, min(pause, max(c.remaining(), 0))) {
		begin := time.Now()
		err := c.renew(ctx)
		if ctx.Err() != nil {
			break
		}
		c.note(err)
		if !c.valid() {
			return c.lost(err)
		}
		if err != nil {
			c.store.log.WarnContext(ctx, "lease renewal went wrong", "lease", c.kind, "path", c.path, "err", err)
			pause = c.ttl / 16
			continue
		}
		if err := c.ask(ctx, check); err != nil {
			return err
		}
		pause = c.ttl/4 - time.Since(begin)
	}
	return nil
}

// rest waits for d, or until there is something to tell, and reports whether ctx
// lasted as long.
func (c *claim) rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	case <-c.hurry:
	}
	return ctx.Err() == nil
}

func (c *claim) ask(ctx context.Context, check func(context.Context) error) error {
	limited, cancel := context.WithTimeout(ctx, c.ttl/4)
	defer cancel()
	err := check(limited)
	switch {
	case err == nil || ctx.Err() != nil:
		return nil
	case errors.Is(err, ErrSealed), errors.Is(err, ErrLeaseLost):
		c.end()
		c.store.metrics.leases.WithLabelValues(c.kind, "superseded").Inc()
		return fmt.Errorf("%s %s: %w", c.kind, c.path, err)
	}
	c.store.log.WarnContext(ctx, "lease not looked up", "lease", c.kind, "path", c.path, "err", err)
	return nil
}

// renew rewrites and syncs the record. It gives up when the lease has run out:
// what completes later does not count.
func (c *claim) renew(ctx context.Context) error {
	limited, cancel := context.WithTimeout(ctx, max(c.remaining(), 0))
	defer cancel()
	begin := now()
	if err := c.rewrite(limited, false); err != nil {
		return err
	}
	if !c.extend(begin) {
		return nil // valid says so
	}
	c.store.metrics.renewals.WithLabelValues(c.kind).Observe(time.Since(begin.mono).Seconds())
	return nil
}

// rewrite writes the next record in place and syncs it. A handle that went
// wrong is replaced first: the whole record is written anew, so nothing of
// what the old one may have lost is relied on.
func (c *claim) rewrite(ctx context.Context, released bool) error {
	select {
	case c.turn <- struct{}{}:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { <-c.turn }()
	if c.handle.Err() != nil {
		h, err := c.reopen(ctx)
		if err != nil {
			return err
		}
		c.handle.discard(ctx)
		c.handle = h
	}
	c.beat.Counter++
	c.beat.Released = released
	c.mu.Lock()
	c.beat.Life, c.beat.Gossip = c.life, c.gossip
	c.mu.Unlock()
	record, err := c.beat.Encode()
	if err != nil {
		return err
	}
	if _, err := c.handle.WriteAt(ctx, record, 0); err != nil {
		return err
	}
	return c.handle.Sync(ctx)
}

// release ends the lease, and then says so in the record, so that nobody has
// to wait for it to run out. Nothing that relied on the lease may still run.
func (c *claim) release(ctx context.Context) error {
	c.end()
	defer c.handle.discard(ctx)
	if err := c.rewrite(ctx, true); err != nil {
		return fmt.Errorf("release %s: %w", c.path, err)
	}
	c.store.metrics.leases.WithLabelValues(c.kind, "released").Inc()
	return nil
}
