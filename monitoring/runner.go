package monitoring

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/internal/retry"
	"raptorpack/proto/buspb"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	lookEvery = 5 * time.Second // for definitions that changed
	untoldTry = time.Second
)

// committer makes rows durable, and facts about them afterwards: *filestore.Committer.
type committer interface {
	Submit(ctx context.Context, c *filestore.Commit) error
}

// Options wire a Runner. All but the last two and Metadata are required.
type Options struct {
	Flows     *flows.Room
	Artifacts *artifacts.Room
	Committer committer
	Engine    *vql.Engine

	// Tools is what artifacts are told of tools that they declare.
	Tools artifacts.ToolVariables
	// Metadata is the server's own, for parameters that ask for it; nil: none.
	Metadata func(org ids.Org) map[string]string

	// Untold returns facts that some node has made durable and that are not applied
	// here yet.
	Untold func(context.Context) ([]*buspb.Mutation, error)

	// Session is what queries of an org run with in the name of a principal: what
	// they may do and what they work on. watch is one more service of theirs.
	Session func(org ids.Org, principal string, watch any) vql.SessionOptions

	Registerer prometheus.Registerer // nil: counted, not exported
	Logger     *slog.Logger          // nil: slog.Default
}

// Runner keeps the server event queries of the table running.
type Runner struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
}

// New wires a Runner; Run starts it, once or again and again.
func New(o Options) *Runner {
	r := &Runner{o: o, log: o.Logger, metrics: newMetrics(o.Registerer)}
	if r.log == nil {
		r.log = slog.Default()
	}
	return r
}

// Run runs the queries until ctx ends, and returns when all have ended.
func (r *Runner) Run(ctx context.Context) error {
	t := &term{r: r, running: map[queryKey]*running{}, broken: map[string]string{}, places: map[placeKey]flows.ServerPlace{}}
	defer t.stopAll()
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		if !t.ready && len(r.o.Flows.Server.Orgs()) > 0 {
			t.ready = t.adopt(ctx)
		}
		if t.ready {
			t.reconcile(ctx)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-r.o.Flows.Server.Changed():
		}
	}
}

// queryKey names a query in an org.
type queryKey struct {
	org  ids.Org
	name string
}

// placeKey names one life of a query in the table.
type placeKey struct {
	queryKey
	added uint64
}

// plan is a query as it should run.
type plan struct {
	key       queryKey
	added     uint64
	principal string
	args      *wirepb.VQLCollectorArgs
	print     [32]byte // equal while nothing of it changes
}

// running is a query under way.
type running struct {
	plan plan
	stop context.CancelFunc
	done chan struct{} // closed when it has ended
}

// term is one mastership. It is for one goroutine, but for places.
type term struct {
	r       *Runner
	ready   bool // places of the master before are known
	running map[queryKey]*running
	broken  map[string]string // artifacts that do not compile, and why

	mu     sync.Mutex
	places map[placeKey]flows.ServerPlace // newer than what is applied here
}

// adopt takes over what the ledger does not know yet of how far queries have read.
// Nothing may run before: it would work off again what is stored.
func (t *term) adopt(ctx context.Context) bool {
	for warned := false; ; warned = true {
		facts, err := t.r.o.Untold(ctx)
		if err == nil {
			for _, org := range t.r.o.Flows.Server.Orgs() {
				all, _ := t.r.o.Flows.Server.Artifacts(org)
				for name, place := range t.r.o.Flows.Server.Reads(org, facts) {
					if a := ownerOf(all, name); a != nil {
						t.keep(placeKey{queryKey{org, name}, a.Added}, place)
					}
				}
			}
			return true
		}
		if ctx.Err() != nil {
			return false
		}
		if !warned {
			t.r.log.Warn("server event queries wait: what the master before made of events is not known yet", "err", err)
		}
		if !retry.Sleep(ctx, untoldTry) {
			return false
		}
	}
}

// ownerOf is the artifact of the table that a result name is of.
func ownerOf(all []flows.ServerArtifact, name string) *flows.ServerArtifact {
	for i := range all {
		if all[i].Name == name || artifactOf(all[i].Name) == artifactOf(name) {
			return &all[i]
		}
	}
	return nil
}

