package filestore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"

	"raptorpack/internal/retry"
)

// reservePath is a file of bytes that mean nothing. When the disk is full it
// is removed, so that leases and ledger can go on while bulk data waits.
const reservePath = "reserve"

// room refuses a bulk write while only the released reserve is left.
func (s *Store) room(kind opKind, path string) error {
	if s.urgent || !s.full.Load() {
		return nil
	}
	return fmt.Errorf("%s %s: %w", kind, path, ErrFull)
}

// noticeFull gives the reserve back when err says that the disk is full. It
// returns err.
func (s *Store) noticeFull(ctx context.Context, err error) error {
	if !errors.Is(err, ErrFull) || s.reserveSize.Load() == 0 || !s.full.CompareAndSwap(false, true) {
		return err
	}
	s.metrics.full.Set(1)
	if freeErr := s.Urgent().ReleaseReserve(context.WithoutCancel(ctx)); freeErr != nil {
		s.log.ErrorContext(ctx, "disk full and reserve not released", "err", freeErr)
	} else {
		s.log.ErrorContext(ctx, "disk full, reserve released, bulk writes refused")
	}
	return err
}

// Reserve makes sure that the file "reserve" holds size bytes for bad days, and
// has the store refuse bulk writes with ErrFull once they have come. Run undoes
// that when there is space again: the two belong together. Nodes of one pack
// share the file. A disk with no room for it is no error: the days are bad already,
// and what the ledger needs must not be spent on trying.
func (s *Store) Reserve(ctx context.Context, size int64) error {
	s.reserveSize.Store(size)
	info, err := s.Stat(ctx, reservePath)
	if err == nil && info.Size() >= size {
		return nil
	}
	if err == nil || errors.Is(err, fs.ErrNotExist) {
		err = s.Urgent().firstReserve(ctx, size)
	}
	if err != nil {
		return fmt.Errorf("reserve %d bytes: %w", size, err)
	}
	return nil
}

func (s *Store) firstReserve(ctx context.Context, size int64) error {
	if disk, ok := s.fs.(usageFS); ok {
		usage, err := invoke(ctx, s, opUsage, ".", nil, disk.Usage)
		if err != nil {
			return err
		}
		if usage.Free < 2*size {
			s.refuseBulk(ctx, usage.Free)
			return nil
		}
	}
	err := s.writeReserve(ctx, size)
	if errors.Is(err, ErrFull) {
		s.refuseBulk(ctx, 0)
		return nil
	}
	return err
}

func (s *Store) refuseBulk(ctx context.Context, freeBytes int64) {
	s.full.Store(true)
	s.metrics.full.Set(1)
	s.log.ErrorContext(ctx, "disk full, bulk writes refused", "bytes", freeBytes)
}

// ReleaseReserve removes the reserve; none is no error.
func (s *Store) ReleaseReserve(ctx context.Context) error {
	if err := s.Remove(ctx, reservePath); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("release reserve: %w", err)
	}
	return nil
}

// writeReserve fills a temporary file and renames it into place. Its bytes are
// random, since a filesystem that compresses would keep no space for zeros.
func (s *Store) writeReserve(ctx context.Context, size int64) error {
	temp := tempName()
	h, err := s.create(ctx, temp)
	if err != nil {
		return err
	}
	defer h.discard(ctx)
	if err := s.fillRandom(ctx, h, size); err != nil {
		s.dropTemp(ctx, temp)
		return err
	}
	if err := s.Rename(ctx, temp, reservePath); err != nil {
		s.dropTemp(ctx, temp)
		return err
	}
	return s.SyncDir(ctx, ".")
}

func (s *Store) fillRandom(ctx context.Context, h *Handle, size int64) error {
	noise := rand.NewChaCha8([32]byte{})
	block := make([]byte, 1<<20)
	for off := int64(0); off < size; off += int64(len(block)) {
		block = block[:min(int64(len(block)), size-off)]
		noise.Read(block) // never fails
		if _, err := h.WriteAt(ctx, block, off); err != nil {
			return err
		}
	}
	return h.Sync(ctx)
}

// Run watches how full the disk is until ctx ends: it keeps the alarm, and
// takes the store out of refusing bulk writes when there is space again.
func (s *Store) Run(ctx context.Context) error {
	u := s.Urgent()
	for {
		if err := u.lookAtDisk(ctx); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "disk usage unknown", "err", err)
		}
		if !retry.Sleep(ctx, s.diskEvery) {
			return nil
		}
	}
}

func (s *Store) lookAtDisk(ctx context.Context) error {
	disk, ok := s.fs.(usageFS)
	if !ok {
		return nil
	}
	usage, err := invoke(ctx, s, opUsage, ".", nil, disk.Usage)
	if err != nil {
		return err
	}
	s.noteUsage(ctx, usage)
	size := s.reserveSize.Load()
	if size == 0 {
		return nil
	}
	return s.keepReserve(ctx, size, usage.Free)
}

func (s *Store) noteUsage(ctx context.Context, usage Usage) {
	used := usage.Used()
	s.metrics.diskUsed.Set(used)
	high := used >= s.alarm
	if s.alarmed.Swap(high) == high {
		return
	}
	if !high {
		s.metrics.diskAlarm.Set(0)
		s.log.InfoContext(ctx, "disk below alarm level again", "used", used)
		return
	}
	s.metrics.diskAlarm.Set(1)
	s.log.WarnContext(ctx, "disk above alarm level", "used", used, "bytes", usage.Free)
}

// keepReserve makes the reserve anew once twice its size is free, and refuses
// bulk writes while it is gone and that is not so: another node may have
// released it for the ledger.
func (s *Store) keepReserve(ctx context.Context, size, freeBytes int64) error {
	_, err := s.Stat(ctx, reservePath)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return err
	}
	if missing && freeBytes >= 2*size {
		if err := s.writeReserve(ctx, size); err != nil {
			return err
		}
		missing = false
	}
	if s.full.Swap(missing) == missing {
		return nil
	}
	if missing {
		s.refuseBulk(ctx, freeBytes)
		return nil
	}
	s.metrics.full.Set(0)
	s.log.InfoContext(ctx, "disk has space again, bulk writes taken", "bytes", freeBytes)
	return nil
}
