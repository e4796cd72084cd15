package client

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
)

// segmentMagic opens every segment file; the digit is the format's version.
const segmentMagic = "RPACKBF1"

// segmentBytes is the size at which a segment is followed by the next. A
// larger checkpoint stretches it, so that copies of the journal stay a small
// part of what is written.
const (
	segmentBytes       = 8 << 20
	checkpointsPerFile = 8
)

// segment is one file of the log.
type segment struct {
	number uint64
	first  uint64 // number of its first message
	size   int64  // valid bytes
	gone   bool   // somebody removed it
}

// segments is a store in a folder of its own. Messages are spread over files
// that each begin with a checkpoint; a file goes when every message in it is
// done and a younger file is durable.
type segments struct {
	dir    string
	logger *slog.Logger
	metric *Metrics
	lock   io.Closer
	flush  func(*os.File) error // makes a file's content durable

	mu      sync.Mutex // guards what follows
	files   []segment  // oldest first; the last one is being written
	total   int64
	nextSeq uint64

	out         *os.File // touched by the one writer only
	dirty       bool
	bigEnough   int64 // the file at hand is followed by the next
	idleEnough  int64 // the same when nothing waits: leaves a checkpoint only
	maxSegments int64 // upper bound for bigEnough, from the size limit
}

// openSegments opens or begins the log in dir and folds it into a journal.
func openSegments(o BufferOptions, limit int64) (*segments, *journal, error) {
	dir := o.Dir
	if err := privateFolder(dir); err != nil {
		return nil, nil, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, nil, err
	}
	s := &segments{
		dir: dir, logger: o.Logger, metric: o.Metrics, lock: lock, maxSegments: max(64<<10, limit/8), flush: o.sync,
	}
	if s.flush == nil {
		s.flush = (*os.File).Sync
	}
	j, err := s.recover()
	if err == nil {
		err = s.begin(j)
	}
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open buffer %s: %w", dir, err), lock.Close())
	}
	return s, j, nil
}

// privateFolder makes dir, or accepts an existing one that only we can enter:
// the usual place for buffers is open to everybody.
func privateFolder(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("make buffer folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make buffer folder: %w", err)
	}
	info, err := os.Lstat(dir)
	if err != nil {
		return fmt.Errorf("buffer folder: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("buffer folder %s: %w", dir, errNotFolder)
	}
	return ownedByUs(dir, info)
}

var errNotFolder = errors.New("exists and is no folder")

func segmentName(number uint64) string { return fmt.Sprintf("%016x.seg", number) }

func (s *segments) path(number uint64) string { return filepath.Join(s.dir, segmentName(number)) }

