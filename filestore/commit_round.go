package filestore

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// filesAtOnce is how many files of one round are written or synced together.
const filesAtOnce = 32

// errFinishing means that an upload is being put together just now.
var errFinishing = errors.New("upload is being finished")

// round makes tickets durable together: every touched file is written once and
// synced once, every touched directory synced once, then the facts go out.
type round struct {
	c     *Committer
	files []*fileTask

	mu   sync.Mutex
	dirs map[string]*roundDir
}

// fileTask is what one round does to one segment or upload.
type fileTask struct {
	key     string // orders the locks
	tickets []*ticket
	places  []int // of this file's appends or uploads within their tickets
	done    func(t *ticket) []bool
	file    roundFile
	names   []string // directories whose names must be durable
	err     error
}

// roundFile is a segment or an upload with the task's share of the round.
type roundFile interface {
	acquire(ctx context.Context) error
	write(ctx context.Context, r *round, t *fileTask) error
	sync(ctx context.Context) error
	conclude(ctx context.Context, err error) // keeps what is durable, or finishes the file
	release()
}

// round takes tickets through all steps and answers each, or queues it again.
func (c *Committer) round(ctx context.Context, l *lane, tickets []*ticket) {
	begin := time.Now()
	if !c.held(ctx, anyWaits(tickets)) {
		c.settleAll(tickets, fmt.Errorf("before writing: %w", ErrLeaseLost))
		return
	}
	r := c.plan(tickets)
	r.run(ctx)
	good := make([]*ticket, 0, len(tickets))
	for _, t := range tickets {
		switch {
		case t.failed == nil:
			good = append(good, t)
		case c.hopeless(ctx, t):
			c.settle(t, t.failed)
		default:
			c.metrics.retried.Inc()
			l.again(t)
		}
	}
	c.acknowledge(ctx, good)
	c.segments.trim(func(s *segment) { s.close(ctx) })
	c.uploads.trim(func(u *upload) { u.close(ctx) })
	c.metrics.rounds(l.class, time.Since(begin), tickets, r)
}

// hopeless reports whether a ticket that met an error must be answered with it
// rather than tried in a new part.
func (c *Committer) hopeless(ctx context.Context, t *ticket) bool {
	for _, kind := range []error{ErrFull, ErrReadOnly, ErrBadAppend, ErrLeaseLost, ErrSealed} {
		if errors.Is(t.failed, kind) {
			return true
		}
	}
	if outOfFiles(t.failed) {
		// A new part would need another descriptor: say no, so that whoever sends
		// comes later and the process is not kept busy with trying.
		t.failed = fmt.Errorf("%w: %w", ErrBusy, t.failed)
		return true
	}
	if ctx.Err() != nil {
		t.failed = fmt.Errorf("%w: %w", ErrStopped, t.failed)
		return true
	}
	return t.gone()
}

// outOfFiles reports that the process or the machine has no descriptor left.
func outOfFiles(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE)
}

// acknowledge is the second step: all data of these tickets is durable. The
// lease is looked at before the facts, because they may only speak of data that
// no seal cuts off, and after them, because only then may clients be told.
func (c *Committer) acknowledge(ctx context.Context, tickets []*ticket) {
	if len(tickets) == 0 {
		return
	}
	if !c.held(ctx, anyWaits(tickets)) {
		c.settleAll(tickets, fmt.Errorf("before the facts: %w", ErrLeaseLost))
		return
	}
	var facts []*buspb.Mutation
	for _, t := range tickets {
		facts = append(facts, t.commit.Facts...)
	}
	var failed error
	if len(facts) > 0 {
		if err := c.o.Outbox.AppendSync(ctx, facts); err != nil {
			failed = fmt.Errorf("append %d facts: %w", len(facts), err)
		}
	}
	valid := c.held(ctx, anyWaits(tickets))
	for _, t := range tickets {
		switch {
		case failed != nil && len(t.commit.Facts) > 0:
			c.settle(t, failed)
		case !valid:
			c.settle(t, fmt.Errorf("after the sync: %w", ErrLeaseLost))
		default:
			c.settle(t, nil)
		}
	}
}

// leasePoll is how often a lapsed lease is looked at.
const leasePoll = 20 * time.Millisecond

// held reports whether the lease holds. While it has lapsed it waits: the incarnation
// may revive, and then all that was done is as good as before. It does not wait once
// nobody else does, or the committer is to end.
func (c *Committer) held(ctx context.Context, awaited func() bool) bool {
	for !c.o.Valid() {
		if c.ending() || !awaited() || !retry.Sleep(ctx, leasePoll) {
			return false
		}
	}
	return true
}

// anyWaits reports whether a ticket has a caller left.
func anyWaits(tickets []*ticket) func() bool {
	return func() bool {
		return slices.ContainsFunc(tickets, func(t *ticket) bool { return !t.gone() })
	}
}

func (c *Committer) settleAll(tickets []*ticket, err error) {
	for _, t := range tickets {
		c.settle(t, err)
	}
}

// plan sorts what is not yet durable by file.
func (c *Committer) plan(tickets []*ticket) *round {
	r := &round{c: c, dirs: make(map[string]*roundDir)}
	sets := make(map[Set]*fileTask)
	uploads := make(map[UploadKey]*fileTask)
	for _, t := range tickets {
		for i := range t.commit.Appends {
			if t.appends[i] {
				continue
			}
			set := t.commit.Appends[i].Set
			task := sets[set]
			if task == nil {
				task = &fileTask{key: string(set), file: &segmentTask{c: c, set: set}, done: ticketAppends}
				sets[set] = task
				r.files = append(r.files, task)
			}
			task.add(t, i)
		}
		for i := range t.commit.Uploads {
			if t.uploads[i] {
				continue
			}
			key := t.commit.Uploads[i].Key
			task := uploads[key]
			if task == nil {
				task = &fileTask{key: key.partPath(c.o.Incarnation, 0), file: &uploadTask{c: c, key: key}, done: ticketUploads}
				uploads[key] = task
				r.files = append(r.files, task)
			}
			task.add(t, i)
		}
	}
	// One order of locks for all rounds, so that no two wait for each other.
	slices.SortFunc(r.files, func(a, b *fileTask) int { return cmp.Compare(a.key, b.key) })
	return r
}

