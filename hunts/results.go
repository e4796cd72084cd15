package hunts

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"path"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/clients"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
)

var (
	// ErrBusy means that more tables wait to be sorted than this node queues. Trying
	// again later helps.
	ErrBusy = errors.New("too many tables are being sorted")

	// ErrTooLarge means that a table exceeds what this node gives to sort one. A
	// filter, or fewer clients, may help.
	ErrTooLarge = errors.New("table is too large to sort here")

	// ErrSortCancelled means that somebody cancelled the sort, or that nobody asked
	// for its result any more.
	ErrSortCancelled = errors.New("sort was cancelled")
)

// huntRecords knows the hunts: *Room.
type huntRecords interface {
	// Hunt returns a hunt, or ErrNotFound.
	Hunt(Key) (*Hunt, error)

	// Imported reports whether a hunt came from another pack: all its rows are shown,
	// as neither its clients nor its flows are known here.
	Imported(Key) bool

	// Clients returns a page of one of a hunt's sets, and where the next begins.
	Clients(key Key, s Set, after uint32, limit int) ([]Member, uint32, error)
}

// knownClients knows who is enrolled: *clients.Room.
type knownClients interface {
	// Ordinal returns a client's dense number; false if there is no such client.
	Ordinal(org ids.Org, client ids.Client) (uint32, bool)

	// Lookup returns a client's record.
	Lookup(org ids.Org, client ids.Client) (*clients.Record, error)
}

// huntFlows knows the flows of hunts: *flows.Room.
type huntFlows interface {
	// Flow returns a record, or flows.ErrNotFound.
	Flow(flows.Key) (*flows.Flow, error)

	// HuntFlows lists the flows of a hunt, by client and flow.
	HuntFlows(ids.Org, ids.Hunt) iter.Seq[*flows.Flow]
}

// segmentReader reads sets: *filestore.Reader.
type segmentReader interface {
	Pin(ctx context.Context, set filestore.Set, filter filestore.RowsFilter, cursor string) (*filestore.Pinned, int64, error)
}

// uploadStore opens uploads: *filestore.Store.
type uploadStore interface {
	OpenUpload(ctx context.Context, name string) (*filestore.UploadFile, error)

	// ReadFile reads a file of at most limit bytes.
	ReadFile(ctx context.Context, path string, limit int64) ([]byte, error)
}

