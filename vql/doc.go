// Package vql hosts the query language: it parses programs, runs them under
// limits, and holds the contract that primitives are written against.
//
// It owns the engine adapter, scopes with their logs, limits, services and
// counters, the operators and the spilling sorter, grouper and materialiser
// around the engine, the JSON form of results, and the core functions and
// plugins. It never talks to the network or to the store: whatever a primitive
// needs from its host is handed in as a service of the session. It is the only
// package that imports the engine (vfilter); primitives see Function, Plugin,
// Scope, Query, Lambda, Lazy and plain Go values.
//
// Main walk: NewEngine takes the declarations; Parse turns text into a Program;
// Engine.NewScope makes a session; Scope.Run runs a statement, a SELECT in a loop of
// our own (select.go) around the engine's expressions, and hands each row to a
// callback; AppendJSON writes it. A function's or plugin's arguments are
// checked and converted by one reflected decoder per argument struct (args.go),
// its errors and panics become log lines (adapter.go).
//
// Locking rule: an Engine and a Program are immutable after they were made and
// safe for concurrent use. A Scope is safe for concurrent use by the goroutines
// of one session; the session's mutexes guard only maps and counters and are
// never held across a callback, a log call or disk access.
package vql
