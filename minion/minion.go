package minion

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"golang.org/x/sync/errgroup"
)

// Ledger is the one order, as a node sees it that does not lead.
// *replication.Node is one.
type Ledger interface {
	// Follow keeps this node's state in step with whichever node leads until ctx
	// ends (nil) or it cannot go on.
	Follow(ctx context.Context) error

	// Age is how much older than the ledger the state may be, if that is known.
	Age() (age time.Duration, known bool)
}

// Options sets up a Minion.
type Options struct {
	Ledger Ledger        // required
	Stale  time.Duration // age at which the state is called stale; 0: 5 s
	Logger *slog.Logger  // nil: slog.Default
}

// Minion is what a node does while another one leads.
type Minion struct {
	o   Options
	log *slog.Logger
}

// ageEvery is how often the age of the state is looked at.
const ageEvery = time.Second

// New wires a Minion; Run starts it.
func New(o Options) *Minion {
	if o.Stale <= 0 {
		o.Stale = 5 * time.Second
	}
	m := &Minion{o: o, log: o.Logger}
	if m.log == nil {
		m.log = slog.Default()
	}
	return m
}

// Run follows until ctx ends; nil means told to stop.
func (m *Minion) Run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		err := m.o.Ledger.Follow(ctx)
		if err == nil && ctx.Err() == nil {
			return errors.New("run as minion: following ended by itself")
		}
		return err
	})
	g.Go(func() error {
		m.watchAge(ctx)
		return nil
	})
	return g.Wait()
}

// watchAge tells once when the state becomes stale and once when it is fresh again.
func (m *Minion) watchAge(ctx context.Context) {
	tick := time.NewTicker(ageEvery)
	defer tick.Stop()
	begin, stale := time.Now(), false
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		age, known := m.o.Ledger.Age()
		if !known {
			age = time.Since(begin) // nobody has told since this node follows
		}
		switch is := age > m.o.Stale; {
		case is && !stale:
			m.log.WarnContext(ctx, "state is stale: no word from a master", "age", age.Round(time.Millisecond))
			stale = true
		case !is && stale:
			m.log.InfoContext(ctx, "state is fresh again")
			stale = false
		}
	}
}
