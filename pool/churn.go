package pool

import (
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Churn takes clients away and brings them back, as notebooks come and go. In each
// wave other clients are there; after 1/(1-Offline) waves, rounded up, each has been.
type Churn struct {
	Offline float64       // the share that is away at any time, from 0 to below 1 [0: nobody]
	Wave    time.Duration // how long a wave takes [10 min]
}

func (c *Churn) validate() error {
	if c.Offline < 0 || !(c.Offline < 1) || c.Wave < 0 { // NaN is not below 1
		return fmt.Errorf("%w: %v of the clients offline in waves of %v", errOption, c.Offline, c.Wave)
	}
	return nil
}

// there reports whether a client is online in a wave, by its place from 0 to below 1.
func (c *Churn) there(place float64, wave int) bool {
	stay := 1 - c.Offline
	_, at := math.Modf(place + math.Mod(float64(wave)*stay, 1))
	return at < stay
}

// tide brings agents and takes them away. Its fields belong to the goroutine of Run.
type tide struct {
	pool    *Pool
	pace    *rate.Limiter
	running sync.WaitGroup
	leaving []*agent // without network, and alive while they hold something
}

// look is how often leaving agents are asked whether they hold something.
const look = time.Second

// run works until ctx ends and the last agent with it.
func (t *tide) run(ctx context.Context) {
	defer t.running.Wait()
	churn := t.pool.options.Churn
	begun := time.Now()
	for wave := 0; ctx.Err() == nil; wave++ {
		t.turn(ctx, wave)
		if churn.Offline == 0 {
			<-ctx.Done()
			return
		}
		t.ebb(ctx, time.Until(begun.Add(time.Duration(wave+1)*churn.Wave)))
	}
}

// turn is the beginning of a wave: those whose turn is over go, then others come at
// the ramp's pace.
func (t *tide) turn(ctx context.Context, wave int) {
	churn := &t.pool.options.Churn
	for _, a := range t.pool.agents {
		if a.here && !churn.there(a.place, wave) {
			a.leave()
			t.leaving = append(t.leaving, a)
		}
	}
	for _, a := range t.pool.agents {
		if a.here || !churn.there(a.place, wave) {
			continue
		}
		if t.pace.Wait(ctx) != nil {
			return // ctx ended
		}
		t.arrive(ctx, a)
	}
}

// arrive brings an agent's network back, and the agent if it is not there.
func (t *tide) arrive(ctx context.Context, a *agent) {
	a.here = true
	a.away.Store(false)
	if at := slices.Index(t.leaving, a); at >= 0 { // it held something
		t.leaving = slices.Delete(t.leaving, at, at+1)
		return
	}
	before, ended := a.life, make(chan struct{})
	if before == nil {
		a.begun = time.Now()
		t.pool.count.started.Add(1)
	}
	work, stop := context.WithCancel(context.WithValue(ctx, whose{}, a))
	a.stop, a.life = stop, ended
	t.running.Go(func() {
		defer close(ended)
		defer stop()
		if before != nil {
			<-before // it was told to stop
		}
		a.live(work)
	})
}

// ebb waits for d or the end of ctx, and ends those that left and hold nothing any
// more: what is in an agent's memory would else be lost, which a real one has on disk.
func (t *tide) ebb(ctx context.Context, d time.Duration) {
	over := time.NewTimer(d)
	defer over.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-over.C:
			return
		case <-tick.C:
		}
		t.leaving = slices.DeleteFunc(t.leaving, func(a *agent) bool {
			if !a.rests() {
				return false
			}
			a.stop()
			return true
		})
	}
}

// leave takes an agent's network away.
func (a *agent) leave() {
	a.here, a.quiet = false, 0
	a.away.Store(true)
	for _, c := range a.open() {
		c.Close() // the other side has nothing to tell us any more
	}
}

// rests reports whether an agent without network has held nothing for two looks: a
// task that came just before is at work by then.
func (a *agent) rests() bool {
	c := a.client.Load()
	if c != nil && (c.Pending() > 0 || len(c.Running()) > 0) {
		a.quiet = 0
		return false
	}
	a.quiet++
	return a.quiet >= 2
}
