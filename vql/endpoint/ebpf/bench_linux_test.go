//go:build amd64 || arm64

package ebpf

import (
	"context"
	"testing"

	"golang.org/x/sys/unix"
)

// BenchmarkCall is what an unwatched system call costs while nothing, the default
// events, or calls of other numbers are watched.
func BenchmarkCall(b *testing.B) {
	for name, events := range map[string][]string{
		"nothing": {}, "scheduler": Defaults(), "calls": {"connect", "bind", "listen", "accept4", "openat"}, "all": allNames(),
	} {
		b.Run(name, func(b *testing.B) {
			needKernel(b)
			if len(events) > 0 {
				picked, err := pick(events)
				if err != nil {
					b.Fatal(err)
				}
				p, err := load(picked, false)
				if err != nil {
					b.Fatal(err)
				}
				defer p.close()
				if err := p.attach(); err != nil {
					b.Fatal(err)
				}
			}
			for b.Loop() {
				_ = unix.Getppid()
			}
		})
	}
}

func allNames() []string {
	var out []string
	for _, i := range Known() {
		out = append(out, i.Name)
	}
	return out
}

// BenchmarkEvent is what an event costs from the call to the callback.
func BenchmarkEvent(b *testing.B) {
	needKernel(b)
	w, err := New(Options{Events: []string{"setns"}})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	ready, done := make(chan struct{}), make(chan error, 1) // one result
	w.ready = func() { close(ready) }
	go func() { done <- w.Run(ctx, ignore) }()
	<-ready
	for b.Loop() {
		_ = unix.Setns(-1, 0)
	}
	cancel()
	if err := <-done; err != nil {
		b.Fatal(err)
	}
}

// BenchmarkLoad is the start and end of a query, without the first one's reading
// of the kernel's types.
func BenchmarkLoad(b *testing.B) {
	needKernel(b)
	for b.Loop() {
		p, err := load([]int{eventExec, eventExit, eventFork}, false)
		if err != nil {
			b.Fatal(err)
		}
		p.close()
	}
}

func BenchmarkReadKernel(b *testing.B) {
	needKernel(b)
	for b.Loop() {
		if _, err := readKernel(); err != nil {
			b.Fatal(err)
		}
	}
}
