// Package replication keeps the nodes of a pack in step: one ordered ledger on
// the shared filestore, snapshots of what it makes, each node's outbox of facts
// on their way into it, and the bus by which nodes follow and propose.
//
// It owns ledger/, snapshots/, outbox/ and blobs/ of the filestore, and their
// formats. It never looks into a mutation, never decides who is master (a Term
// says so) and never asks a clock what comes first.
//
// Main walk: Propose or Outbox.AppendSync, then whoever leads (leader.go): this
// node's reign.loop and commit (append, sync, Term.Valid, apply, answer), or over
// the bus (remote.go) that of another, whose entries come back by Follow. A start
// is Load; a master begins in takeOver, which seals what older epochs left.
// Snapshots are written beside it and prune what two of them cover. Verify and
// Cat read the same files from outside. DESIGN.md has the guarantees, and what
// can be lost.
//
// Locking: States are written by one goroutine at a time, that of Load, Lead or
// Follow, and lock for their own readers. Node.mu guards the position, the
// ledger's own memory and the window of newest entries; the queue of a reign or
// remote, the waiting proposals, the outbox, the blobs, the snapshots and the bus
// have a lock each. Of these, proposals.mu may be held when reign.mu or remote.mu
// is taken, and Outbox.mu when blobs.mu is; no other two are held together. No
// lock is held over a file call or a call of the bus.
package replication
