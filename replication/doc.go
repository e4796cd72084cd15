// Package replication keeps the nodes of a pack in step: one ordered ledger on
// the shared filestore, snapshots of what it makes, and each node's outbox of
// facts on their way into it.
//
// It owns ledger/, snapshots/, outbox/ and blobs/ of the filestore, and their
// formats. It never looks into a mutation, never decides who is master (a Term
// says so) and never asks a clock what comes first.
//
// Main walk: Propose or Outbox.AppendSync, reign.loop, commit (append, sync,
// Term.Valid, apply, answer). A start is Load; a master begins in takeOver,
// which seals what older epochs left. Snapshots are written beside it and
// prune what two of them cover. Verify and Cat read the same files from
// outside. DESIGN.md has the guarantees, and what can be lost.
//
// Locking: States are written by one goroutine at a time, that of Load or
// Lead, and lock for their own readers. Node.mu guards the position and the
// ledger's own memory; the queue of a reign, the waiting proposals, the outbox,
// the blobs and the snapshots have a lock each. Of these, proposals.mu may be
// held when reign.mu is taken, and Outbox.mu when blobs.mu is; no other two
// are held together. No lock is held over a file call.
package replication
