package filestore

import (
	"context"
	"fmt"
	"io/fs"
	"sync/atomic"
	"time"
)

// pool bounds how many file calls are under way. A hung mount fills it with
// blocked threads; callers leave through their contexts.
type pool struct {
	slots chan struct{}   // one element per running call; full: callers wait, or leave
	ended <-chan struct{} // closed with the store
}

// fate of a call: whoever changes it from running first decides.
const (
	running int32 = iota
	delivered
	abandoned
)

type result[T any] struct {
	value T
	err   error
}

// invoke runs fn in s's pool. If ctx ends first the call goes on without its
// caller, and late, if given, disposes of what it brings.
func invoke[T any](ctx context.Context, s *Store, kind opKind, path string, late func(T), fn func() (T, error)) (T, error) {
	var none T
	if err := s.lane.enter(ctx); err != nil {
		return none, fmt.Errorf("%s %s: %w: %w", kind, path, errNotBegun, err)
	}
	answer := make(chan result[T], 1) // never full: one call, one answer
	var fate atomic.Int32
	s.metrics.counts[kind].Add(1)
	s.metrics.running.Inc()
	go func() {
		begin := time.Now()
		value, err := fn()
		s.metrics.done(kind, time.Since(begin), err)
		s.metrics.running.Dec()
		if !fate.CompareAndSwap(running, delivered) {
			if late != nil && err == nil {
				late(value)
			}
			s.lane.leave()
			return
		}
		s.lane.leave() // before the answer: who has it may ask whether anything is under way
		answer <- result[T]{value, err}
	}()
	select {
	case r := <-answer:
		return r.value, explain(kind, path, r.err)
	case <-ctx.Done():
	}
	if !fate.CompareAndSwap(running, abandoned) {
		r := <-answer
		return r.value, explain(kind, path, r.err)
	}
	s.metrics.abandoned.Inc()
	return none, fmt.Errorf("%s %s: %w: %w", kind, path, ErrAbandoned, context.Cause(ctx))
}

func (p *pool) enter(ctx context.Context) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	select {
	case <-p.ended:
		return fs.ErrClosed
	default:
	}
	select {
	case p.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-p.ended:
		return fs.ErrClosed
	}
}

func (p *pool) leave() { <-p.slots }

// busy reports whether a call is under way.
func (p *pool) busy() bool { return len(p.slots) > 0 }

// drain takes all slots for good: after it no call is under way.
func (p *pool) drain(ctx context.Context) error {
	for range cap(p.slots) {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return fmt.Errorf("file calls still under way: %w", context.Cause(ctx))
		}
	}
	return nil
}
