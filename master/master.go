package master

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"raptorpack/filestore"
	"raptorpack/internal/retry"
	"raptorpack/replication"
)

// errLedgerEnded means that the ledger ended although nobody told it to.
var errLedgerEnded = errors.New("ledger ended before the term")

// How a term may end.
const (
	outcomeReleased = "released" // told to stop
	outcomeLost     = "lost"     // the lease ran out or a higher epoch was claimed
	outcomeFailed   = "failed"   // the ledger or a duty ended with an error
)

// Candidate wins epochs. *filestore.Candidate is one.
type Candidate interface {
	// Campaign blocks until this node holds a new epoch, or ctx ends.
	Campaign(ctx context.Context) (*filestore.Term, error)
}

// Ledger is the one order, as its leader runs it. *replication.Node is one.
type Ledger interface {
	// Lead takes over what older epochs left, opens the term's own and takes
	// entries until ctx ends (nil) or it cannot go on.
	Lead(ctx context.Context, term replication.Term) error

	// Position says how far this node has applied the ledger; it stands in the
	// term's epoch as soon as that takes entries.
	Position() (epoch, index uint64, chain [32]byte)
}

// Duty is something that runs while this node leads, such as admitting clients
// to hunts.
type Duty struct {
	Name string // for log and errors

	// Run works until ctx ends, with the term: then it returns, whatever it
	// started having ended. nil before that means that there is no more to do; an
	// error ends the term.
	Run func(ctx context.Context, term *filestore.Term) error
}

// Otherwise is what a candidate does while it does not lead. *minion.Minion is one.
type Otherwise interface {
	// Run works until ctx ends (nil); all that it started has ended then.
	Run(ctx context.Context) error
}

// Options sets up a Master.
type Options struct {
	Candidate  Candidate             // required
	Ledger     Ledger                // required
	Duties     []Duty                // begun together once the ledger takes entries
	Otherwise  Otherwise             // what runs while this node does not lead; nil: nothing
	Registerer prometheus.Registerer // nil: metrics are counted but not exported
	Logger     *slog.Logger          // nil: slog.Default

	// EndWithin bounds how long the lease is kept for a ledger or duty that was
	// told to end. 0: 5 s.
	EndWithin time.Duration

	// ReleaseWithin bounds how long giving up the lease may take. 0: 2 s.
	ReleaseWithin time.Duration
}

// Master is a node's candidacy and what comes of it.
type Master struct {
	o       Options
	log     *slog.Logger
	metrics *metrics
	leads   atomic.Uint64 // epoch that this node leads now, 0: none
}

// afterFailure is how long a node stays away from the lease after a term that
// failed: long enough for another candidate to try its luck, longer each time.
var afterFailure = retry.Policy{First: 2 * time.Second, Cap: 30 * time.Second}

// ledgerPoll is how often the opening of a new epoch is looked for.
const ledgerPoll = 10 * time.Millisecond

// New wires a Master; Run starts it.
func New(o Options) *Master {
	m := &Master{o: o, log: o.Logger, metrics: newMetrics(o.Registerer)}
	if m.log == nil {
		m.log = slog.Default()
	}
	if m.o.EndWithin <= 0 {
		m.o.EndWithin = 5 * time.Second
	}
	if m.o.ReleaseWithin <= 0 {
		m.o.ReleaseWithin = 2 * time.Second
	}
	return m
}

// Epoch returns the epoch that this node leads at the moment, 0 if none. It is
// for people and health checks: nothing may be decided by it.
func (m *Master) Epoch() uint64 { return m.leads.Load() }

// Run campaigns, leads and follows again until ctx ends; then it releases the
// lease and returns nil. filestore.ErrUnfit means that the mount cannot carry a
// lease: such a node must not be a candidate.
func (m *Master) Run(ctx context.Context) error {
	failures := 0
	for {
		term, err := m.campaign(ctx, failures)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("run as candidate: %w", err)
		}
		if m.serve(ctx, term) == outcomeFailed {
			failures++
		} else {
			failures = 0
		}
		if ctx.Err() != nil {
			return nil
		}
	}
}

// campaign wins the next epoch, after a pause if terms have failed. Meanwhile the
// node does what it does otherwise; that has ended when campaign returns.
func (m *Master) campaign(ctx context.Context, failures int) (*filestore.Term, error) {
	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	ended := make(chan error, 1) // one answer
	go func() { ended <- m.otherwise(life, end) }()
	term, err := (*filestore.Term)(nil), error(nil)
	if failures == 0 || retry.Sleep(life, afterFailure.Pause(failures)) {
		term, err = m.o.Candidate.Campaign(life)
	} else {
		err = context.Cause(life)
	}
	end(nil)
	broken := <-ended
	if broken == nil || term == nil {
		return term, errors.Join(err, broken)
	}
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.o.ReleaseWithin)
	defer cancel()
	return nil, errors.Join(broken, term.Release(limited))
}

