package cluster

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"raptorpack/internal/retry"
)

const (
	joinsAtOnce = 8
	seedsLimit  = 5 * time.Second // a mount that hangs must not stop the joining of what is known

	// aliasRest is how long an address is left alone that answered, but under which
	// no member is known: a balancer, another address of a member, or of this node.
	aliasRest = time.Minute
)

// joiner joins every wanted address that is not among the members. Only its own
// goroutine uses it, and those of one round.
type joiner struct {
	s       *settings
	own     netip.AddrPort
	table   *table
	journal *journal
	metrics *metrics
	pace    tuning
	join    func(address string) error

	seeds   []endpoint      // as last told
	unseen  bool            // Seeds did not answer the last time
	failing map[string]bool // endpoints whose last attempt failed, as their line in the log says

	mu      sync.Mutex
	aliases map[netip.AddrPort]time.Time // when they answered
}

// run joins until ctx ends. A member that goes brings the next round near.
func (j *joiner) run(ctx context.Context) {
	var last []string
	for try := 0; ; {
		missing := j.round(ctx)
		if !slices.Equal(missing, last) {
			try = 0
		}
		last, try = missing, try+1
		pause := j.pace.rejoin.Pause(try)
		if len(missing) == 0 {
			pause = retry.Policy{First: j.pace.settled}.Pause(1)
		}
		if !j.rest(ctx, pause) {
			return
		}
	}
}

// rest waits for pause, but no longer than the first of the pauses after a member has gone.
func (j *joiner) rest(ctx context.Context, pause time.Duration) bool {
	until := time.Now().Add(pause)
	for {
		timer := time.NewTimer(time.Until(until))
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-timer.C:
			return true
		case <-j.table.lost:
			timer.Stop()
			j.forgetAliases()
			if soon := time.Now().Add(j.pace.rejoin.Pause(1)); soon.Before(until) {
				until = soon
			}
		}
	}
}

// round tries what is missing, all at once, and returns what could not be joined.
func (j *joiner) round(ctx context.Context) []string {
	wanted := j.wanted(ctx)
	errs := make([]error, len(wanted))
	var g errgroup.Group
	g.SetLimit(joinsAtOnce)
	for i, e := range wanted {
		g.Go(func() error {
			errs[i] = j.attempt(ctx, e)
			return nil
		})
	}
	_ = g.Wait() // each has its error in errs
	if ctx.Err() != nil {
		return nil
	}
	missing := j.tell(wanted, errs)
	if j.unseen {
		missing = append(missing, "seeds")
	}
	return missing
}

// wanted is Join and what Seeds says, or said when it last answered.
func (j *joiner) wanted(ctx context.Context) []endpoint {
	if j.s.Seeds != nil {
		seeds, err := j.askSeeds(ctx)
		switch {
		case ctx.Err() != nil:
		case err != nil:
			j.journal.trouble(troubleSeeds, "seeds", "the filestore does not name other nodes", "err", err)
			j.unseen = true
		default:
			j.seeds, j.unseen = seeds, false
		}
	}
	var all []endpoint
	for _, e := range slices.Concat(j.s.join, j.seeds) {
		if !slices.Contains(all, e) {
			all = append(all, e)
		}
	}
	return all
}

// askSeeds returns what can be used of an answer; one bad address spoils no other.
func (j *joiner) askSeeds(ctx context.Context) ([]endpoint, error) {
	ctx, cancel := context.WithTimeout(ctx, seedsLimit)
	defer cancel()
	texts, err := j.s.Seeds(ctx)
	if err != nil {
		return nil, err
	}
	seeds, err := endpoints(texts, j.s.defaultPort())
	if err != nil {
		j.journal.trouble(troubleSeeds, "seed "+err.Error(), "an address that the filestore names is no address", "err", err)
	}
	return seeds, nil
}

// attempt joins the addresses of e that are not among the members.
func (j *joiner) attempt(ctx context.Context, e endpoint) error {
	addresses, err := e.resolve(ctx, j.s.family())
	if err != nil {
		return err
	}
	var errs []error
	for _, address := range addresses {
		if address == j.own || j.table.at(address) || j.isAlias(address) {
			continue
		}
		if err := j.join(address.String()); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", address, err))
		} else if !j.table.at(address) {
			j.noteAlias(address)
		}
	}
	return errors.Join(errs...)
}

func (j *joiner) isAlias(address netip.AddrPort) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	at, known := j.aliases[address]
	if known && time.Since(at) >= aliasRest {
		delete(j.aliases, address)
		return false
	}
	return known
}

// forgetAliases follows a loss: what answered while its node was still taken for
// dead was no alias, and may be what was lost now.
func (j *joiner) forgetAliases() {
	j.mu.Lock()
	defer j.mu.Unlock()
	clear(j.aliases)
}

func (j *joiner) noteAlias(address netip.AddrPort) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.aliases[address] = time.Now()
}

// tell counts failures, and logs an address when it begins to fail and when it
// no longer does. Alone is no error: other nodes may not have started yet.
func (j *joiner) tell(wanted []endpoint, errs []error) []string {
	var missing []string
	failing := map[string]bool{}
	for i, e := range wanted {
		name, err := e.String(), errs[i]
		was := j.failing[name]
		switch {
		case err == nil && was:
			j.s.Logger.Info("join address answers", "address", name)
		case err != nil:
			j.metrics.joinsFailed.Inc()
			missing, failing[name] = append(missing, name), true
			if !was {
				level, message := describe(err)
				logAt(j.s.Logger, level)(message, "address", name, "err", err)
			}
		}
	}
	j.failing = failing
	return missing
}

func describe(err error) (slog.Level, string) {
	if strings.Contains(strings.ToLower(err.Error()), "no installed keys could decrypt") {
		return slog.LevelError, "the node at a join address has another gossip key: not joined"
	}
	return slog.LevelInfo, "join address does not answer: it is tried again"
}
