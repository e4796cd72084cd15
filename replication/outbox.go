package replication

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/filestore"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

// tellEvery paces the log lines about a disk that is tried again and again.
const tellEvery = 30 * time.Second

// Outbox is this node's numbered stream of facts: durable first, then sent to
// whoever leads, in order, each taken once. Safe for concurrent use.
type Outbox struct {
	n   *Node
	dir string

	writing chan struct{} // one slot: who holds it writes; others wait, or leave
	file    *outboxWriter // nil: none open; guarded by writing
	part    uint64        // of the next file, if its first fact had one before
	told    time.Time     // when an ailing file was last logged; guarded by writing

	mu      sync.Mutex
	seq     uint64        // last number given
	pending []*numbered   // numbered, not durable
	held    int64         // bytes of pending
	synced  uint64        // last durable number
	queue   []*numbered   // durable, not sent, without gaps; empty while behind
	bytes   int64         // of queue
	behind  bool          // there is more in the files than in queue
	unsent  int64         // bytes of all that no master has taken
	sent    uint64        // last number that a master took
	wake    chan struct{} // one slot: a wake while one is pending says nothing new
}

// numbered is a fact in its place, with its body as States see it.
type numbered struct {
	seq     uint64
	payload []byte // nil once durable
	stored  *buspb.Mutation
	whole   *buspb.Mutation
	bytes   int64
	done    func() // gives back the hold on its blob
}

// outboxWriter is the one writer of one outbox file.
type outboxWriter struct {
	file    *filestore.Handle
	offset  int64
	durable int64
}

// outboxTries is how often a batch goes to a new file before its callers get
// the error.
var outboxTries = retry.Policy{Tries: 3, First: 20 * time.Millisecond, Cap: time.Second}

func newOutbox(n *Node) *Outbox {
	return &Outbox{
		n: n, dir: path.Join(outboxDir, n.o.Incarnation),
		writing: make(chan struct{}, 1), wake: make(chan struct{}, 1),
	}
}

// unused makes sure that this incarnation begins its stream: numbers given
// twice would lose facts.
func (o *Outbox) unused(ctx context.Context) error {
	o.mu.Lock()
	begun := o.seq > 0
	o.mu.Unlock()
	if begun {
		return nil
	}
	files, err := listOutbox(ctx, o.n.store, o.n.o.Incarnation)
	if err == nil && len(files) > 0 {
		err = fmt.Errorf("incarnation %s has an outbox already: %w", o.n.o.Incarnation, ErrInvalid)
	}
	return err
}

// AppendSync makes facts durable in this node's outbox and returns; they are
// sent afterwards, in their order, and applied once. Facts of concurrent calls
// share a sync. It must be called only after what the facts speak of is
// durable, and does not wait for any master.
//
// ErrNoRoom means that the facts were not taken. After any other error they may
// or may not get to the ledger later; who then appends them again may have them
// applied twice. The bodies must not be
// changed afterwards.
func (o *Outbox) AppendSync(ctx context.Context, facts []*buspb.Mutation) error {
	if len(facts) == 0 {
		return nil
	}
	batch, err := o.prepare(ctx, facts)
	if err != nil {
		return fmt.Errorf("append to outbox: %w", err)
	}
	last, err := o.number(batch)
	if errors.Is(err, ErrNoRoom) && o.await(ctx, last) == nil { // those before us are durable now
		last, err = o.number(batch)
	}
	if err != nil {
		release(batch)
		return fmt.Errorf("append to outbox: %w", err)
	}
	again := func(error) bool { return ctx.Err() == nil }
	if err := retry.Do(ctx, outboxTries, again, func() error { return o.await(ctx, last) }); err != nil {
		return fmt.Errorf("append to outbox: %w", err)
	}
	return nil
}

// prepare checks facts and moves large bodies into blobs.
func (o *Outbox) prepare(ctx context.Context, facts []*buspb.Mutation) (batch []*numbered, err error) {
	defer func() {
		if err != nil {
			release(batch)
		}
	}()
	for _, m := range facts {
		if err := o.n.check(m); err != nil {
			return batch, fmt.Errorf("fact of kind %.64s: %w", m.GetKind(), err)
		}
		stored, release, err := o.n.blobs.store(ctx, m)
		if err != nil {
			return batch, err
		}
		batch = append(batch, &numbered{stored: stored, whole: wholeOf(m, m.Body), bytes: int64(len(m.Body)) + 256, done: release})
	}
	return batch, nil
}

// release gives back the blobs of facts that have no place.
func release(batch []*numbered) {
	for _, f := range batch {
		f.done()
	}
}

