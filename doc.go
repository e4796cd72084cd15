// Package raptorpack hunts across large fleets of endpoints.
//
// Bulk data goes from the node that received it straight to its final place on
// the shared filesystem. Everything that nodes must agree on is a small entry in
// one ordered ledger. Every node answers from memory, and its memory is only ever
// written by applying entries. A role is a list of what runs meanwhile, not a
// question asked in the code.
//
// The house, floor by floor; imports point down (internal/floors holds the plan):
//
//	roof      cmd/raptorpack -> cmd/node                        integration (tests)
//	doors     frontend   api        roles  master   minion      agent  client
//	rooms     flows -> artifacts -> vql <- vql/endpoint         clients   users
//	          runner -> flows          inventory -> artifacts     notebooks
//	services  replication -> filestore     wire   cluster   notifier   config
//	ground    ids   proto/wirepb   proto/buspb   internal/...
//
// To find your way, read cmd/node/node.go, master/ and minion/, replication/doc.go,
// frontend/session.go, flows/ingest.go, then one story in integration/.
package raptorpack
