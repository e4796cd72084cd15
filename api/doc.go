// Package api owns the operators' doors: JSON over HTTP for people, scripts and
// our own command line, and gRPC for programs that exist already.
//
// Both doors have one sign-in, one permission check (package users) and one audit
// trail, and call the same functions. It never reads files itself and never
// changes state but by a proposed mutation.
//
// Main walk: who (auth.go) -> may they (Server.may) -> plan in a room, propose,
// answer with the ledger index; reads are answered from this node's memory.
//
// A Server is safe for concurrent use; handlers hold no lock.
package api
