package flows

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"raptorpack/filestore"
	"raptorpack/proto/buspb"
)

const (
	// maxIntervals bounds how scattered the rows of one result may be: an
	// honest client sends them in order.
	maxIntervals = 4096

	// maxBatches is how many batches per stream are remembered by checksum.
	maxBatches = 8192

	// maxConflicts is how many differing resends per flow are kept.
	maxConflicts = 16

	// maxAboutBytes bounds what is kept of one flow's uploads before they end.
	maxAboutBytes = 8 << 20

	// keepEnded is how long this node remembers what it holds of a flow that
	// has ended, so that late resends are recognised. What comes later still is
	// either not wanted any more or stored twice and shown once.
	keepEnded = 2 * time.Minute

	// keepComplete is that of a flow of which everything is here, and told: more of
	// its rows is not wanted.
	keepComplete = 30 * time.Second

	// keepIdle is how long it remembers a flow that runs but says nothing, while
	// its client has a connection here.
	keepIdle = 24 * time.Hour

	// keepAway is how long it remembers one whose client has none: it may go on
	// elsewhere, and what is stored twice then is shown once.
	keepAway = 10 * time.Minute
)

// local is what this incarnation holds of one flow, and what of it is on its
// way. Only facts of this process are in it: after a restart it begins empty,
// because what an earlier incarnation wrote is told by others.
type local struct {
	names   map[string]*stream // by result name; "" takes rows without a name, which are not stored
	logs    stream
	uploads map[int64]*upload

	rows, rowBytes, uploadBytes, logLines int64  // taken in, durable or on the way
	ends                                  stream // finished uploads, by number
	aboutBytes                            int64  // of uploads that have not ended
	conflicts                             int64

	taken    bool     // the fact that the client took the task is durable
	endRank  int      // of the strongest end that is durable
	limited  bool     // over a limit of ours
	ended    bool     // by the ledger
	complete bool     // by the ledger
	answered question // the newest that the client answered and that others were told of

	version  int64     // counts changes of what is durable
	reported int64     // version of the newest durable fact about it
	told     time.Time // when a fact about coverage alone was written
	used     time.Time
	progress *Progress
}

// stream is a numbered run of lines.
type stream struct {
	have    filestore.Intervals
	batches []batch           // durable, by first line, of which each has one
	flying  map[batch]*flight // on the way; nil: none
}

// batch is a part of a stream, as its client cut it.
type batch struct {
	first, count int64
	crc          uint32
}

func (b batch) end() int64 { return b.first + b.count }

// upload is one file on its way.
type upload struct {
	about   *aboutUpload
	told    bool      // about stands in the list, or is on its way there
	writes  stream    // numbered by bytes of the stored file
	stored  int64     // bytes, once it has ended
	failing time.Time // since when its end comes but bytes are missing
}

// flight is one packet between its reservation and its commit.
type flight struct {
	done chan struct{} // closed when it is decided; never sent to
}

// verdict is what a stream says to a batch that is offered.
type verdict int

const (
	fresh verdict = iota
	had
	conflict // had, with other bytes
)

// judge looks a batch up. Rows partly had are fresh: readers merge. The same
// batch on its way can only be in this very packet: others are waited for.
func (s *stream) judge(b batch) verdict {
	for other := range s.flying {
		if other.first == b.first && other.count == b.count {
			return had
		}
	}
	if !s.have.Has(b.first, b.end()) {
		return fresh
	}
	if at, ok := s.find(b.first); ok && s.batches[at].count == b.count && s.batches[at].crc != b.crc {
		return conflict
	}
	return had
}

// judgeBytes is judge for bytes of an upload: only a piece that is known to be the
// same is had. A client that begins a file anew may cut it otherwise.
func (s *stream) judgeBytes(b batch) verdict {
	v := s.judge(b)
	if at, ok := s.find(b.first); v == had && s.flying[b] == nil && (!ok || s.batches[at] != b) {
		return fresh
	}
	return v
}