// otherwise ends the campaign if what runs meanwhile ends by itself.
func (m *Master) otherwise(ctx context.Context, end context.CancelCauseFunc) error {
	if m.o.Otherwise == nil {
		return nil
	}
	err := m.o.Otherwise.Run(ctx)
	if err != nil {
		end(err)
	}
	return err
}

// serve leads one term from claim to release and returns how it ended.
func (m *Master) serve(ctx context.Context, term *filestore.Term) string {
	log := m.log.With("epoch", term.Epoch())
	m.metrics.epoch.Set(float64(term.Epoch()))
	log.InfoContext(ctx, "lease held, taking over")
	err := m.lead(ctx, term)
	// The lease is given up last: nothing that relies on it runs any more.
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.o.ReleaseWithin)
	defer cancel()
	if err := term.Release(limited); err != nil {
		log.WarnContext(ctx, "lease not released, others will wait for it to run out", "err", err)
	}
	outcome := outcomeOf(ctx, err)
	m.metrics.terms.WithLabelValues(outcome).Inc()
	switch outcome {
	case outcomeReleased:
		log.InfoContext(ctx, "led no more, told to stop")
	case outcomeLost:
		log.WarnContext(ctx, "led no more, lease lost", "err", err)
	case outcomeFailed:
		log.ErrorContext(ctx, "led no more, something failed", "err", err)
	}
	return outcome
}

func outcomeOf(ctx context.Context, err error) string {
	switch {
	case errors.Is(err, filestore.ErrLeaseLost):
		return outcomeLost
	case ctx.Err() != nil:
		return outcomeReleased
	}
	return outcomeFailed
}

// lead runs the ledger and the duties under a context that ends with the lease.
// It returns when all of them have ended, with the first reason to stop. The
// lease is kept so long, within EndWithin: what is under way may come to its
// end, but what hangs must not keep the pack without a master.
func (m *Master) lead(ctx context.Context, term *filestore.Term) error {
	keeping, release := context.WithCancel(context.WithoutCancel(ctx))
	defer release()
	kept := make(chan error, 1) // one answer
	reign, end := context.WithCancel(ctx)
	defer end()
	go func() {
		defer end()
		kept <- term.Keep(keeping)
	}()
	worked := m.work(reign, term, func() {
		if retry.Sleep(keeping, m.o.EndWithin) {
			m.log.ErrorContext(ctx, "something that led does not end, lease no longer kept", "epoch", term.Epoch())
			release()
		}
	})
	release()
	if err := <-kept; err != nil {
		return err // the cause of whatever else went wrong
	}
	return worked
}

// work runs the ledger and, once it takes entries, the duties. The first that
// fails ends all; ending is called beside it when they have to end.
func (m *Master) work(ctx context.Context, term *filestore.Term, ending func()) error {
	begin := time.Now()
	g, life := errgroup.WithContext(ctx)
	defer context.AfterFunc(life, ending)()
	g.Go(func() error {
		err := m.o.Ledger.Lead(life, term)
		if err == nil && life.Err() == nil {
			err = errLedgerEnded
		}
		return err
	})
	g.Go(func() error {
		if !m.awaitLedger(life, term.Epoch()) {
			return nil // the reason is on its way already
		}
		m.metrics.taking.Observe(time.Since(begin).Seconds())
		m.log.InfoContext(ctx, "leads", "epoch", term.Epoch(), "took", time.Since(begin))
		m.metrics.leading.Set(1)
		m.leads.Store(term.Epoch())
		for _, duty := range m.o.Duties {
			g.Go(func() error { return m.runDuty(life, duty, term) })
		}
		return nil
	})
	err := g.Wait()
	m.metrics.leading.Set(0)
	m.leads.Store(0)
	return err
}

func (m *Master) runDuty(ctx context.Context, duty Duty, term *filestore.Term) error {
	err := duty.Run(ctx, term)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("duty %s: %w", duty.Name, err)
}

// awaitLedger waits until this node's ledger stands in the epoch.
func (m *Master) awaitLedger(ctx context.Context, epoch uint64) bool {
	for {
		if at, _, _ := m.o.Ledger.Position(); at >= epoch {
			return ctx.Err() == nil
		}
		if !retry.Sleep(ctx, ledgerPoll) {
			return false
		}
	}
}
