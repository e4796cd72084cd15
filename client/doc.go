// Package client is the agent: it enrols, keeps two conversations with a
// frontend, runs what it is asked to run, and delivers what came of it.
//
// It owns the writeback (identity and event table), the local buffer (what was
// produced and not yet acknowledged, and the journal of accepted flows), the
// runner of queries, the uploader, the monitoring table and the comms loops.
// It never imports server code, never decides what to collect, and never
// forgets a row or a byte that was put into the buffer.
//
// Main walk: New opens writeback and buffer; Run starts the event table from
// the writeback, re-runs flows that a crash interrupted, then the reader (jobs
// in) and the sender (buffer out). A job goes to dispatch, a FlowRequest to
// runner.accept, its queries to query.run, rows through a batcher into the
// Buffer; the sender leases, posts, commits.
//
// Locking: each type guards its own fields with one mutex that is never held
// over disk, network or a callback. The buffer's writers queue on a one-slot
// turn instead, because order on disk is the order of production.
//
// DESIGN.md tells what survives which crash and at what price.
package client
