package notebooks

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// sweepEvery is how often a Sweeper looks for what nobody names any more.
const sweepEvery = 10 * time.Second

// SweeperOptions wire a Sweeper. All but the last are required.
type SweeperOptions struct {
	Room  *Room
	Files *Files

	// Settled tells whether all live nodes have applied an entry: before that, some may
	// still read what it gave up.
	Settled func(index uint64) bool

	Propose func(ctx context.Context, m *buspb.Mutation) error
	Logger  *slog.Logger // nil: slog.Default
}

// Sweeper removes the files of what was replaced and deleted, while its node leads.
type Sweeper struct {
	o    SweeperOptions
	log  *slog.Logger
	told bool // that something could not be removed, since it last could
}

// NewSweeper wires a Sweeper; Run starts it.
func NewSweeper(o SweeperOptions) *Sweeper {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Sweeper{o: o, log: o.Logger}
}

// Run sweeps until ctx ends. What fails is tried again the next time.
func (s *Sweeper) Run(ctx context.Context) error {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		err := s.sweep(ctx)
		if err != nil && !s.told && ctx.Err() == nil {
			s.log.Warn("files of deleted timelines are still there", "err", err)
		}
		s.told = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

func (s *Sweeper) sweep(ctx context.Context) error {
	gone := map[ids.Org][]Unused{}
	var errs []error
	for _, u := range s.o.Room.Unused() {
		if !s.o.Settled(u.Index) || len(gone[u.Org]) >= maxSwept {
			continue
		}
		if err := s.o.Files.Sweep(ctx, u); err != nil {
			errs = append(errs, err)
			continue
		}
		gone[u.Org] = append(gone[u.Org], u)
	}
	for org, all := range gone {
		m, err := PlanSwept(org, all)
		if err == nil {
			err = s.o.Propose(ctx, m)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("tell what was removed: %w", err))
		}
	}
	return errors.Join(errs...)
}
