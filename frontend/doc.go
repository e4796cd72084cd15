// Package frontend is the client-facing server, the same on every node.
//
// It owns the conversation with agents: server.pem, control, reader, their
// WebSocket forms, back-pressure, enrolment, acknowledgement after the commit,
// and handing clients over when the node drains. It never speaks to operators,
// never stores anything itself, and never looks into rows.
//
// Main walk: a POST or frame is admitted by its size, read, opened by wire, and
// for control ingested; only when the bytes are durable is anything answered.
// A reader registers on the notifier's board, then asks for work, then waits;
// over HTTP a goroutine waits, over WebSocket a bell puts the connection on a
// list that a few pushers serve, and for its frames one Watcher waits for all.
//
// Status codes: 200 after the commit; 406 only when the client's key is known to
// be absent; 403 for what is not authentic; 503, delayed, for everything that
// may go well later. Nothing that a client sent is given up by a code of ours.
//
// Locking: a connection's write side has a mutex of its own, held while one
// message is written; everything shared is a map operation under its owner's
// mutex.
package frontend
