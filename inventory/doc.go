// Package inventory knows the tools that artifacts need on endpoints: what they
// are called, where they come from, and the files of them that the pack serves.
//
// It owns the replicated state of kind "tools": operators' definitions, fetches
// that were asked for and what became of them, and which files lie in the public
// folder. What artifacts say of tools is not part of it: that is worked out from
// their definitions whenever it is asked for (Options.Declared). It never answers
// a request, never compiles an artifact, and never serves a file that no tool
// names.
//
// Main walk: an operator's file goes through Files.Receive and PlanUpload; any
// other tool is asked for with PlanWant, fetched by Fetcher.Run on the node that
// leads, and its hash is in the state of every node by PlanFetched. Variables then
// tells artifacts where it is, and Open gives the file to whoever knows its name.
//
// Locking: Room.mu guards the records, which are immutable and replaced whole;
// Apply and Restore are the only writers. No lock is held during a file operation
// or a download.
package inventory
