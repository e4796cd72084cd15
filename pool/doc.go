// Package pool runs many simulated agents, to load a server.
//
// Each agent is a client.Client with a key of its own, the real protocol and the
// real query engine; nothing is recorded and played back. What is simulated is
// the host below: a few primitives (info, pslist, interfaces, netstat, sysinfo)
// and the accessors file and auto answer from a synthetic Host instead of from
// this machine. The package owns those hosts, quickly made identities, the source
// addresses of connections and the counting of what agents did. It never imports
// server code, and its identities are worthless as identities: see Identities.
//
// Hosts can be away in waves (Churn), slow, and misbehave (Manners).
//
// Main walk: LoadIdentities, New, Run (bring agents at the ramp's pace, each in a
// goroutine that Run waits for; take them away and bring them back), Stats beside it
// and after it. Split is the same in several processes, which tell it by Record.
//
// Locking: an agent's record is atomics, its connections have a mutex; histograms
// have one mutex each, held for an addition only. Hosts are immutable and make their
// answers anew each time.
package pool