func (t *term) keep(key placeKey, place flows.ServerPlace) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.places[key] = place
}

// place is how far a query has read, by the newest word.
func (t *term) place(key placeKey) flows.ServerPlace {
	applied := t.r.o.Flows.Server.Place(key.org, key.name)
	t.mu.Lock()
	defer t.mu.Unlock()
	if own := t.places[key]; own.Round > applied.Round {
		return own
	}
	return applied
}

// reconcile ends queries that are not wanted any more, or otherwise, and begins
// those that are missing.
func (t *term) reconcile(ctx context.Context) {
	wanted := t.plans()
	for key, one := range t.running {
		if want, ok := wanted[key]; !ok || want.print != one.plan.print {
			one.stop()
			<-one.done // two of one name would both tell its place
			delete(t.running, key)
			t.r.log.Info("server event query ends, the table or its artifact changed", "artifact", key.name)
		}
	}
	for key, want := range wanted {
		if t.running[key] == nil {
			t.running[key] = t.begin(ctx, want)
		}
	}
	t.r.metrics.running.Set(float64(len(t.running)))
}

func (t *term) begin(ctx context.Context, p plan) *running {
	ctx, stop := context.WithCancel(ctx)
	one := &running{plan: p, stop: stop, done: make(chan struct{})}
	q := newQuery(t, p)
	go func() {
		defer close(one.done)
		defer stop()
		q.run(ctx)
	}()
	return one
}

func (t *term) stopAll() {
	for _, one := range t.running {
		one.stop()
	}
	for _, one := range t.running {
		<-one.done
	}
	t.r.metrics.running.Set(0)
}

// plans compiles the tables of all orgs. What does not compile is told once.
func (t *term) plans() map[queryKey]plan {
	out := map[queryKey]plan{}
	broken := map[string]string{}
	for _, org := range t.r.o.Flows.Server.Orgs() {
		all, _ := t.r.o.Flows.Server.Artifacts(org)
		for i := range all {
			made, err := t.r.compile(org, &all[i])
			if err != nil {
				broken[all[i].Name] = err.Error()
				if t.broken[all[i].Name] != err.Error() {
					t.r.log.Error("server event artifact cannot run", "artifact", all[i].Name, "err", err)
				}
			}
			for _, p := range made {
				out[p.key] = p
			}
		}
	}
	t.broken = broken
	t.r.metrics.broken.Set(float64(len(broken)))
	return out
}

var errNotServerEvent = errors.New("not a server event artifact")

// compile makes a plan for each source of an artifact.
func (r *Runner) compile(org ids.Org, a *flows.ServerArtifact) ([]plan, error) {
	spec := artifacts.Spec{Name: a.Name}
	for _, p := range a.Parameters {
		spec.Parameters = append(spec.Parameters, artifacts.Value{Name: p.Name, Value: p.Value})
	}
	wish := artifacts.Collect{Artifacts: []artifacts.Spec{spec}, ClearNames: true, Tools: r.o.Tools}
	if r.o.Metadata != nil {
		wish.Metadata = r.o.Metadata(org)
	}
	request, err := r.o.Artifacts.Repository(org).Compile(wish)
	if err != nil {
		return nil, err
	}
	if kind := request.Definitions[0].Type; kind != artifacts.ServerEvent {
		return nil, fmt.Errorf("%s is of type %s: %w", a.Name, kind, errNotServerEvent)
	}
	var out []plan
	for _, args := range request.Queries {
		text, err := proto.MarshalOptions{Deterministic: true}.Marshal(args)
		if err != nil {
			return nil, fmt.Errorf("compile %s: %w", a.Name, err)
		}
		last := args.GetQuery()[len(args.GetQuery())-1]
		out = append(out, plan{
			key: queryKey{org, last.GetName()}, added: a.Added, principal: a.Principal, args: args,
			print: sha256.Sum256(slices.Concat(fmt.Appendf(nil, "%d %s\x00", a.Added, a.Principal), text)),
		})
	}
	return out, nil
}
