// Package queues writes what the pack tells of itself: rows of internal event
// artifacts, as System.Flow.Completion, that queries watch and read as any others.
//
// It owns what was told and is not written yet, as replicated state (kind "queues"),
// and writing it. It never decides what happens: rooms tell it from their Apply, in
// the order of the ledger. It never serves a reader: rows lie among the event rows.
//
// Main walk: an entry is applied, its room tells (Room.Tell), every node keeps the
// item; the Writer of the node that leads stores its row, then a fact that says up to
// where; applying that, every node forgets the item. A row is known by the entry that
// told it, so whoever leads next may write it again: readers take it once. DESIGN.md
// has the rule and its price.
//
// Locks: Room.mu guards what waits; it is not held while anything is written.
package queues
