// Package server holds the query primitives of a server: functions, plugins and
// accessors over clients, flows, hunts, notebooks, artifacts and users.
//
// It owns how these are named and shaped in queries, and which permission each
// needs. It never keeps state of its own, never applies a change (it plans one
// with the room and proposes it), never starts a collection or a hunt past the
// doors' checks (Host.Collect and Host.CreateHunt are theirs), and never imports
// the endpoint's primitives: who composes an engine hands those to Guard.
//
// Main walk: Functions and Plugins list the declarations for vql.NewEngine; Guard
// and Accessors make those of the endpoint safe for people who share a server;
// each primitive takes the session's *Host and reads a room, or plans, proposes
// and leaves an audit line.
//
// Permissions: the engine checks Spec.Permission. Where the needed permission
// depends on the arguments, the primitive asks Scope.Allowed itself. What a
// primitive of the endpoint forgets to declare, Guard adds; what it opens, it
// opens through the guarded accessors.
//
// Hunts: rows of all clients lie in shared files. They are read a page at a time and
// shown as long as their flow and client are in the ledger; what of a hunt this
// version does not keep (flows that were started otherwise) is refused.
//
// Known by name alone, with the endpoint's (vql/endpoint, later.go), because what they
// work on does not exist yet, so that version(function="link_to") is NULL and artifacts
// choose another way: link_to, logging, deb_create, rpm_create.
// org_create and org_delete are there to say that there is one org.
//
// Locking rule: none is needed. Rooms hand out immutable records, a Host is not
// changed after it was handed in, and primitives share nothing.
package server
