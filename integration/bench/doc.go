// Command bench measures nodes under simulated agents and prints each figure beside
// its aim.
//
// The server is a process of its own (this program with the argument "serve"), so
// that its memory and its processor time are its own: read from /proc/PID and
// from /metrics. Agents and operator are the driver's. Processor time is measured,
// not the clock, since machines that run this are shared; the load average is
// printed with each table. Raw output, server logs and CPU profiles of what missed
// its aim stay in the folder that -out names. That the counters of file operations
// are the kernel's is shown by scripts/count-ops.sh.
//
// "bench pack" is the same for a pack of three under a script of load: clients enrol,
// rest, are hunted, bring much, come and go, and nodes are killed in the middle. Its
// clients are processes of their own, too (this program with the argument "swarm"),
// so that what they cost is told apart. Each hunt is held against a recount of the
// rows on the store, and each part is drawn over time (package chart).
//
// Main walk: main or runPack, then one function per measurement in the order of the
// table.
package main
