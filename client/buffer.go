package client

import (
	"cmp"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// BufferOptions says where produced messages wait for their delivery.
type BufferOptions struct {
	// Dir is the buffer's own folder. Empty: memory only, which loses
	// everything with the process.
	Dir string

	// DiskBytes bounds the folder's size (default 1 GiB), MemoryBytes a buffer
	// in memory (default 50 MiB). At the bound producers wait.
	DiskBytes, MemoryBytes int64

	Logger  *slog.Logger
	Metrics *Metrics

	sync func(*os.File) error // for tests; nil: File.Sync
}

// spaceRetry is how long a producer waits before it tries a full disk again,
// unless a delivery makes room earlier.
const spaceRetry = time.Second

// Buffer holds what was produced until the server has acknowledged it, in
// order, and the journal of flows that goes with it. What Put has returned for
// survives a kill of the process; what a Lease hands out survives a power cut.
//
// It is safe for concurrent use, except that one Lease is out at a time.
type Buffer struct {
	limit  int64
	store  store
	logger *slog.Logger
	metric *Metrics

	turn chan struct{} // one slot: whoever holds it may touch the store for writing

	mu      sync.Mutex
	journal *journal
	freed   chan struct{} // closed and replaced when a commit made room
	broken  error

	ready chan struct{} // one slot: messages may be waiting; full: said already
	at    position      // first message not committed; the sender's alone
}

// OpenBuffer opens or begins a buffer. Damage found is counted and logged; it
// never prevents the start.
func OpenBuffer(o BufferOptions) (*Buffer, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Metrics == nil {
		o.Metrics = NewMetrics(nil)
	}
	b := &Buffer{
		logger: o.Logger, metric: o.Metrics,
		turn: make(chan struct{}, 1), freed: make(chan struct{}), ready: make(chan struct{}, 1),
	}
	if o.Dir == "" {
		b.store, b.journal, b.limit = &memory{}, newJournal(), orDefault(o.MemoryBytes, 50<<20)
		return b, nil
	}
	b.limit = orDefault(o.DiskBytes, 1<<30)
	files, j, err := openSegments(o, b.limit)
	if err != nil {
		return nil, err
	}
	b.store, b.journal, b.at = files, j, position{seq: j.Committed}
	b.wake()
	return b, nil
}

func orDefault(n, otherwise int64) int64 {
	if n > 0 {
		return n
	}
	return otherwise
}

// put adds one message. It waits while the buffer is full.
func (b *Buffer) put(ctx context.Context, m mark, v *wirepb.VeloMessage) error {
	_, err := b.putNumbered(ctx, m, v)
	return err
}

// putNumbered is put, and tells the message's number plus one.
func (b *Buffer) putNumbered(ctx context.Context, m mark, v *wirepb.VeloMessage) (uint64, error) {
	message, err := proto.Marshal(v)
	if err != nil {
		return 0, fmt.Errorf("encode message of %s: %w", m.Flow, err)
	}
	body, err := encodeMessage(m, message)
	if err != nil {
		return 0, err
	}
	var final []byte
	if m.Final {
		if final, err = proto.Marshal(v.GetFlowStats()); err != nil {
			return 0, fmt.Errorf("encode end of %s: %w", m.Flow, err)
		}
	}
	var number uint64
	err = b.write(ctx, recordMessage, body, m, func() {
		b.journal.message(m, final)
		number = b.journal.Next
	})
	if err != nil {
		return 0, err
	}
	b.metric.buffered.Inc()
	b.wake()
	return number, nil
}

// done reports whether the message that putNumbered gave this number has been
// delivered.
func (b *Buffer) done(number uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal.Committed >= number
}

// flow copies the durable state of a flow.
func (b *Buffer) flow(id string) (flowRecord, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.journal.Flows[id]
	if f == nil {
		return flowRecord{}, false
	}
	return f.clone(), true
}

// unfinished copies the flows that were accepted and have not ended, oldest
// first.
func (b *Buffer) unfinished() []flowRecord {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []flowRecord
	for _, f := range b.journal.Flows {
		if !f.ended() {
			out = append(out, f.clone())
		}
	}
	slices.SortFunc(out, func(a, b flowRecord) int {
		return cmp.Or(a.Accepted.Compare(b.Accepted), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// note adds a flowEvent to the journal.
func (b *Buffer) note(ctx context.Context, e flowEvent) error {
	body, err := json.Marshal(e)
	if err != nil {
		return fmt.Errorf("encode event of %s: %w", e.Flow, err)
	}
	return b.write(ctx, recordFlow, body, mark{}, func() { b.journal.event(e) })
}

// write appends one record and folds it in, as soon as there is room for it.
func (b *Buffer) write(ctx context.Context, kind byte, body []byte, m mark, fold func()) error {
	if len(body) >= maxRecordBytes {
		return fmt.Errorf("message of %s with %d bytes: %w", m.Flow, len(body), syscall.EMSGSIZE)
	}
	for {
		if err := b.waitRoom(ctx, kind, len(body)); err != nil {
			return err
		}
		err := b.tryWrite(ctx, kind, body, m, fold)
		if !errors.Is(err, errNoRoom) {
			return err
		}
		if err := b.waitFreed(ctx, spaceRetry); err != nil {
			return err
		}
	}
}

// errNoRoom means that the disk is full. It never leaves this file.
var errNoRoom = errors.New("no space for the buffer")

func (b *Buffer) tryWrite(ctx context.Context, kind byte, body []byte, m mark, fold func()) error {
	if err := b.take(ctx); err != nil {
		return err
	}
	defer b.give()
	if err := b.refused(m); err != nil {
		return err
	}
	if err := b.store.append(kind, body, b.checkpoint); err != nil {
		if noSpace(err) {
			b.metric.full.Inc()
			b.logger.Warn("disk of the local buffer is full, waiting", "err", err)
			return errNoRoom
		}
		return b.breakDown(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	fold()
	b.metric.bytes.Set(float64(b.store.bytes()))
	return nil
}

// refused says why a message may not enter. Checked while the turn is held, so
// that nothing of a flow can slip in behind its cancellation or its end.
func (b *Buffer) refused(m mark) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken != nil {
		return b.broken
	}
	f := b.journal.Flows[m.Flow]
	if f == nil {
		return nil
	}
	if f.Cancelled > 0 && (m.Kind == markRows || m.Kind == markUpload) {
		return fmt.Errorf("put %s of %s: %w", m.Kind, m.Flow, ErrCancelled)
	}
	return nil
}

// waitRoom waits until n bytes more fit. Journal events always enter: they are
// small, and a flow must be able to end.
func (b *Buffer) waitRoom(ctx context.Context, kind byte, n int) error {
	for kind == recordMessage {
		b.mu.Lock()
		freed, broken := b.freed, b.broken
		pending := b.journal.Next - b.journal.Committed
		b.mu.Unlock()
		if broken != nil {
			return broken
		}
		if pending == 0 || b.store.bytes()+int64(n) <= b.limit {
			return nil
		}
		b.metric.full.Inc()
		select {
		case <-freed:
		case <-ctx.Done():
			return fmt.Errorf("wait for room in the buffer: %w", context.Cause(ctx))
		}
	}
	return nil
}

func (b *Buffer) waitFreed(ctx context.Context, limit time.Duration) error {
	b.mu.Lock()
	freed := b.freed
	b.mu.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-freed:
	case <-timer.C:
	case <-ctx.Done():
		return fmt.Errorf("wait for space on the buffer's disk: %w", context.Cause(ctx))
	}
	return nil
}

// noSpace reports whether a write or a new file found no room. A sync that says
// so has lost written bytes, and asking it again would be answered by a lie.
func noSpace(err error) bool {
	return !errors.Is(err, errSync) && (errors.Is(err, syscall.ENOSPC) || errors.Is(err, errQuota))
}

// breakDown ends the buffer's use; a restart recovers what is durable.
func (b *Buffer) breakDown(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.broken == nil {
		b.broken = fmt.Errorf("%w: %w", ErrBroken, err)
	}
	b.wake()
	return b.broken
}

func (b *Buffer) take(ctx context.Context) error {
	select {
	case b.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the buffer: %w", context.Cause(ctx))
	}
}

func (b *Buffer) give() { <-b.turn }

func (b *Buffer) wake() {
	select {
	case b.ready <- struct{}{}:
	default:
	}
}

// checkpoint is called by the store while the turn is held.
func (b *Buffer) checkpoint() ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal.encode()
}

// Ready is signalled when messages may be waiting.
func (b *Buffer) Ready() <-chan struct{} { return b.ready }

// Lease is a batch on its way. Its messages stay in the buffer until Commit.
type Lease struct {
	// Messages are serialized VeloMessages, oldest first.
	Messages [][]byte
	Bytes    int64
	end      position
}

// Lease makes everything put so far durable and gives the oldest messages, up
// to maxBytes but at least one; nil when nothing waits. Asking again without
// Commit gives the same messages again.
func (b *Buffer) Lease(ctx context.Context, maxBytes int64) (*Lease, error) {
	for {
		end, err := b.durable(ctx)
		if err != nil {
			return nil, err
		}
		if end <= b.at.seq {
			return nil, nil
		}
		lease, err := b.collect(end, maxBytes)
		if err != nil {
			return nil, err
		}
		if len(lease.Messages) > 0 {
			return lease, nil
		}
		if lease.end.seq == b.at.seq {
			return nil, nil
		}
		// Everything read belongs to cancelled flows.
		if err := b.Commit(ctx, lease); err != nil {
			return nil, err
		}
	}
}

// durable syncs and returns the number up to which messages may leave: what
// leaves before it is durable could come back as something else after a crash.
func (b *Buffer) durable(ctx context.Context) (uint64, error) {
	if err := b.take(ctx); err != nil {
		return 0, err
	}
	defer b.give()
	b.mu.Lock()
	end, broken := b.journal.Next, b.broken
	b.mu.Unlock()
	if broken != nil {
		return 0, broken
	}
	if end == b.at.seq {
		return end, nil
	}
	if err := b.store.sync(); err != nil {
		return 0, b.breakDown(err)
	}
	return end, nil
}

func (b *Buffer) collect(end uint64, maxBytes int64) (*Lease, error) {
	lease := &Lease{}
	var damaged error
	at, err := b.store.read(b.at, end, func(seq uint64, body []byte) bool {
		m, message, err := decodeMessage(body)
		if err != nil {
			damaged = err
			return false
		}
		if b.dropped(m, seq) {
			b.metric.dropped.Inc()
			return true
		}
		if len(lease.Messages) > 0 && lease.Bytes+int64(len(message)) > maxBytes {
			return false
		}
		lease.Messages = append(lease.Messages, message)
		lease.Bytes += int64(len(message))
		return true
	})
	if err = errors.Join(err, damaged); err != nil {
		return nil, b.breakDown(err)
	}
	lease.end = at
	return lease, nil
}

func (b *Buffer) dropped(m mark, seq uint64) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.journal.dropped(m, seq)
}

// Commit forgets a delivered lease, durably.
func (b *Buffer) Commit(ctx context.Context, lease *Lease) error {
	if err := b.take(ctx); err != nil {
		return err
	}
	defer b.give()
	body := binary.AppendUvarint(nil, lease.end.seq)
	err := b.store.append(recordCommit, body, b.checkpoint)
	if err == nil {
		err = b.store.sync()
	}
	if err != nil && !noSpace(err) {
		return b.breakDown(err)
	}
	// On a full disk the record is missing, which costs a repeated delivery
	// after a crash and nothing else; the room is needed now.
	b.mu.Lock()
	b.journal.commit(lease.end.seq)
	idle := b.journal.Committed == b.journal.Next
	b.mu.Unlock()
	b.at = lease.end
	if err := b.store.release(b.at, idle, b.checkpoint); err != nil && !noSpace(err) {
		return b.breakDown(err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	close(b.freed)
	b.freed = make(chan struct{})
	b.metric.bytes.Set(float64(b.store.bytes()))
	b.metric.delivered.Add(float64(len(lease.Messages)))
	return nil
}

// Pending is the number of messages not yet delivered.
func (b *Buffer) Pending() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return int64(b.journal.Next - b.journal.Committed)
}

// Close makes everything durable and lets go of the folder.
func (b *Buffer) Close() error {
	b.turn <- struct{}{} // no context: whoever holds it gives it back soon
	defer b.give()
	b.mu.Lock()
	closed := errors.Is(b.broken, ErrClosed)
	if !closed {
		b.broken = errors.Join(ErrClosed, b.broken)
	}
	b.mu.Unlock()
	if closed {
		return nil
	}
	return b.store.close()
}