// find returns where the batch that begins with a line stands, or would.
func (s *stream) find(first int64) (int, bool) {
	return slices.BinarySearchFunc(s.batches, first, func(b batch, first int64) int { return cmp.Compare(b.first, first) })
}

func (s *stream) reserve(b batch, f *flight) {
	if s.flying == nil {
		s.flying = map[batch]*flight{}
	}
	s.flying[b] = f
}

// settle ends a reservation.
func (s *stream) settle(b batch, durable bool) {
	if delete(s.flying, b); len(s.flying) == 0 {
		s.flying = nil // even an empty map takes room, and most flows rest
	}
	if !durable {
		return
	}
	s.have.Add(b.first, b.end())
	switch at, known := s.find(b.first); {
	case known:
		s.batches[at] = b
	case len(s.batches) < maxBatches:
		s.batches = slices.Insert(s.batches, at, b)
	}
}

// overwrite forgets the batches that a piece of an upload lies over.
func (s *stream) overwrite(b batch) {
	s.batches = slices.DeleteFunc(s.batches, func(old batch) bool { return old.first < b.end() && b.first < old.end() })
}

func (l *local) stream(name string) *stream {
	s := l.names[name]
	if s == nil {
		s = &stream{}
		l.names[name] = s
	}
	return s
}

func (l *local) upload(number int64) *upload {
	u := l.uploads[number]
	if u == nil {
		u = &upload{}
		l.uploads[number] = u
	}
	return u
}

// forgetAbout drops what a client said of an upload.
func (l *local) forgetAbout(u *upload) {
	if u.about != nil {
		l.aboutBytes -= u.about.bytes()
		u.about = nil
	}
}

// coverage tells what is durable, and what flying adds to it: the rows that the
// same commit makes durable before the fact.
func (l *local) coverage(key Key, incarnation string, with []reservation) *buspb.FlowCoverage {
	c := &buspb.FlowCoverage{
		Key: key.proto(), Incarnation: incarnation, Uploads: boundsOf(l.ends.have), Conflicts: l.conflicts,
	}
	for _, ended := range l.ends.have {
		for n := ended.Start; n < ended.End; n++ {
			c.UploadBytes += l.uploads[n].stored
			c.UploadSizes = append(c.UploadSizes, n, l.uploads[n].stored)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(l.names)) {
		have := l.names[name].with(with)
		if len(have) > 0 {
			c.Names = append(c.Names, &buspb.FlowExtent{Name: name, Bounds: boundsOf(have)})
		}
	}
	return c
}

// with is what the stream holds when the reservations are durable.
func (s *stream) with(held []reservation) filestore.Intervals {
	have, cloned := s.have, false
	for _, h := range held {
		if h.stream != s {
			continue
		}
		if !cloned {
			have, cloned = have.Clone(), true
		}
		have.Add(h.batch.first, h.batch.end())
	}
	return have
}

// idle reports whether the notes on a flow may go; here says that its client has a
// connection to this node.
func (l *local) idle(now time.Time, here bool) bool {
	keep := keepAway
	switch {
	case l.complete:
		keep = keepComplete
	case l.ended:
		keep = keepEnded
	case here:
		keep = keepIdle
	}
	return now.Sub(l.used) > keep && !l.busy()
}

func (l *local) busy() bool {
	if len(l.logs.flying) > 0 || len(l.ends.flying) > 0 {
		return true
	}
	for _, s := range l.names {
		if len(s.flying) > 0 {
			return true
		}
	}
	for _, u := range l.uploads {
		if len(u.writes.flying) > 0 {
			return true
		}
	}
	return false
}

// localOf finds or makes the notes on a flow. The shard's lock is held.
func (s *shard) localOf(key Key, now time.Time) *local {
	l := s.locals[key]
	if l == nil {
		l = &local{names: map[string]*stream{}, uploads: map[int64]*upload{}}
		s.locals[key] = l
	}
	l.used = now
	return l
}
