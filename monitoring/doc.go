// Package monitoring runs an org's server event artifacts while this node leads.
//
// It owns how their queries are begun, restarted and ended, and which events they
// have worked off. It never decides which artifacts run (the table in flows does),
// never asks whether it may lead (it is run while this node does), and never opens
// a segment itself.
//
// Main walk: Runner.Run compiles the table and keeps a query per source; a query
// runs in rounds; in a round watch_monitoring gives it the events behind its
// place, then ends; when the whole statement has ended, what it made of them and
// its new place become durable together; the next round begins.
//
// What holds: an event that was stored after the query took its first place is
// worked off by it, whatever nodes die meanwhile; none is passed over. Rows that a
// query makes of events are stored together with the place behind these, rows
// first: a crash between the two, or a master that is deposed and does not know yet,
// has the same events worked off again. What the query then stores alike counts
// once; what differs, and what it did elsewhere, happens twice. DESIGN.md says why.
//
// Locks: query.mu guards what the watching goroutines of one round share; it is not
// held while they look, wait or emit.
package monitoring
