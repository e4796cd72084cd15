// Package node is the composition root of one server process: it builds every
// part, runs them, and stops them in the reverse order.
//
// It is a package beside main, so that tests can run as many nodes as they like
// in one process. It decides nothing about flows, labels or hunts: what it adds
// is wiring, and the adapters (adapters.go) that let rooms and doors meet which
// may not import each other.
//
// Main walk: New (claim the node's name, load the state, wire) -> Run (start the
// parts in order; wait; stop them backwards). Doors close first, then what they
// feed, then the committer, the outbox, the lease, the node's name.
package node
