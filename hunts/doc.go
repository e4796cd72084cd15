// Package hunts decides which client joins which hunt, and counts what came of it.
//
// It owns the replicated record of each hunt (kind "hunts"), its sets of clients,
// sums and curve, and the table that every node matches clients against. It never
// starts a collection itself: an admission is the start of a flow, which the room of
// flows applies. It never compiles an artifact, or speaks to clients, operators or the
// ledger. The only VQL it runs are filters of conditions.
//
// Main walk: PlanCreate and PlanStart make mutations; Apply keeps the hunt and
// publishes it to the Foreman, who matches the clients of this node (Arrived) and
// tells whom a hunt wants (PlanNominate, through the outbox): pending. The Manager,
// on the node that leads, plans the start of flows for pending clients that are
// connected, within rate and limit. The room of flows asks MayStart before it applies
// such a start, and tells FlowsChanged of each step of these flows: running, then
// completed or errored. ClientChanged follows the room of clients.
//
// Results stands beside all that and changes nothing: it shows the stored rows of a
// hunt's clients as one table, and hands them out (RESULTS.md). Import alone writes, to
// the filestore, rows that were handed out before, and Copier those of a collection that
// was made by hand and is added to a hunt.
//
// Wiring, in this order: clients.New; New with it; clients.Room.Follow(ClientChanged);
// flows.New with Options.Hunts; all three are states of one ledger. NewForeman runs on
// every node with NewAsker behind it, which also takes the answers of clients
// (flows.Options.Heard); NewManager's Run is a duty of the master.
//
// Locks: Room.mu guards the hunts and is only written in Apply, FlowsChanged,
// ClientChanged and Restore, all of the ledger's goroutine. The room of clients may be
// asked for an ordinal while it is held, never the other way round. The foreman's
// table is immutable behind an atomic pointer, and what it settled are atomic bits. No
// lock is held during a callback, a proposal or a search. Results.mu guards sorts and
// selections in memory; files are read and written without it.
package hunts
