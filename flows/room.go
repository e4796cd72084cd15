package flows

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// committer makes data durable: *filestore.Committer.
type committer interface {
	// Submit returns nil when all of c is durable, its facts after its data.
	Submit(ctx context.Context, c *filestore.Commit) error

	// FinishUpload gives a complete upload its name and hash. Calling it again
	// for an upload that has its name already gives the same answer.
	FinishUpload(ctx context.Context, f filestore.UploadFinish) (*filestore.StoredUpload, error)

	// CleanUploads removes what the uploads of a complete flow left behind.
	CleanUploads(ctx context.Context, org ids.Org, client ids.Client, flow ids.Flow) error

	// Forget closes the files below a directory that is about to be removed.
	Forget(ctx context.Context, dir string)
}

// clientInfo takes over what an agent tells about its machine. It plans a
// mutation of the clients' room; nil means that nothing changed.
type clientInfo interface {
	PlanInfo(org ids.Org, client ids.Client, line []byte, received time.Time) (*buspb.Mutation, error)
}

// Options wires a Room. Committer, Incarnation and Store are required to take in
// data; a room without them only keeps state.
type Options struct {
	Committer   committer
	Reader      reader           // results are read through it
	Store       *filestore.Store // views and uploads
	Incarnation string           // "<node>-<n>": who holds what is taken in here

	Hunts  hunts                              // told of the flows that hunts started; nil: none
	Info   clientInfo                         // nil: self-reports are dead letters
	Labels func(ids.Org, ids.Client) []string // a client's labels; nil: none
	Wake   func(ids.Org, ids.Client)          // a client has something to fetch; must not block; nil: none
	Ended  func(Key)                          // a flow reached its final state here; must not block; nil: none
	// Finished tells which flows an entry brought to an end, each flow once in its life,
	// as they stand then.
	// It is part of the state: called from Apply's goroutine with no lock held, in the
	// order of the ledger, also while that is replayed; not by Restore. Nil: nobody asks.
	Finished func(index uint64, at time.Time, ended []*Flow)

	Heard func(Heard)                            // a client answered an inquiry; must not block; nil: dropped
	Alert func(Key, string /*artifact*/, []byte) // an alert line was made durable; must not block; nil: none
	Grown func(ids.Org, string /*result name*/)  // event rows were made durable here; must not block; nil: none
	Tails tails                                  // follows event rows; required for FollowEvents

	// Fresh returns when this node has applied everything that the ledger held when
	// the call began, wherever the master is. Nil: nobody is ever ahead of this node.
	Fresh func(context.Context) error

	// Untold returns the facts that any node, living or dead, had made durable when
	// the call began and that are not applied here yet. Nil: there are none but of
	// this node.
	Untold func(context.Context) ([]*buspb.Mutation, error)

	Concurrency int           // flows a client runs at a time by its own default; 0: 2
	Silence     time.Duration // a running flow that says nothing for so long is asked about; 0: 60 s
	Defaults    Limits        // per flow, where neither request nor caller says; 0: see setDefaults
	EventMemory int           // event batches remembered against resending; 0: 500,000

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

func (o *Options) setDefaults() {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	orDefault(&o.Concurrency, 2)
	orDefault(&o.Silence, 60*time.Second)
	orDefault(&o.EventMemory, 500_000)
	orDefault(&o.Defaults.Rows, 50_000_000)
	orDefault(&o.Defaults.RowBytes, 64<<30)
	orDefault(&o.Defaults.Uploads, 100_000)
	orDefault(&o.Defaults.UploadBytes, 1<<40)
	orDefault(&o.Defaults.Logs, 100_000)
}

func orDefault[T int | int64 | time.Duration](v *T, d T) {
	if *v == 0 {
		*v = d
	}
}

// Room is one node's collections: the replicated table, what this node holds
// durably of running flows, and the connections that wait for work. It is safe
// for concurrent use.
type Room struct {
	*Table
	Events *EventTable
	Server *ServerTable
	Erased *EventDeletions

	o       Options
	mark    string // names this node in questions
	log     *slog.Logger
	metrics *metrics
	inflate inflateMemory
	seen    *eventMemory
	news    *eventNews
	shards  [64]shard
	asks    atomic.Uint64 // questions asked

	inquired    atomic.Uint64 // inquiries made
	answerBytes atomic.Int64  // of rows that wait for their end

	fresh   *barrier
	fences  fences
	offers  dirtySet // tasks to be offered
	due     dirtySet // flows whose coverage others should learn
	views   dirtySet // flows whose flow.json is old
	closing closing  // deleted flows whose files are open here
}

// shard guards what this node knows of the clients whose id falls into it.
type shard struct {
	mu         sync.Mutex
	locals     map[Key]*local
	visits     map[owner]*visit
	allowances map[owner]allowance
	inquiries  map[owner][]*inquiry
	answers    map[Key]*answer
	watch      map[Key]map[*Watch]struct{}

	tellMu sync.Mutex
	told   map[complaint]int64
}

// New wires a room. Nothing runs before Run.
func New(o Options) *Room {
	o.setDefaults()
	r := &Room{
		o: o, mark: markOf(o.Incarnation), log: o.Logger, metrics: newMetrics(o.Registerer), inflate: newInflateMemory(),
		seen: newEventMemory(o.EventMemory), fresh: newBarrier(o.Fresh), fences: newFences(), closing: newClosing(),
	}
	for i := range r.shards {
		r.shards[i].locals = map[Key]*local{}
		r.shards[i].visits = map[owner]*visit{}
		r.shards[i].told = map[complaint]int64{}
		r.shards[i].allowances = map[owner]allowance{}
		r.shards[i].inquiries = map[owner][]*inquiry{}
		r.shards[i].answers = map[Key]*answer{}
		r.shards[i].watch = map[Key]map[*Watch]struct{}{}
	}
	r.offers = newDirtySet(0)
	r.due = newDirtySet(0)
	r.views = newDirtySet(maxViews)
	r.Table = newTable(r.applied, r.reloaded)
	r.hunts = o.Hunts
	r.killed, r.finished = r.kill, o.Finished
	r.Events = newEventTable(r.eventsChanged)
	r.Server = newServerTable()
	r.Erased = newEventDeletions()
	r.news = newEventNews()
	return r
}

func (r *Room) shard(o owner) *shard {
	h := uint32(2166136261)
	for _, c := range []byte(o.client.String()) {
		h = (h ^ uint32(c)) * 16777619
	}
	return &r.shards[h%uint32(len(r.shards))]
}

// applied follows the ledger: it wakes connections and notes what this node owes
// to others. It runs in Apply's goroutine, with no lock held.
func (r *Room) applied(keys []Key) {
	for _, key := range keys {
		f, _ := r.lookup(key)
		wake := r.follow(key, f)
		if f == nil || f.viewed() {
			r.views.add(key)
		}
		if f != nil && f.State.Final() && r.o.Ended != nil {
			r.o.Ended(key)
		}
		if wake && r.o.Wake != nil {
			r.o.Wake(key.Org, key.Client)
		}
	}
}

// reloaded follows a Restore: what this node knows of clients and flows is brought
// up to the new state, as if the entries between had come.
func (r *Room) reloaded() {
	var keys []Key
	for i := range r.shards {
		s := &r.shards[i]
		s.mu.Lock()
		for key := range s.locals {
			keys = append(keys, key)
		}
		for o, v := range s.visits {
			for id := range v.errands {
				keys = append(keys, Key{o.org, o.client, id})
			}
			open, _ := r.open(o)
			for _, f := range open {
				keys = append(keys, f.Key)
			}
		}
		s.mu.Unlock()
	}
	slices.SortFunc(keys, compareKeys)
	r.applied(slices.Compact(keys))
}

// follow brings this node's own notes of one flow up to its new record and says
// whether its client has something to fetch.
func (r *Room) follow(key Key, f *Flow) bool {
	s := r.shard(key.owner())
	s.mu.Lock()
	l, v := s.locals[key], s.visits[key.owner()]
	owed := l != nil && f != nil && f.Outcome != 0 && l.version > l.reported
	if l != nil && f == nil {
		r.closing.add(key, r.deletedBy(key)) // which drops the notes, once nothing is on its way
	}
	if l != nil && f != nil {
		l.ended, l.complete = f.State.Final(), f.State == Completed
	}
	followers := s.followers(key)
	wake := f != nil && (f.State == Pending || f.CancelDue)
	if f == nil || !f.open() {
		wake = r.waiting(key.owner()) // an ended flow makes room for tasks
	}
	if v != nil {
		v.note(key.Flow, f, r.o.Incarnation, time.Now())
		if wake {
			followers = append(followers, v.wakes()...)
		}
	}
	s.mu.Unlock()
	if owed {
		r.due.add(key)
	}
	signal(followers)
	return wake
}

// waiting reports whether the client has tasks that an ended flow makes room for.
func (r *Room) waiting(o owner) bool {
	open, _ := r.open(o)
	return len(open) > 0
}

// signal tells one-slot channels that something changed. A full slot means that
// its reader will look anyway.
func signal(to []chan struct{}) {
	for _, c := range to {
		select {
		case c <- struct{}{}:
		default:
		}
	}
}
