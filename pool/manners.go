package pool

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// Manners say how many clients are not as they should be. Shares are from 0 to 1 and
// together at most 1. A client has one manner, the same in each run.
type Manners struct {
	Slow    float64 // sends and answers after Delay, reads no faster than ReadRate
	Cut     float64 // breaks its connections in the middle of what it sends
	Resend  float64 // posts again what was acknowledged
	Garbage float64 // posts bytes that mean nothing, sealed and not
	Forge   float64 // posts rows of flows that nobody asked it for
	Mute    float64 // answers the first collection, by which a server gets to know it, and no other

	Delay    time.Duration // [2 s]
	ReadRate int           // bytes a second [16384]
	Every    time.Duration // from one misdeed of a client to its next [10 s]
}

// manner is one client's.
type manner uint8

const (
	orderly manner = iota
	slow
	cut
	resend
	garbage
	forge
	mute
)

func (m *Manners) setDefaults() {
	if m.Delay == 0 {
		m.Delay = 2 * time.Second
	}
	if m.ReadRate == 0 {
		m.ReadRate = 16 << 10
	}
	if m.Every == 0 {
		m.Every = 10 * time.Second
	}
}

// shares are in the order of the constants.
func (m *Manners) shares() []float64 {
	return []float64{m.Slow, m.Cut, m.Resend, m.Garbage, m.Forge, m.Mute}
}

func (m *Manners) validate() error {
	sum := 0.0
	for _, share := range m.shares() {
		if share < 0 || !(share <= 1) { // NaN is neither
			return fmt.Errorf("%w: share of %v of the clients", errOption, share)
		}
		sum += share
	}
	switch {
	case sum > 1+1e-9:
		return fmt.Errorf("%w: shares of clients add up to %v", errOption, sum)
	case m.Delay < 0 || m.ReadRate < 0 || m.Every < 0:
		return fmt.Errorf("%w: delay %v, reading rate %d, misdeeds every %v", errOption, m.Delay, m.ReadRate, m.Every)
	}
	return nil
}

// of is the manner of a client at a place from 0 to below 1.
func (m *Manners) of(place float64) manner {
	for i, share := range m.shares() {
		if place -= share; place < 0 {
			return orderly + 1 + manner(i)
		}
	}
	return orderly
}

// cutAfter is how many bytes a connection carries that will break: a handshake is
// some 200, a small post 1,500.
func cutAfter() int { return 300 + rand.IntN(6000) }

// artifacts makes an agent hesitate before each of its queries, as its manner says.
// It stands here because every query asks for its artifacts before its first row.
func (a *agent) artifacts(ctx context.Context, base func([]*wirepb.Artifact) (vql.Artifacts, error)) func([]*wirepb.Artifact) (vql.Artifacts, error) {
	return func(definitions []*wirepb.Artifact) (vql.Artifacts, error) {
		switch a.manner {
		case slow:
			wait(ctx, a.pool.options.Manners.Delay)
		case mute:
			if a.answered.Load() {
				a.pool.count.muted.Add(1)
				<-ctx.Done()
			}
		}
		return base(definitions)
	}
}

// wait waits for d, or less when ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
