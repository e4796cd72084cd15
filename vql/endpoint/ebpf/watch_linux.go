//go:build amd64 || arm64

package ebpf

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cilium/ebpf/ringbuf"
	"golang.org/x/sys/unix"
)

// Options say what to watch.
type Options struct {
	// Events are names that Known lists; none are the Defaults.
	Events []string
	// IncludeEnv adds env to sched_process_exec.
	IncludeEnv bool
	// Log takes a line for people when something is lost; nil takes none.
	Log func(message string)
}

// Watcher reports what processes do. It may run several times, one run at once.
type Watcher struct {
	events  []int
	options Options
	own     budget
	told    told
	booted  time.Time
	look    time.Duration // between two looks at the counters
	ready   func()        // called when everything is attached
}

// New checks the options. It does not ask the kernel yet. An unknown name is
// ErrUnknownEvent.
func New(o Options) (*Watcher, error) {
	events, err := pick(o.Events)
	if err != nil {
		return nil, err
	}
	if o.Log == nil {
		o.Log = func(string) {}
	}
	return &Watcher{events: events, options: o, look: lookPeriod, ready: func() {}}, nil
}

// lookPeriod is how often the counters of what was lost are looked at.
const lookPeriod = 10 * time.Second

// Run loads the programs and hands each event to each until ctx ends, which is
// nil, or each fails, whose error it returns. While each works, events wait in
// the ring; when that is full they are counted as lost. What the kernel refuses
// is ErrUnsupported or ErrPermission. At the end everything is detached and freed.
func (w *Watcher) Run(ctx context.Context, each func(*Event) error) error {
	p, err := load(w.events, w.options.IncludeEnv)
	if err != nil {
		return err
	}
	defer p.close()
	reader, err := ringbuf.NewReader(p.ring)
	if err != nil {
		return fmt.Errorf("open the ring buffer: %w", err)
	}
	stopped := make(chan struct{}) // closed when the watching of ctx has ended
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		_ = reader.Close() // wakes Read; it reports nothing else
	})
	defer func() {
		if !stop() {
			<-stopped
		}
		_ = reader.Close() // a second time does no harm
	}()
	if err := p.attach(); err != nil {
		return err
	}
	w.own, w.told = budget{}, told{}
	w.ready()
	err = w.read(ctx, reader, p, each)
	w.tell(p)
	return err
}

// read takes records until the reader is closed.
func (w *Watcher) read(ctx context.Context, reader *ringbuf.Reader, p *programs, each func(*Event) error) error {
	var rec ringbuf.Record
	w.booted = bootTime()
	next := time.Now().Add(w.look)
	for ctx.Err() == nil {
		reader.SetDeadline(next)
		err := reader.ReadInto(&rec)
		if errors.Is(err, os.ErrClosed) {
			return nil
		}
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("read the ring buffer: %w", err)
		}
		if now := time.Now(); now.After(next) {
			w.tell(p)
			w.booted = bootTime()
			next = now.Add(w.look)
		}
		if err != nil {
			continue
		}
		if err := w.take(rec.RawSample, each); err != nil {
			return err
		}
	}
	return nil
}

// take hands on one record, unless it is one of too many of our own.
func (w *Watcher) take(raw []byte, each func(*Event) error) error {
	e, err := decode(raw)
	if err != nil {
		w.told.damaged++
		return nil
	}
	if int(e.LocalPID) == os.Getpid() && !w.own.allow(e.SinceBoot) {
		return nil
	}
	e.Time = w.booted.Add(time.Duration(e.SinceBoot))
	return each(e)
}

// bootTime is when the machine started by its clock of now, which may have been
// set since.
func bootTime() time.Time {
	var since unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &since); err != nil {
		return time.Now().UTC() // cannot be: the programs use the same clock
	}
	return time.Now().UTC().Add(-time.Duration(since.Nano()))
}
