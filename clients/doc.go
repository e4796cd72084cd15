// Package clients owns what the pack knows of each endpoint: its pinned key,
// what it reported of its host, its labels and metadata, and the search over them.
//
// It never speaks HTTP, never enrols anybody by itself and never stores a file:
// the ledger brings every change to Apply, which is the only writer of the
// replicated state. What changes by the second (last seen, address) is soft state
// beside it: Touch writes it, and it vanishes with the node.
//
// Main walk: PlanEnrol, PlanInfo, PlanLabels -> Apply -> Lookup, Key, Search.
//
// Locking: one RWMutex guards the tables; records are immutable and replaced
// whole, so a reader keeps what it was given. Nothing blocks while it is held.
package clients