// number gives each fact its place, and returns the last place given. Facts
// that an ailing disk does not take wait in bounded memory: beyond it ErrNoRoom.
func (o *Outbox) number(batch []*numbered) (last uint64, err error) {
	now := time.Now().UnixMicro()
	o.mu.Lock()
	defer o.mu.Unlock()
	size := int64(0)
	for i, f := range batch {
		f.seq = o.seq + uint64(i) + 1
		size += f.bytes
		if f.payload, err = proto.Marshal(&buspb.Fact{Seq: f.seq, Time: now, Mutation: f.stored}); err != nil {
			return o.seq, fmt.Errorf("encode fact: %w: %w", ErrInvalid, err)
		}
	}
	if o.held > 0 && o.held+size > o.n.o.MaxPendingBytes {
		return o.seq, fmt.Errorf("%d facts wait for the disk: %w", len(o.pending), ErrNoRoom)
	}
	o.held += size
	o.seq += uint64(len(batch))
	o.pending = append(o.pending, batch...)
	return o.seq, nil
}

// await returns when the facts up to last are durable. Whoever gets to write
// writes for all that wait.
func (o *Outbox) await(ctx context.Context, last uint64) error {
	select {
	case o.writing <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-o.writing }()
	o.mu.Lock()
	pending, durable := o.pending, o.synced >= last
	o.mu.Unlock()
	if durable {
		return nil
	}
	if err := o.write(ctx, pending); err != nil {
		o.n.m.outboxFailed.Inc()
		if time.Since(o.told) > tellEvery {
			o.told = time.Now()
			o.n.log.Warn("outbox file is finished after an error", "seq", pending[0].seq, "err", err)
		}
		o.finish(ctx)
		return err
	}
	o.settle(pending)
	return nil
}

// write appends pending facts to the file and syncs it. The caller holds
// writing.
func (o *Outbox) write(ctx context.Context, pending []*numbered) error {
	if o.file != nil && o.file.offset >= o.n.o.MaxFileBytes {
		o.finish(ctx)
		o.part = 0
	}
	var buf []byte
	if o.file == nil {
		file, err := o.create(ctx, pending[0].seq)
		if err != nil {
			return err
		}
		o.file = &outboxWriter{file: file}
		buf = appendOutboxHeader(nil, pending[0].seq)
	}
	for _, f := range pending {
		buf = appendFact(buf, o.file.durable, f.payload)
	}
	if _, err := o.file.file.WriteAt(ctx, buf, o.file.offset); err != nil {
		return err
	}
	if err := o.file.file.Sync(ctx); err != nil {
		return err
	}
	if o.file.offset == 0 {
		if err := o.n.store.SyncDir(ctx, o.dir); err != nil {
			return err
		}
	}
	o.file.offset += int64(len(buf))
	o.file.durable = o.file.offset
	return nil
}

// create makes the next file. A name that a failed file has is left to it.
func (o *Outbox) create(ctx context.Context, first uint64) (*filestore.Handle, error) {
	for {
		file, err := o.n.store.CreateFile(ctx, outboxFile{first, o.part}.path(o.n.o.Incarnation))
		if err == nil || !errors.Is(err, filestore.ErrExists) {
			return file, err
		}
		o.part++
	}
}

// finish ends the file: nothing is written to it again.
func (o *Outbox) finish(ctx context.Context) {
	if o.file != nil {
		discard(ctx, o.file.file)
		o.file = nil
	}
}

// settle moves facts that are durable now into the queue of those to send.
func (o *Outbox) settle(facts []*numbered) {
	o.part = 0
	o.mu.Lock()
	defer o.mu.Unlock()
	o.pending = o.pending[len(facts):]
	if len(o.pending) == 0 {
		o.pending = nil
	}
	for _, f := range facts {
		f.payload = nil
		o.held -= f.bytes
		o.unsent += f.bytes
		if o.behind = o.behind || o.bytes+f.bytes > o.n.o.MaxPendingBytes; o.behind {
			f.done()
			continue // the sender reads it from the file
		}
		o.queue = append(o.queue, f)
		o.bytes += f.bytes
	}
	o.synced = facts[len(facts)-1].seq
	o.report()
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

func (o *Outbox) report() {
	o.n.m.outboxBytes.Set(float64(o.unsent))
	o.n.m.outboxLag.Set(float64(o.synced - o.sent))
}

// Lag returns how many of this node's durable facts no master has taken yet.
func (o *Outbox) Lag() int64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return int64(o.synced - o.sent)
}
