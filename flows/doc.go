// Package flows keeps collections on clients: their tasks, what clients send of
// them, and when they are complete; and the rows of event queries.
//
// It owns the replicated record of each flow (kinds "flows" and "monitoring"),
// and each node's own knowledge of what it holds durably. It never speaks to a
// client or to the ledger itself, never opens a segment for writing (that is
// filestore's), never compiles an artifact, and does not know why a flow was
// started.
//
// Main walk: PlanStart makes a mutation; Apply makes a pending task of it and
// wakes the connection; Attachment.Next hands it out; Ingest takes what the
// client sends, in one commit of data first and facts (taken, end, coverage)
// afterwards; Apply unites the coverage that nodes tell and decides whether the
// flow is complete. Readers see immutable records.
//
// Several nodes: each applies the same entries, some a moment later. A client may
// be anywhere, and anywhere else a moment later, so nothing that a node remembers
// of it decides alone. A task goes at once to a connection that is older than it
// everywhere (fresh.go); otherwise the client is asked (question.go), and one node
// hands it out (offer.go). What a client names and this node does not know is looked
// for once more when it has caught up. Each node tells what it holds when the client
// leaves it and when the flow ends elsewhere; the master reads what the dead held
// (recover.go). A deletion waits for all nodes (remove.go).
//
// Locks: Table.mu guards the records and is only written in Apply and Restore;
// one of 64 shard locks guards what this node knows of a client. A shard's lock
// may be held while Table.mu is taken for reading, never the other way round. No
// lock is held during a commit, a callback or a file operation.
package flows
