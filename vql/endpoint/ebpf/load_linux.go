//go:build amd64 || arm64

package ebpf

import (
	"errors"
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// ringBytes is the room for events that nobody has read yet: some thousand system
// calls or program starts.
const ringBytes = 4 << 20

// Places in the map of counters.
const (
	countLost    = iota // the ring was full
	countForeign        // system calls of the 32-bit ABI
	counters
)

// licence is what the kernel asks of programs that use its tracing helpers.
const licence = "Dual MIT/GPL"

// programs are the maps, programs and links of one run.
type programs struct {
	ring   *ebpf.Map
	counts *ebpf.Map
	loaded []attachment
	links  []link.Link
}

type attachment struct {
	tracepoint string
	program    *ebpf.Program
}

// load makes the maps and loads the programs for events; none runs yet.
func load(events []int, env bool) (*programs, error) {
	k, err := thisKernel()
	if err != nil {
		return nil, refused("read the kernel's types", err)
	}
	p := &programs{}
	if err := p.fill(k, events, env); err != nil {
		p.close()
		return nil, err
	}
	return p, nil
}

func (p *programs) fill(k *kernel, events []int, env bool) error {
	if err := raiseMemlock(); err != nil {
		return refused("raise the limit of locked memory", err)
	}
	var err error
	p.ring, err = ebpf.NewMap(&ebpf.MapSpec{Name: "raptorpack_ring", Type: ebpf.RingBuf, MaxEntries: ringBytes})
	if err != nil {
		return refused("make a ring buffer", err)
	}
	p.counts, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "raptorpack_lost", Type: ebpf.PerCPUArray, KeySize: 4, ValueSize: 8, MaxEntries: counters,
	})
	if err != nil {
		return refused("make a map of counters", err)
	}
	return p.loadAll(k, events, env)
}

func (p *programs) loadAll(k *kernel, events []int, env bool) error {
	var calls []int
	for _, event := range events {
		if table[event].number != tracepoint {
			calls = append(calls, event)
			continue
		}
		b := &builder{kernel: k, ring: p.ring, counts: p.counts}
		if err := p.loadOne(table[event].name, scheduled(b, event, env)); err != nil {
			return err
		}
	}
	if len(calls) == 0 {
		return nil
	}
	b := &builder{kernel: k, ring: p.ring, counts: p.counts}
	return p.loadOne("sys_exit", syscallProgram(b, calls))
}

func scheduled(b *builder, event int, env bool) asm.Instructions {
	switch event {
	case eventExec:
		return execProgram(b, event, env)
	case eventExit:
		return exitProgram(b, event)
	}
	return forkProgram(b, event)
}

func (p *programs) loadOne(tracepoint string, code asm.Instructions) error {
	program, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "raptorpack", Type: ebpf.RawTracepoint, Instructions: code, License: licence,
	})
	if err != nil {
		return refused("load the program for "+tracepoint, err)
	}
	p.loaded = append(p.loaded, attachment{tracepoint, program})
	return nil
}

// attach lets the programs run.
func (p *programs) attach() error {
	for _, a := range p.loaded {
		l, err := link.AttachRawTracepoint(link.RawTracepointOptions{Name: a.tracepoint, Program: a.program})
		if err != nil {
			return refused("attach to "+a.tracepoint, err)
		}
		p.links = append(p.links, l)
	}
	return nil
}

// close detaches and frees. Descriptors of the kernel are closed; errors of that
// leave nothing to do.
func (p *programs) close() {
	for _, l := range p.links {
		_ = l.Close()
	}
	for _, a := range p.loaded {
		_ = a.program.Close()
	}
	for _, m := range []*ebpf.Map{p.ring, p.counts} {
		_ = m.Close() // does nothing for nil
	}
}

// count adds up a counter of all processors. What cannot be read counts as
// nothing new.
func (p *programs) count(index uint32) uint64 {
	var each []uint64
	if err := p.counts.Lookup(index, &each); err != nil {
		return 0
	}
	total := uint64(0)
	for _, n := range each {
		total += n
	}
	return total
}

// lost is how many events there was no room for, or no turn: the kernel skips a
// program that would interrupt itself.
func (p *programs) lost() uint64 {
	total := p.count(countLost)
	for _, a := range p.loaded {
		if stats, err := a.program.Stats(); err == nil { // counted from 5.12 on
			total += stats.RecursionMisses
		}
	}
	return total
}

// refused sorts the kernel's errors by what helps.
func refused(doing string, err error) error {
	switch {
	case errors.Is(err, ErrUnsupported):
		return fmt.Errorf("%s: %w", doing, err)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s: %w: %w", doing, ErrPermission, err)
	case errors.Is(err, ebpf.ErrNotSupported), errors.Is(err, unix.EINVAL):
		return fmt.Errorf("%s: %w: %w", doing, ErrUnsupported, err)
	}
	return fmt.Errorf("%s: %w", doing, err)
}
