package monitoring

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
)

const (
	maxSinkBytes = 8 << 20 // of rows in memory; more are stored before their round ends
	maxLogBytes  = 1 << 20 // of log lines that wait for the next second
	maxRowBytes  = 32 << 20
	logName      = "log" // of extents that hold log lines
)

// storing is how patiently a store that fails is repeated: nothing is dropped.
var storing = retry.Policy{First: 50 * time.Millisecond, Cap: 5 * time.Second}

// reservedKeys are the server's own in stored rows.
var reservedKeys = []string{"_ts", "_Source"}

// sink gathers rows, or log lines, until they are stored. Rows that may be of the
// events of a round wait for its end.
type sink struct {
	q   *query
	log bool

	turn chan struct{} // one element while somebody stores: what comes first is stored first. Full: wait

	mu    sync.Mutex
	rows  [][]byte // JSON objects
	bytes int
	held  int    // from here on rows belong to the round; -1: none does
	part  uint64 // of the round, stored before its end
}

// add takes rows of a statement.
func (s *sink) add(scope *vql.Scope) func(*vql.Dict) error {
	return func(row *vql.Dict) error {
		for _, key := range reservedKeys {
			if value, ok := row.Get(key); ok {
				row.Delete(key)
				row.Set("client_"+key, value)
			}
		}
		object := scope.AppendJSON(nil, row)
		if len(object) > maxRowBytes {
			return fmt.Errorf("row of %d bytes, at most %d: %w", len(object), maxRowBytes, filestore.ErrBadAppend)
		}
		s.take(object)
		return nil
	}
}

// take keeps an object; false: there is no room, and it is dropped. Only a log has
// no room.
func (s *sink) take(object []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.log && s.bytes > maxLogBytes {
		return false
	}
	s.rows = append(s.rows, object)
	s.bytes += len(object)
	return true
}

// hold has all further rows wait for the end of the round.
func (s *sink) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held, s.part = len(s.rows), 0
}

// drop forgets the rows of a round that failed: its events come again.
func (s *sink) drop() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held >= 0 {
		s.cut(s.held)
		s.held = -1
	}
}

// cut drops the rows from one on; the lock is held.
func (s *sink) cut(at int) {
	for _, row := range s.rows[at:] {
		s.bytes -= len(row)
	}
	s.rows = s.rows[:at]
}

// newSink makes a sink of rows, or of log lines.
func newSink(q *query, log bool) *sink {
	return &sink{q: q, log: log, turn: make(chan struct{}, 1), held: -1}
}

// begin waits for the right to store.
func (s *sink) begin(ctx context.Context) error {
	select {
	case s.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *sink) done() { <-s.turn }

// flush stores what belongs to no round, and of a round what memory has no room for.
func (s *sink) flush(ctx context.Context) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.done()
	return s.spill(ctx)
}

func (s *sink) spill(ctx context.Context) error {
	s.mu.Lock()
	free, rest := s.rows, [][]byte(nil)
	if s.held >= 0 {
		free, rest = s.rows[:s.held:s.held], s.rows[s.held:]
		s.held = 0
	}
	s.rows, s.bytes = rest, size(rest)
	var part [][]byte
	number := s.part
	if s.bytes > maxSinkBytes {
		part, s.rows, s.bytes = s.rows, nil, 0
		s.part++
	}
	s.mu.Unlock()
	if err := s.store(ctx, free, anyDigest(), nil); err != nil {
		return err
	}
	return s.store(ctx, part, s.digest(s.q.read(nil, 0).Round, number, part), nil)
}

// finish stores the rest of a round, and then how far it came.
func (s *sink) finish(ctx context.Context, read *flows.ServerRead) error {
	if err := s.begin(ctx); err != nil {
		return err
	}
	defer s.done()
	if err := s.spill(ctx); err != nil { // what was there before the round
		return err
	}
	s.mu.Lock()
	rows, part := s.rows, s.part
	s.rows, s.bytes, s.held = nil, 0, -1
	s.mu.Unlock()
	fact, err := read.Fact()
	if err != nil {
		return err
	}
	return s.store(ctx, rows, s.digest(read.Round, part, rows), fact)
}

