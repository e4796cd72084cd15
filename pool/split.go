package pool

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
)

// Split is a pool in several processes, because one may not open files enough for all
// its clients. Each of them is a program that runs a Pool and writes Stats as lines of
// JSON to its standard output, as Record does. A process whose lines nobody reads any
// more ends at the next one, so none outlives its Split for long.
type Split struct {
	parts []*child
}

// child is one of those processes.
type child struct {
	command *exec.Cmd

	mu    sync.Mutex
	stats Stats
}

// patience is how long a process may take to end.
const patience = time.Minute

// NewSplit takes commands that have not been started, with standard output still free.
func NewSplit(commands ...*exec.Cmd) *Split {
	s := &Split{}
	for _, c := range commands {
		s.parts = append(s.parts, &child{command: c})
	}
	return s
}

// Stats adds up what the processes said last.
func (s *Split) Stats() Stats {
	var sum Stats
	for _, p := range s.parts {
		p.mu.Lock()
		now := p.stats
		p.mu.Unlock()
		sum.Add(now)
	}
	return sum
}

// Run starts the processes and returns when ctx has ended and the last process with
// it, which is nil. A process that ends by itself ends the others; that is an error.
func (s *Split) Run(ctx context.Context) error {
	group, work := errgroup.WithContext(ctx)
	for n, p := range s.parts {
		group.Go(func() error {
			if err := p.run(work); err != nil {
				return fmt.Errorf("process %d of %d of the pool: %w", n+1, len(s.parts), err)
			}
			return nil
		})
	}
	return group.Wait()
}

// errAlone means that a process ended without being told to.
var errAlone = errors.New("ended by itself")

func (p *child) run(ctx context.Context) error {
	out, err := p.command.StdoutPipe()
	if err != nil {
		return err
	}
	if err := p.command.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	var ending sync.WaitGroup
	ending.Go(func() { p.end(ctx, ended) })
	err = p.follow(out)
	err = errors.Join(err, p.command.Wait())
	told := ctx.Err() != nil
	close(ended)
	ending.Wait()
	if told {
		return nil // however it took that
	}
	return errors.Join(errAlone, err)
}

// end tells the process to end when ctx has ended, and kills it when it does not.
func (p *child) end(ctx context.Context, ended <-chan struct{}) {
	select {
	case <-ended:
		return
	case <-ctx.Done():
	}
	if p.command.Process.Signal(syscall.SIGTERM) != nil { // no such signal on Windows
		p.kill()
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-ended:
	case <-timer.C:
		p.kill()
	}
}

// kill ends the process now; an error says that it has ended already.
func (p *child) kill() { _ = p.command.Process.Kill() }

// maxLine bounds a line of Stats.
const maxLine = 1 << 20

// follow reads lines until there are no more. A process that writes something else is
// not one of ours, and is killed.
func (p *child) follow(out io.Reader) error {
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, maxLine)
	for lines.Scan() {
		var s Stats
		if err := json.Unmarshal(lines.Bytes(), &s); err != nil {
			p.kill()
			return fmt.Errorf("its line of figures: %w", err)
		}
		p.mu.Lock()
		p.stats = s
		p.mu.Unlock()
	}
	return lines.Err()
}
