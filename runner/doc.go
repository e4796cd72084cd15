// Package runner runs collections on the server itself: it is the agent of the
// pseudo client "server".
//
// It owns the queries of such collections while they run. It takes tasks as a
// client's connection does (flows.Attachment) and answers with the messages that a
// client would send (flows.Room.Ingest), so that storing, limits, coverage, cancel
// and views are those of every collection. It never decides who may start one, never
// writes a file itself, and knows no primitive.
//
// Main walk: Run attaches, ends what an earlier master left running, takes what Next
// gives; each flow is a job, whose queries each run in a session of their own, in
// the name of whoever started it.
//
// Once: the node that leads runs it, as a duty. Before a query begins, the fact that
// its task was taken is durable, and the lease held after that: another master
// therefore finds the flow running, does not have its task, and ends it as errored.
//
// Locking: job.mu guards what a flow's messages are made of; it is never held while
// one is delivered. Messages of one flow are delivered one after the other.
package runner