// ResultsOptions wires Results. Those without a default are required.
type ResultsOptions struct {
	Hunts   huntRecords
	Flows   huntFlows
	Clients knownClients
	Reader  segmentReader
	Store   uploadStore

	// Scratch is a folder on a local disk for the temporary files of sorts. They have
	// no name there, so nothing is left behind by a crash.
	Scratch string

	PageBytes  int64         // a page ends after the row that exceeds it; 0: 8 MiB
	ScanBytes  int64         // plain bytes that one call of a filter looks at; 0: 256 MiB
	SortMemory int64         // bytes of keys that a sort holds; 0: 64 MiB
	SortDisk   int64         // bytes in Scratch, of all sorts; 0: 4 GiB
	SortKeep   time.Duration // how long a sorted table that nobody asks for is kept; 0: 10 min
	SortLeft   time.Duration // how long a sort that nobody asks for goes on; 0: 30 s

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Results reads the rows, logs and uploads of hunts, those of all clients as one
// table. It shows what the filestore has, but for clients and flows that were deleted,
// and tells what is missing, doubtful or damaged. Safe for concurrent use.
type Results struct {
	o       ResultsOptions
	log     *slog.Logger
	metrics *resultsMetrics
	queue   chan *sortJob // full: ErrBusy
	disk    diskBudget

	mu     sync.Mutex
	jobs   map[string]*sortJob // by what they sort
	chosen []chosen            // newest first
}

// maxSortsWaiting bounds the queue of sorts; one runs at a time.
const maxSortsWaiting = 16

// NewResults wires results. Sorts need Run.
func NewResults(o ResultsOptions) *Results {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	orDefault(&o.PageBytes, 8<<20)
	orDefault(&o.ScanBytes, 256<<20)
	orDefault(&o.SortMemory, 64<<20)
	orDefault(&o.SortDisk, 4<<30)
	orDefault(&o.SortKeep, 10*time.Minute)
	orDefault(&o.SortLeft, 30*time.Second)
	r := &Results{
		o: o, log: o.Logger, queue: make(chan *sortJob, maxSortsWaiting), jobs: map[string]*sortJob{},
		disk: diskBudget{limit: o.SortDisk},
	}
	r.metrics = newResultsMetrics(o.Registerer, r)
	return r
}

func orDefault[T int | int64 | time.Duration](value *T, fallback T) {
	if *value <= 0 {
		*value = fallback
	}
}

// hunt returns a hunt whose results may be shown.
func (r *Results) hunt(key Key) (*Hunt, error) {
	h, err := r.o.Hunts.Hunt(key)
	if err == nil && h.State == Deleted {
		err = fmt.Errorf("hunt %s is being deleted: %w", key.Hunt, ErrNotFound)
	}
	return h, err
}

// Source is what of a hunt a table shows.
type Source string

// The sources of tables.
const (
	ResultRows Source = ""        // one of its results, by name
	LogRows    Source = "logs"    // the query logs
	UploadRows Source = "uploads" // the list of finished uploads, each a flows.Upload
	FlowRows   Source = "flows"   // of an imported hunt: what its flows were where it ran, each a ClientLine
)

// set returns where a source lies, and the name of its extents: empty for all there
// are.
func (r *Results) set(key Key, source Source, name string) (filestore.Set, string, error) {
	h, err := r.hunt(key)
	switch {
	case err != nil:
		return "", "", err
	case source == LogRows && name == "":
		return filestore.HuntLogs(key.Org, key.Hunt), "", nil
	case source == UploadRows && name == "":
		return uploadSet(key), flows.UploadName, nil
	case source == FlowRows && name == "" && h.Origin != nil:
		return filestore.HuntFlows(key.Org, key.Hunt), importedFlows, nil
	case source == ResultRows && slices.Contains(h.Results, name):
		return filestore.HuntResults(key.Org, key.Hunt, name), name, nil
	}
	return "", "", fmt.Errorf("%s %.100q of hunt %s: %w", cmp.Or(source, "result"), name, key.Hunt, ErrNotFound)
}

// uploadSet is where the uploads of a hunt are listed.
func uploadSet(key Key) filestore.Set {
	return filestore.Set(path.Join(filestore.HuntDir(key.Org, key.Hunt), flows.UploadName))
}

// shows reports whether a client's rows of a flow may be shown: neither was deleted.
func (r *Results) shows(key Key, client ids.Client, flow ids.Flow) bool {
	if r.o.Hunts.Imported(key) {
		return true
	}
	if _, known := r.o.Clients.Ordinal(key.Org, client); !known {
		return false
	}
	_, err := r.o.Flows.Flow(flows.Key{Org: key.Org, Client: client, Flow: flow})
	return err == nil
}

// selection is which streams of a pinned set are shown. It does not change.
type selection struct {
	*filestore.Pinned
	taken  []bool // by stream
	rows   int64  // of those
	hidden int64  // rows of clients or flows that were deleted
	gaps   bool   // row numbers may be left out: they are those of uploads
}

// choose looks at the streams of a set: those that may be shown, and are of one of
// some clients if there are any.
func (r *Results) choose(key Key, p *filestore.Pinned, only []ids.Client, gaps bool) *selection {
	wanted := make(map[ids.Client]bool, len(only))
	for _, c := range only {
		wanted[c] = true
	}
	s := &selection{Pinned: p, taken: make([]bool, p.Streams()), gaps: gaps}
	for i := range s.taken {
		stream, rows := p.Stream(i)
		if len(wanted) > 0 && !wanted[stream.Client] {
			continue
		}
		if s.taken[i] = r.shows(key, stream.Client, stream.Flow); s.taken[i] {
			s.rows += rows
		} else {
			s.hidden += rows
		}
	}
	return s
}

// chosen is a selection of all clients that was made not long ago.
type chosen struct {
	key  Key
	at   time.Time
	sums Sums // of the hunt then: flows that came since may be shown, though their rows were there
	*selection
}

const (
	// chosenLife is how long a selection serves further pages, as looking at 100,000
	// clients takes some 30 ms. Who shows rows asks again whether they may be shown, so
	// only sums are that old.
	chosenLife = time.Second

	maxChosen = 4
)

// lately returns a selection of all of a set, which may be a second old.
func (r *Results) lately(key Key, p *filestore.Pinned, gaps bool) *selection {
	var sums Sums
	if h, err := r.o.Hunts.Hunt(key); err == nil { // else nothing of it is shown
		sums = h.Sums
	}
	r.mu.Lock()
	for _, c := range r.chosen {
		if c.key == key && c.sums == sums && time.Since(c.at) < chosenLife && c.Same(p) {
			again := *c.selection
			again.Pinned = p // it knows of damage that is new
			r.mu.Unlock()
			return &again
		}
	}
	r.mu.Unlock()
	at := time.Now()
	s := r.choose(key, p, nil, gaps)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.chosen = append([]chosen{{key, at, sums, s}}, r.chosen[:min(len(r.chosen), maxChosen-1)]...)
	return s
}

func (s *selection) take(stream int) bool { return s.taken[stream] }

// showsNow reports whether a stream that was chosen may still be shown.
func (r *Results) showsNow(key Key, s *selection, stream int) bool {
	of, _ := s.Stream(stream)
	return r.shows(key, of.Client, of.Flow)
}

// pin looks at a set of a hunt, and chooses from it.
func (r *Results) pin(ctx context.Context, key Key, set filestore.Set, name string, only []ids.Client, cursor string) (*selection, int64, error) {
	p, place, err := r.o.Reader.Pin(ctx, set, filestore.RowsFilter{Name: name}, cursor)
	if err != nil {
		return nil, 0, fmt.Errorf("results of hunt %s: %w", key.Hunt, err)
	}
	gaps := set == uploadSet(key)
	if len(only) == 0 {
		return r.lately(key, p, gaps), place, nil
	}
	return r.choose(key, p, only, gaps), place, nil
}
