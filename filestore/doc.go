// Package filestore owns every byte on the shared filesystem: the layout,
// segments and their group commit, uploads, atomic replacement, claims, leases
// and seals, and everything we know about NFS.
//
// It never knows what a hunt is, never decides who may do what, and never uses
// append mode, file locks or another host's clock: a file has one writer, which
// is named in its path.
//
// Main walk: a Store wraps an FS (the operating system's below one root, or a
// test's). Its calls run in a bounded pool and may be abandoned by their
// callers, so that a hung mount holds threads and not connections. An
// Incarnation is the right of this process to write under its node's name; a
// Term is the right to order the ledger; both are leases on a claim file
// (claim.go), and nothing is acknowledged unless it was written, synced, and
// then the lease was still valid. A Committer gathers what clients sent into
// segments and syncs them together; readers merge the segments of all
// incarnations.
//
// What may be repeated: reads, opens, links and renames after ESTALE or EIO,
// with inodes compared where an answer may have been lost. Writes and syncs
// never: after an error the handle is finished.
//
// Locking: mutexes guard memory only and are never held over a file call. What
// serialises file calls (a claim's record, a committer's lane) is a goroutine
// or a one-slot channel.
package filestore