// tell stores how far a query came, without rows.
func (s *sink) tell(ctx context.Context, read *flows.ServerRead) error {
	fact, err := read.Fact()
	if err != nil {
		return err
	}
	return s.store(ctx, nil, filestore.Digest{}, fact)
}

// digest is what a part of a round is known by. A round that is worked off again,
// alike, is the same; anything else is another.
func (s *sink) digest(round, part uint64, rows [][]byte) filestore.Digest {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s\x00%s\x00%d\x00", s.q.plan.key.org, s.q.plan.key.name, s.q.plan.added)
	hash.Write(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, round), part))
	for _, row := range rows {
		hash.Write(row)
		hash.Write([]byte{'\n'})
	}
	return filestore.Digest(hash.Sum(nil)[:16])
}

// anyDigest is of rows that are stored once and never again.
func anyDigest() (d filestore.Digest) {
	rand.Read(d[:]) // never fails since Go 1.24
	return d
}

// store makes rows durable and then a fact, trying until ctx ends.
func (s *sink) store(ctx context.Context, rows [][]byte, digest filestore.Digest, fact *buspb.Mutation) error {
	if len(rows) == 0 && fact == nil {
		return nil
	}
	commit := &filestore.Commit{}
	if len(rows) > 0 {
		commit.Appends = []filestore.Append{s.lines(rows, digest)}
	}
	if fact != nil {
		commit.Facts = []*buspb.Mutation{fact}
	}
	err := retry.Do(ctx, retry.Policy{Tries: -1, First: storing.First, Cap: storing.Cap}, s.again, func() error {
		return s.submit(ctx, commit)
	})
	if err != nil {
		return fmt.Errorf("store what %s made: %w", s.q.plan.key.name, err)
	}
	if len(rows) > 0 && !s.log {
		s.q.r.metrics.rows.Add(float64(len(rows)))
		s.q.r.o.Flows.StoredEvents(s.q.plan.key.org, s.q.plan.key.name)
	}
	return nil
}

// submit waits for the outcome of a commit that has begun, also when its master is
// told to stop: who leads next then knows it.
func (s *sink) submit(ctx context.Context, commit *filestore.Commit) error {
	lasting, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() {
		timer := time.NewTimer(lastFlush)
		defer timer.Stop()
		select {
		case <-timer.C:
			cancel()
		case <-lasting.Done():
		}
	})()
	return s.q.r.o.Committer.Submit(lasting, commit)
}

// again counts a store that failed; told by the filestore's own log and metrics.
func (s *sink) again(err error) bool {
	s.q.r.metrics.retries.Inc()
	return !errors.Is(err, filestore.ErrBadAppend) // a mistake of this package
}

// lines puts the time in front of each object.
func (s *sink) lines(rows [][]byte, digest filestore.Digest) filestore.Append {
	now := time.Now()
	var text bytes.Buffer
	for _, row := range rows {
		fmt.Fprintf(&text, `{"_ts":%d`, now.Unix())
		if !bytes.Equal(row, []byte("{}")) {
			text.WriteByte(',')
		}
		text.Write(row[1:])
		text.WriteByte('\n')
	}
	key := s.q.plan.key
	a := filestore.Append{Lines: text.Bytes(), Set: filestore.Events(key.org, key.name, now)}
	a.Extent = filestore.Extent{Client: ids.Server, Name: key.name, Rows: int64(len(rows)), Digest: digest}
	if s.log {
		a.Set, a.Extent.Name = filestore.EventLogs(key.org, key.name, now), logName
	}
	return a
}

func size(rows [][]byte) int {
	n := 0
	for _, row := range rows {
		n += len(row)
	}
	return n
}