func ticketAppends(t *ticket) []bool { return t.appends }
func ticketUploads(t *ticket) []bool { return t.uploads }

func (f *fileTask) add(t *ticket, place int) {
	f.tickets = append(f.tickets, t)
	f.places = append(f.places, place)
}

// run writes, then syncs, then says which tickets are stored. A file that fails
// affects only the tickets that touched it.
func (r *round) run(ctx context.Context) {
	for _, f := range r.files {
		f.err = f.file.acquire(ctx)
	}
	r.each(func(f *fileTask) { f.err = f.file.write(ctx, r, f) })
	r.syncAll(ctx)
	for _, f := range r.files {
		r.checkNames(f)
		f.conclude(ctx)
	}
	r.learn()
}

// each calls step for the files that are well so far, many at a time.
func (r *round) each(step func(*fileTask)) {
	var g errgroup.Group
	g.SetLimit(filesAtOnce)
	for _, f := range r.files {
		if f.err == nil {
			g.Go(func() error { step(f); return nil })
		}
	}
	_ = g.Wait() // step keeps its error in the task
}

// syncAll makes contents and names durable; their order among each other does
// not matter, as nothing is acknowledged before all are.
func (r *round) syncAll(ctx context.Context) {
	var g errgroup.Group
	g.SetLimit(filesAtOnce)
	for _, f := range r.files {
		if f.err == nil {
			g.Go(func() error { f.err = f.file.sync(ctx); return nil })
		}
	}
	for dir, d := range r.dirs {
		if d.mustSync {
			g.Go(func() error { d.syncErr = r.c.store.SyncDir(ctx, dir); return nil })
		}
	}
	_ = g.Wait() // errors are kept where they belong
}

// checkNames fails a file whose name may not be durable.
func (r *round) checkNames(f *fileTask) {
	for _, dir := range f.names {
		if d := r.dirs[dir]; f.err == nil && d != nil && d.syncErr != nil {
			f.err = fmt.Errorf("sync directory: %w", d.syncErr)
		}
	}
}

func (f *fileTask) conclude(ctx context.Context) {
	if !errors.Is(f.err, errNotHeld) {
		f.file.conclude(ctx, f.err)
		f.file.release()
	}
	for k, t := range f.tickets {
		if f.err == nil {
			f.done(t)[f.places[k]] = true
		} else if t.failed == nil {
			t.failed = f.err
		}
	}
}

// errNotHeld marks a file that this round could not get hold of.
var errNotHeld = errors.New("file not held")

// roundDir is a directory that a round meets.
type roundDir struct {
	once     sync.Once
	made     error // what making it brought
	mustSync bool  // names in it are new
	learn    bool  // its own name is new to this process
	syncErr  error
}

func (r *round) dir(name string) *roundDir {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := r.dirs[name]
	if d == nil {
		d = &roundDir{}
		r.dirs[name] = d
	}
	return d
}

// ensure makes a directory and those above it, once per round, and notes for
// the task which directories must be synced for its name to last. Unlike
// Store.MkdirAll it leaves the syncs to the round, which does each once.
func (r *round) ensure(ctx context.Context, f *fileTask, dir string) error {
	if dir == "." || r.c.store.known(dir) {
		return nil
	}
	parent := path.Dir(dir)
	if err := r.ensure(ctx, f, parent); err != nil {
		return err
	}
	d := r.dir(dir)
	d.once.Do(func() { d.made = r.make(ctx, dir) })
	if d.made != nil {
		return d.made
	}
	r.mu.Lock()
	d.learn = true
	r.mu.Unlock()
	r.named(f, parent)
	return nil
}

func (r *round) make(ctx context.Context, dir string) error {
	err := r.c.store.patiently(ctx, func() error {
		return r.c.store.call(ctx, opMkdir, dir, func() error { return r.c.store.fs.Mkdir(dir) })
	})
	if errors.Is(err, ErrExists) {
		return nil
	}
	return err
}

// named notes that a name in dir is new and the task depends on it.
func (r *round) named(f *fileTask, dir string) {
	d := r.dir(dir)
	r.mu.Lock()
	d.mustSync = true
	r.mu.Unlock()
	f.names = append(f.names, dir)
}

// learn remembers the directories whose names are durable now, with all above
// them.
func (r *round) learn() {
	for _, d := range r.dirs {
		if d.syncErr != nil {
			return
		}
	}
	for name, d := range r.dirs {
		if d.learn {
			r.c.store.learn(name)
		}
	}
}

// create makes a new file of this incarnation in a directory that may have to
// be made, or have been removed since it was.
func (r *round) create(ctx context.Context, f *fileTask, name string) (*Handle, error) {
	store, dir := r.c.store, path.Dir(name)
	if err := store.room(opCreate, name); err != nil {
		return nil, err
	}
	if err := r.ensure(ctx, f, dir); err != nil {
		return nil, err
	}
	h, err := store.create(ctx, name)
	if err != nil {
		if isMissing(err) {
			store.forget(dir) // removed meanwhile; the ticket's next try makes it anew
		}
		return nil, err
	}
	r.named(f, dir)
	return h, nil
}