// list finds the segment files, oldest first.
func (s *segments) list() ([]uint64, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var numbers []uint64
	for _, e := range entries {
		text, ok := strings.CutSuffix(e.Name(), ".seg")
		number, err := strconv.ParseUint(text, 16, 64)
		if ok && err == nil && segmentName(number) == e.Name() {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// recover folds every segment. The last file may end torn, or be without a
// checkpoint when the crash came while it was made; anything else that does not
// read is damage: it is kept aside, counted and told.
func (s *segments) recover() (*journal, error) {
	numbers, err := s.list()
	if err != nil {
		return nil, err
	}
	j := newJournal()
	var gaps []gap
	told := false // of what is missing before the file at hand
	for i, number := range numbers {
		last := i == len(numbers)-1
		seg, state, damage, err := s.scan(number)
		if err != nil {
			return nil, err
		}
		switch {
		case state == nil && last && (i > 0 || number == 1) && s.unborn(number, j):
			if err := os.Remove(s.path(number)); err != nil {
				return nil, err
			}
			continue
		case state == nil:
			if err := s.setAside(number); err != nil {
				return nil, err
			}
			told = true
			continue
		case damage && !last:
			s.metric.damaged.Inc()
			s.logger.Error("buffer segment is damaged, messages lost", "segment", number, "valid_bytes", seg.size)
		case damage:
			// Cut off, so that the next start does not take it for damage.
			s.metric.torn.Inc()
			s.logger.Info("buffer ended in a torn record", "segment", number, "valid_bytes", seg.size)
			if err := os.Truncate(s.path(number), seg.size); err != nil {
				return nil, err
			}
		}
		if !told {
			gaps = append(gaps, gap{j.Next, seg.first})
		}
		s.files = append(s.files, seg)
		s.total += seg.size
		j, told = state, damage
	}
	s.nextSeq = j.Next
	s.tellGaps(gaps, j.Committed)
	if len(s.files) > 0 {
		j.commit(s.files[0].first) // what lay before can only be done or lost
	}
	return j, nil
}

// gap is a row of messages that no segment holds: those before upTo.
type gap struct{ from, upTo uint64 }

// tellGaps tells of messages not yet delivered whose files somebody removed.
func (s *segments) tellGaps(gaps []gap, committed uint64) {
	for _, g := range gaps {
		from := max(g.from, committed)
		if g.upTo > from {
			s.metric.damaged.Inc()
			s.logger.Error("buffer segments are missing, messages lost", "first", from, "messages", g.upTo-from)
		}
	}
}

// unborn reports whether a file is no longer than the checkpoint of j, with
// which it was to begin: then it can only be what a crash left of its making,
// and nothing stood behind that.
func (s *segments) unborn(number uint64, j *journal) bool {
	info, err := os.Stat(s.path(number))
	if err != nil {
		return false
	}
	checkpoint, err := j.encode()
	return err == nil && info.Size() <= checkpointAt+recordHead+1+int64(len(checkpoint))
}

// setAside renames a segment that holds nothing readable.
func (s *segments) setAside(number uint64) error {
	s.metric.damaged.Inc()
	s.logger.Error("buffer segment is unreadable, set aside", "segment", number)
	return os.Rename(s.path(number), s.path(number)+".damaged")
}

// scan folds one file. state is nil when it has no readable checkpoint; damage
// says that bytes follow the valid part.
func (s *segments) scan(number uint64) (seg segment, state *journal, damage bool, err error) {
	f, err := os.Open(s.path(number))
	if err != nil {
		return seg, nil, false, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return seg, nil, false, err
	}
	valid, first, state, err := foldSegment(f, info.Size())
	if err != nil {
		return seg, nil, false, fmt.Errorf("read segment %d: %w", number, err)
	}
	return segment{number: number, first: first, size: valid}, state, valid < info.Size(), nil
}

// foldSegment reads a segment of limit bytes as far as it is whole. Errors are
// those of the disk; damage only ends the valid part.
func foldSegment(r io.ReaderAt, limit int64) (valid int64, first uint64, j *journal, err error) {
	magic := make([]byte, len(segmentMagic))
	if _, err := r.ReadAt(magic, 0); err != nil {
		return 0, 0, nil, ignoreTorn(readFailed(err))
	}
	if string(magic) != segmentMagic {
		return 0, 0, nil, nil
	}
	kind, body, at, err := readRecord(r, checkpointAt, limit)
	if err != nil || kind != recordCheckpoint {
		return 0, 0, nil, ignoreTorn(err)
	}
	if j, err = decodeJournal(body); err != nil {
		return 0, 0, nil, nil
	}
	first = j.Next
	for {
		kind, body, next, err := readRecord(r, at, limit)
		if err != nil {
			return at, first, j, ignoreTorn(err)
		}
		if err := j.fold(kind, body); err != nil {
			return at, first, j, nil
		}
		at = next
	}
}

func ignoreTorn(err error) error {
	if errors.Is(err, errTorn) || errors.Is(err, io.EOF) {
		return nil
	}
	return err
}

// begin makes the first segment of this run. A torn tail is thereby never
// written behind: what was read stays as it is.
func (s *segments) begin(j *journal) error {
	if err := s.roll(j.encode); err != nil {
		return err
	}
	return s.release(position{seq: j.Committed}, false, j.encode)
}

// roll ends the present file and begins the next with a checkpoint.
func (s *segments) roll(checkpoint func() ([]byte, error)) error {
	state, err := checkpoint()
	if err != nil {
		return err
	}
	if len(state) >= maxCheckpointBytes {
		return fmt.Errorf("begin buffer segment: journal of %d bytes: %w", len(state), syscall.EMSGSIZE)
	}
	if s.out != nil {
		if err := s.sync(); err != nil {
			return err
		}
	}
	number := uint64(1)
	s.mu.Lock()
	if n := len(s.files); n > 0 {
		number = s.files[n-1].number + 1
	}
	seq := s.nextSeq
	s.mu.Unlock()
	f, size, err := s.create(number, state)
	if err != nil {
		return fmt.Errorf("begin buffer segment: %w", err)
	}
	if s.out != nil {
		if err := s.out.Close(); err != nil {
			s.logger.Warn("close buffer segment", "err", err)
		}
	}
	s.out, s.dirty = f, false
	usual := min(segmentBytes, s.maxSegments)
	s.bigEnough, s.idleEnough = max(usual, checkpointsPerFile*size), max(usual/checkpointsPerFile, 2*size)
	s.mu.Lock()
	s.files = append(s.files, segment{number: number, first: seq, size: size})
	s.total += size
	s.mu.Unlock()
	return nil
}

func (s *segments) create(number uint64, state []byte) (*os.File, int64, error) {
	f, err := os.OpenFile(s.path(number), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, 0, err
	}
	data := appendRecord([]byte(segmentMagic), recordCheckpoint, state)
	_, err = f.WriteAt(data, 0)
	if err == nil {
		err = s.flush(f)
	}
	if err == nil {
		err = syncFolder(s.dir, s.flush)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close(), os.Remove(f.Name()))
	}
	return f, int64(len(data)), nil
}

func (s *segments) append(kind byte, body []byte, checkpoint func() ([]byte, error)) error {
	if last := s.current(); last.gone || last.size >= s.bigEnough {
		if err := s.roll(checkpoint); err != nil {
			return err
		}
	}
	data := appendRecord(make([]byte, 0, recordHead+1+len(body)), kind, body)
	at := s.current().size
	if _, err := s.out.WriteAt(data, at); err != nil {
		// A partial record must not stand before the next one.
		return errors.Join(err, s.out.Truncate(at))
	}
	s.dirty = true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.files[len(s.files)-1].size += int64(len(data))
	s.total += int64(len(data))
	if kind == recordMessage {
		s.nextSeq++
	}
	return nil
}

func (s *segments) current() segment {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.files[len(s.files)-1]
}

func (s *segments) sync() error {
	if !s.dirty {
		return nil
	}
	if err := s.flush(s.out); err != nil {
		return fmt.Errorf("%w: %w", errSync, err)
	}
	s.dirty = false
	return nil
}

// errSync means that the disk refused to make written bytes durable. What
// stands in the file since is unknown, so the buffer cannot go on.
var errSync = errors.New("sync buffer segment")

func (s *segments) bytes() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.total
}

func (s *segments) close() error {
	err := s.sync()
	return errors.Join(err, s.out.Close(), s.lock.Close())
}
