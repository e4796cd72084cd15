// Package freelist keeps dear values for the next who needs one. It is a
// sync.Pool of which the garbage collector leaves a few: compressors are hundreds
// of kilobytes each, and in a storm, when the collector runs all the time, a pool
// alone has them made anew again and again.
package freelist

import (
	"runtime"
	"sync"
)

// List keeps some values for each processor for good, and those beyond until the
// collector wants them. It is safe for concurrent use.
type List[T any] struct {
	fresh func() T
	kept  chan T // full: values go to the pool; empty: they come from there
	pool  sync.Pool
}

// New returns an empty list whose values fresh makes.
func New[T any](fresh func() T) *List[T] {
	return &List[T]{fresh: fresh, kept: make(chan T, 4*runtime.GOMAXPROCS(0))}
}

// Get returns a value that was given back, or a fresh one.
func (l *List[T]) Get() T {
	select {
	case v := <-l.kept:
		return v
	default:
	}
	if v, ok := l.pool.Get().(T); ok {
		return v
	}
	return l.fresh()
}

// Put gives a value back, which must not be used afterwards.
func (l *List[T]) Put(v T) {
	select {
	case l.kept <- v:
	default:
		l.pool.Put(v)
	}
}
