// Package ebpf reports what processes do on Linux, as the kernel sees it:
// programs that start and end, and system calls with their arguments and results.
//
// It owns the programs that run inside the kernel, the table of events, and the
// format of records between the two. The programs are written as instructions in
// Go when a query begins, with the offsets that the kernel itself tells (BTF): no
// compiler, no object files, one build for all kernels. It never imports the query
// engine, never decides who may watch, and keeps nothing of what it saw.
//
// Main walk: New picks lines of the table; Watcher.Run loads a program for each
// tracepoint, attaches them, and hands on each record of the ring buffer as an
// Event; when its context ends, everything is detached and freed. Files named
// builder, sched and syscall write programs; layout is the format; decode, names
// and event read it.
//
// Locking rule: there are no locks. A Watcher belongs to the goroutine of its Run,
// and each Run has programs, a ring and counters of its own. What was learned of
// the kernel is kept for the process behind an atomic pointer. DESIGN.md has the
// guarantees, and what can be lost.
package ebpf
