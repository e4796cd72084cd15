package replication

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
)

const ledgerDir = "ledger"

// readRetry paces looking again for a file that another host has named.
var readRetry = retry.Policy{Tries: -1, First: 20 * time.Millisecond, Cap: 2 * time.Second}

func epochDir(epoch uint64) string {
	return path.Join(ledgerDir, fmt.Sprintf("epoch-%020d", epoch))
}

func ledgerFile(epoch, first uint64) string {
	return path.Join(epochDir(epoch), number(first))
}

// number is the fixed-width form of indices and sequences in names.
func number(n uint64) string { return fmt.Sprintf("%020d", n) }

// parseNumber reads the fixed-width form; false for any other name.
func parseNumber(name string) (uint64, bool) {
	if len(name) != 20 {
		return 0, false
	}
	n, err := strconv.ParseUint(name, 10, 64)
	return n, err == nil
}

// listNumbers lists a directory of numbered files in order. A missing
// directory has none: names are found by listing, never by probing.
func listNumbers(ctx context.Context, s *filestore.Store, dir string) ([]uint64, error) {
	names, err := s.ReadDir(ctx, dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []uint64
	for _, name := range names {
		if n, ok := parseNumber(name); ok {
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all, nil
}

// listEpochs lists the epochs that have a directory, in order.
func listEpochs(ctx context.Context, s *filestore.Store) ([]uint64, error) {
	names, err := s.ReadDir(ctx, ledgerDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var all []uint64
	for _, name := range names {
		if epoch, ok := parseNumber(strings.TrimPrefix(name, "epoch-")); ok {
			all = append(all, epoch)
		}
	}
	slices.Sort(all)
	return all, nil
}

// walker reads the ledger of one epoch after another.
type walker struct {
	store *filestore.Store
	wait  time.Duration // for a named successor
}

// epochEnd is where a walk through an epoch came to an end.
type epochEnd struct {
	place
	file   string // the file that the walk ended in, empty: the epoch has none
	length int64  // valid prefix of that file
	rest   int64  // bytes beyond it
}

// toTheEnd is a limit for walks that take all that is valid.
const toTheEnd = math.MaxUint64

// epoch visits the entries of one epoch after from, up to the entry limit. from is
// the last entry before, of this epoch or an older one.
func (w *walker) epoch(ctx context.Context, epoch uint64, from place, limit uint64, fn visit) (epochEnd, error) {
	end := epochEnd{place: from}
	first, err := w.entrance(ctx, epoch, from.index+1)
	if err != nil || first == 0 {
		return end, err
	}
	for first != 0 {
		if first, err = w.file(ctx, epoch, first, from, limit, &end, fn); err != nil {
			return end, err
		}
	}
	return end, nil
}

// entrance finds the file of an epoch that holds entry index or would hold it;
// 0: the epoch has no files.
func (w *walker) entrance(ctx context.Context, epoch, index uint64) (uint64, error) {
	firsts, err := listNumbers(ctx, w.store, epochDir(epoch))
	if err != nil || len(firsts) == 0 {
		return 0, err
	}
	at, exact := slices.BinarySearch(firsts, index)
	if exact {
		return index, nil
	}
	if at == 0 {
		return 0, fmt.Errorf("read epoch %d: entry %d comes before the first file, %d: %w", epoch, index, firsts[0], ErrGap)
	}
	return firsts[at-1], nil
}

// file visits one file and returns the first index of the next, 0 at the end.
func (w *walker) file(ctx context.Context, epoch, first uint64, from place, limit uint64, end *epochEnd, fn visit) (uint64, error) {
	name := ledgerFile(epoch, first)
	data, err := w.store.ReadFile(ctx, name, maxFileBytes)
	if err != nil {
		return 0, fmt.Errorf("read ledger: %w", err)
	}
	h, err := parseHeader(data)
	if errors.Is(err, errTorn) && end.file == "" && first == from.index+1 {
		// A writer may have died while it made its first file. If records follow,
		// the header was whole once.
		if err := (&fileScan{}).checkTail(data); err != nil {
			return 0, fmt.Errorf("read %s: header: %w", name, err)
		}
		end.file, end.rest = name, int64(len(data))
		return 0, nil
	}
	if err == nil {
		err = checkHeader(h, epoch, first, end)
	}
	if err != nil {
		return 0, fmt.Errorf("read %s: %w", name, damaged(err))
	}
	before := end.time
	if first <= from.index {
		before = 0 // its predecessor is not part of this walk
	}
	s, err := scanFile(data, before, follow(from, limit, fn))
	stopped := errors.Is(err, errStop)
	if err != nil && !stopped {
		return 0, fmt.Errorf("read %s: %w", name, err)
	}
	if s.last.index < from.index {
		return 0, fmt.Errorf("read %s: it ends at entry %d, before %d: %w", name, s.last.index, from.index, ErrDiverged)
	}
	end.file, end.length, end.rest = name, s.length, s.rest
	if s.last.index > end.index {
		end.place = s.last
	}
	if s.next == 0 || stopped || s.last.index >= limit {
		return 0, nil
	}
	return s.next, w.awaitFile(ctx, epoch, s.next)
}

// damaged makes a torn header damage: it was synced before anybody named it.
func damaged(err error) error {
	if errors.Is(err, errTorn) {
		return fmt.Errorf("header: %w", ErrDamaged)
	}
	return err
}

// checkHeader holds a file's header against its name and the entry before it.
func checkHeader(h fileHeader, epoch, first uint64, end *epochEnd) error {
	if h.epoch != epoch || h.first != first {
		return fmt.Errorf("its header says epoch %d, entry %d: %w", h.epoch, h.first, ErrDamaged)
	}
	if first != end.index+1 || h.chain == end.chain {
		return nil
	}
	if end.file == "" {
		return fmt.Errorf("its chain before entry %d is another: %w", first, ErrDiverged)
	}
	return fmt.Errorf("its chain before entry %d breaks with its predecessor's: %w", first, ErrDamaged)
}

// follow passes on the entries after from, up to limit.
func follow(from place, limit uint64, fn visit) visit {
	return func(e *buspb.Entry, payload []byte, at place) error {
		switch {
		case at.index > limit:
			return errStop
		case at.index == from.index && at.chain != from.chain:
			return fmt.Errorf("its chain after entry %d is another: %w", at.index, ErrDiverged)
		case at.index <= from.index:
			return nil
		}
		return fn(e, payload, at)
	}
}

// awaitFile waits until a named successor shows up in the listing.
func (w *walker) awaitFile(ctx context.Context, epoch, first uint64) error {
	ctx, cancel := context.WithTimeout(ctx, w.wait)
	defer cancel()
	err := retry.Do(ctx, readRetry, func(err error) bool { return errors.Is(err, ErrGap) }, func() error {
		firsts, err := listNumbers(ctx, w.store, epochDir(epoch))
		if err != nil {
			return err
		}
		if _, found := slices.BinarySearch(firsts, first); !found {
			return fmt.Errorf("file %s is named but not there: %w", ledgerFile(epoch, first), ErrGap)
		}
		return nil
	})
	return err
}
