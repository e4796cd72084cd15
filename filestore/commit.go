package filestore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/proto/buspb"
)

var (
	// ErrBusy means that more bytes wait to be committed than this node keeps in
	// memory. Nothing was taken; trying again later helps.
	ErrBusy = errors.New("commit queue is full")

	// ErrStopped means that the committer has ended or is ending. Nothing is
	// acknowledged any more; another node, or this one when it runs again, takes
	// the same data.
	ErrStopped = errors.New("committer has stopped")
)

// Class says how long a commit may wait for company.
type Class uint8

const (
	Interactive Class = iota // somebody waits: 2 ms at most
	Bulk                     // hunts and events: up to 250 ms, or half of it if it is large
	classes
)

// String returns the class as metrics name it.
func (c Class) String() string { return [...]string{"interactive", "bulk"}[c] }

// Append is a batch of rows for a set. Lines are whole JSON lines, each ended
// by "\n", as many as Extent.Rows; they are stored as they are.
type Append struct {
	Set    Set
	Extent Extent
	Lines  []byte
}

// Commit is what becomes durable together: first the rows and upload bytes,
// then the facts about them.
//
// It belongs to the committer until Submit returns nil. After an error a write
// may still be under way, so its buffers must not be used for anything else.
type Commit struct {
	Class   Class
	Appends []Append
	Uploads []UploadWrite
	Facts   []*buspb.Mutation // to the outbox, once all above is synced
}

// OutboxWriter takes facts over. When AppendSync returns nil they are durable,
// in their order. After an error some may be, and may come again.
type OutboxWriter interface {
	AppendSync(ctx context.Context, facts []*buspb.Mutation) error
}

// CommitterOptions sets up a Committer. Store, Incarnation, Valid and Outbox are
// required; zero for the others means the default named.
type CommitterOptions struct {
	Store       *Store
	Incarnation string      // "<node>-<n>": the owner of all files written here
	Valid       func() bool // whether this incarnation's lease still holds
	Outbox      OutboxWriter

	InteractiveWindow time.Duration // 2 ms
	BulkWindow        time.Duration // 250 ms
	RoundBytes        int64         // a round starts when so much waits: 8 MiB
	QueueBytes        int64         // Submit returns ErrBusy beyond: 128 MiB
	SegmentBytes      int64         // a longer segment gets a new part: 1 GiB
	OpenFiles         int           // segments kept open, and as many uploads: 512
	IdleClose         time.Duration // an unused file is closed: 30 s
	DrainTimeout      time.Duration // how long Run finishes what waits: 10 s

	Registerer prometheus.Registerer // nil: metrics are counted but not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Committer makes rows, uploads and facts durable, many at a time. It is the
// one writer of its incarnation's segments and uploads.
//
// Safe for concurrent use. Order is kept within one Submit; two that run at the
// same time may be stored in either order, which the identities of their rows
// make harmless.
type Committer struct {
	o        CommitterOptions
	store    *Store
	log      *slog.Logger
	metrics  *commitMetrics
	segments *fileCache[Set, *segment]
	uploads  *fileCache[UploadKey, *upload]
	lanes    [classes]*lane

	mu        sync.Mutex
	queued    int64 // bytes of tickets that no round has answered
	stopping  bool
	fullUntil time.Time // no writing before: the disk was full
	finishes  map[*finisher]context.CancelFunc
	running   sync.WaitGroup // of finishes
	stopped   chan struct{}  // closed when Run ends
	stopOnce  sync.Once
}

// fullPause is how long data is refused after the disk was found full, so that
// a full disk costs one write a second.
const fullPause = time.Second

// NewCommitter wires a committer; Run makes it work.
func NewCommitter(o CommitterOptions) (*Committer, error) {
	if o.Store == nil || o.Valid == nil || o.Outbox == nil {
		return nil, errors.New("committer needs store, lease and outbox")
	}
	if _, ok := parsePartName(o.Incarnation); !ok {
		return nil, fmt.Errorf("incarnation %.80q: %w", o.Incarnation, ErrBadName)
	}
	o.setDefaults()
	c := &Committer{
		o: o, store: o.Store, log: o.Logger, metrics: newCommitMetrics(o.Registerer),
		finishes: make(map[*finisher]context.CancelFunc), stopped: make(chan struct{}),
	}
	c.segments = newFileCache(o.OpenFiles, func(s Set) *segment { return &segment{set: s} })
	c.uploads = newFileCache(o.OpenFiles, func(k UploadKey) *upload { return &upload{key: k} })
	c.lanes[Interactive] = newLane(c, Interactive, o.InteractiveWindow)
	c.lanes[Bulk] = newLane(c, Bulk, o.BulkWindow)
	return c, nil
}

func (o *CommitterOptions) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	orDefault(&o.InteractiveWindow, 2*time.Millisecond)
	orDefault(&o.BulkWindow, 250*time.Millisecond)
	orDefault(&o.RoundBytes, 8<<20)
	orDefault(&o.QueueBytes, 128<<20)
	orDefault(&o.SegmentBytes, 1<<30)
	orDefault(&o.OpenFiles, 512)
	orDefault(&o.IdleClose, 30*time.Second)
	orDefault(&o.DrainTimeout, 10*time.Second)
}

func orDefault[T int | int64 | time.Duration](value *T, fallback T) {
	if *value <= 0 {
		*value = fallback
	}
}

