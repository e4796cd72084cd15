package replication

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"raptorpack/filestore"
)

// writer is the one writer of one epoch's ledger files. It keeps its offset
// and writes at it. After an error it is finished, and so is its epoch.
type writer struct {
	store   *filestore.Store
	max     int64
	epoch   uint64
	file    *filestore.Handle
	offset  int64 // where the next record goes
	durable int64 // synced bytes of this file
	chain   chainHash
}

// newWriter makes the first file of an epoch, durably. The name can be made
// only once, so no epoch is ever written twice.
func newWriter(ctx context.Context, s *filestore.Store, max int64, epoch uint64, before place) (*writer, error) {
	w := &writer{store: s, max: max, epoch: epoch, chain: before.chain}
	file, err := w.create(ctx, before.index+1)
	if err != nil {
		return nil, fmt.Errorf("begin ledger of epoch %d: %w", epoch, err)
	}
	w.enter(file)
	return w, nil
}

// create makes a file with its header, durable in content and name.
func (w *writer) create(ctx context.Context, first uint64) (*filestore.Handle, error) {
	file, err := w.store.CreateFile(ctx, ledgerFile(w.epoch, first))
	if err != nil {
		return nil, err
	}
	header := fileHeader{epoch: w.epoch, first: first, chain: w.chain}.append(nil)
	if _, err = file.WriteAt(ctx, header, 0); err == nil {
		if err = file.Sync(ctx); err == nil {
			err = w.store.SyncDir(ctx, epochDir(w.epoch))
		}
	}
	if err != nil {
		discard(ctx, file)
		return nil, err
	}
	return file, nil
}

func (w *writer) enter(file *filestore.Handle) {
	w.file, w.offset, w.durable = file, headerBytes, headerBytes
}

// stage frames one entry into buf, which will be written at the writer's
// offset, and moves the chain.
func (w *writer) stage(buf, payload []byte) []byte {
	buf = record{mark: markEntry, durable: w.durable, prev: w.chain, payload: payload}.append(buf)
	w.chain = link(w.chain, payload)
	return buf
}

// commit writes staged records and makes them durable.
func (w *writer) commit(ctx context.Context, buf []byte) error {
	if _, err := w.file.WriteAt(ctx, buf, w.offset); err != nil {
		return err
	}
	w.offset += int64(len(buf))
	if err := w.file.Sync(ctx); err != nil {
		return err
	}
	w.durable = w.offset
	return nil
}

// rotate goes on in a new file when this one is full. The successor is durable
// before it is named, so a reader never waits for a file that was not made.
func (w *writer) rotate(ctx context.Context, first uint64) error {
	if w.offset < w.max {
		return nil
	}
	next, err := w.create(ctx, first)
	if err != nil {
		return fmt.Errorf("begin ledger file at entry %d: %w", first, err)
	}
	name := record{mark: markNext, durable: w.durable, prev: w.chain, payload: binary.LittleEndian.AppendUint64(nil, first)}
	if err := w.commit(ctx, name.append(nil)); err != nil {
		discard(ctx, next)
		return fmt.Errorf("name ledger file at entry %d: %w", first, err)
	}
	discard(ctx, w.file)
	w.enter(next)
	return nil
}

func (w *writer) close(ctx context.Context) { discard(ctx, w.file) }

// discardWait bounds how long a file that nothing depends on is waited for.
const discardWait = time.Second

// discard closes a file all of whose acknowledged bytes are synced: an error
// could tell only of others. A hung mount does not hold the caller.
func discard(ctx context.Context, file *filestore.Handle) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	_ = file.Close(ctx)
}
