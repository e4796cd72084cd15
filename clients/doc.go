// Package clients owns what the pack knows of each endpoint: its pinned key,
// what it reported of its host, its labels and metadata, and the search over them.
//
// It never speaks HTTP, never enrols anybody by itself and never stores a file:
// the ledger brings every change to Apply, which is the only writer of the
// replicated state. What changes by the second (last seen, address, who is
// connected where) is soft state beside it: Touch, SetOnline and what other nodes
// tell write it, and it vanishes with the process.
//
// Main walk: PlanEnrol, PlanInfo, PlanLabels -> Apply -> Lookup, Key, Search. Run
// keeps the search index behind Apply. DESIGN.md has the shape of it all in
// memory, and what it costs.
//
// Locking: Room.mu guards the tables. It is held for the changes of one entry, or
// to copy some clients; never for a search, a merge or a snapshot. The index is
// never changed: whoever has one keeps it. softState.mu guards presence and may be
// held when Room.mu is taken, not the other way round. Nothing blocks while either
// is held.
package clients