// Run commits what Submit brings until ctx ends, then what waits already, and
// returns after its last goroutine has ended and all files are closed.
func (c *Committer) Run(ctx context.Context) error {
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var lanes sync.WaitGroup
	for _, l := range c.lanes {
		lanes.Go(func() { l.run(ctx, life) })
	}
	lanes.Go(func() { c.tidy(ctx, life) })
	<-ctx.Done()
	c.stop()
	cut := time.AfterFunc(c.o.DrainTimeout, func() { end(); c.breakOff() })
	defer cut.Stop()
	lanes.Wait()
	for _, l := range c.lanes {
		l.refuse(ErrStopped)
	}
	c.running.Wait()
	c.segments.drop(func(Set) bool { return true }, func(s *segment) { s.close(life) })
	c.uploads.drop(func(UploadKey) bool { return true }, func(u *upload) { u.close(life) })
	c.stopOnce.Do(func() { close(c.stopped) })
	return nil
}

// stop refuses new work.
func (c *Committer) stop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.stopping = true
}

func (c *Committer) ending() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.stopping
}

// breakOff ends the calls of FinishUpload that take too long.
func (c *Committer) breakOff() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cancel := range c.finishes {
		cancel()
	}
}

// tidy closes files that nobody uses any more.
func (c *Committer) tidy(ctx, life context.Context) {
	tick := time.NewTicker(c.o.IdleClose / 2)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			before := time.Now().Add(-c.o.IdleClose)
			c.segments.closeIdle(before, func(s *segment) { s.close(life) })
			c.uploads.closeIdle(before, func(u *upload) { u.close(life) })
		}
	}
}

// Submit returns nil when all of the commit is durable: rows and uploads, then
// facts, then a look at the lease. While that has lapsed it waits, as long as ctx
// lasts: the incarnation may revive. An error never means that data may be
// dropped; the same commit can be submitted again, here or on another node:
//
//	ErrBusy, ErrFull        later
//	ErrLeaseLost, ErrStopped  elsewhere
//	ErrBadAppend            never: the caller broke a rule
//	the context's error     it may become durable yet, or not
func (c *Committer) Submit(ctx context.Context, commit *Commit) error {
	size, err := checkCommit(commit)
	if err != nil {
		return err
	}
	t := &ticket{
		commit: commit, ctx: ctx, size: size, since: time.Now(),
		answer:  make(chan error, 1), // never full: one answer
		appends: make([]bool, len(commit.Appends)), uploads: make([]bool, len(commit.Uploads)),
	}
	if err := c.admit(t); err != nil {
		c.metrics.refused(err)
		return err
	}
	select {
	case err := <-t.answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("commit of %d bytes: %w", size, context.Cause(ctx))
	case <-c.stopped:
	}
	select {
	case err := <-t.answer:
		return err
	default:
		return ErrStopped
	}
}

// admit queues a ticket, or says why not.
func (c *Committer) admit(t *ticket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.stopping:
		return ErrStopped
	case c.queued > 0 && c.queued+t.size > c.o.QueueBytes:
		return ErrBusy
	case t.hasData() && time.Now().Before(c.fullUntil):
		return ErrFull
	}
	c.queued += t.size
	c.metrics.queued.Set(float64(c.queued))
	c.lanes[t.commit.Class].put(t)
	return nil
}

// settle answers a ticket for good.
func (c *Committer) settle(t *ticket, err error) {
	c.mu.Lock()
	c.queued -= t.size
	c.metrics.queued.Set(float64(c.queued))
	if errors.Is(err, ErrFull) {
		c.fullUntil = time.Now().Add(fullPause)
	}
	c.mu.Unlock()
	c.metrics.settled(t, err)
	t.answer <- err
}

// Forget closes the files below a directory that is about to be removed, and
// drops what is known of them. What comes for them afterwards begins new files.
func (c *Committer) Forget(ctx context.Context, dir string) {
	c.segments.drop(func(s Set) bool { return below(string(s), dir) }, func(s *segment) { s.close(ctx) })
	c.uploads.drop(func(k UploadKey) bool { return below(k.partsDir(), dir) }, func(u *upload) { u.close(ctx) })
	c.store.forget(dir)
}

// below reports whether a path is dir or lies in it.
func below(path, dir string) bool {
	return path == dir || len(path) > len(dir) && path[:len(dir)] == dir && path[len(dir)] == '/'
}

// commitOverhead is what a ticket costs in memory besides its bytes.
const commitOverhead = 512

// checkCommit returns the bytes that a commit holds, or what is wrong with it.
func checkCommit(commit *Commit) (int64, error) {
	if commit.Class >= classes {
		return 0, fmt.Errorf("class %d: %w", commit.Class, ErrBadAppend)
	}
	size := int64(commitOverhead)
	for i := range commit.Appends {
		a := &commit.Appends[i]
		if err := checkSet(a.Set); err != nil {
			return 0, err
		}
		if err := checkExtent(a.Extent, a.Lines); err != nil {
			return 0, fmt.Errorf("append to %s: %w", a.Set, err)
		}
		size += int64(len(a.Lines))
	}
	for i := range commit.Uploads {
		if err := commit.Uploads[i].check(); err != nil {
			return 0, err
		}
		size += int64(len(commit.Uploads[i].Data))
	}
	for _, m := range commit.Facts {
		size += int64(len(m.GetBody()))
	}
	return size, nil
}

// ticket is one Submit on its way.
type ticket struct {
	commit *Commit
	ctx    context.Context // the caller's: nobody waits once it has ended
	size   int64
	since  time.Time
	answer chan error

	appends  []bool // which are durable
	uploads  []bool
	tries    int       // rounds that could not store all of it
	notUntil time.Time // the next try
	failed   error     // what this round met
}

func (t *ticket) hasData() bool { return len(t.appends)+len(t.uploads) > 0 }

// gone reports whether its caller has left.
func (t *ticket) gone() bool { return t.ctx.Err() != nil }
