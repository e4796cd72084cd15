// Package history writes down what everybody saw of a pack and finds out whether the
// pack kept its word.
//
// Operators note each change they asked for, readers what they were shown, agents
// what they were told is durable (files of package cmd/agent), and somebody who
// looks at the nodes which of them led. Afterwards, with the pack stopped, Check
// holds all of it against the ledger and Rows against the results on the disk.
//
// Everything is told with moments, nodes and indices, so that a person can follow it.
// All moments are of one monotonic clock: histories of several processes cannot be
// joined.
//
// The rules, each with its word in Violation.Rule:
//
//	missing     an acknowledged change is not in the ledger
//	twice       a change was applied twice, or a place in a stream taken twice
//	refused     a change that was refused has been applied
//	answer      an acknowledgement names another entry than the one that stands
//	order       acknowledged before another began, and yet later in the ledger
//	masters     two nodes led at once, as far as what they did shows
//	stale       a read shows less than its index, or its promise, demands
//	phantom     a read shows what the ledger does not have at its index
//	rows        acknowledged rows are missing, doubled or in another order
//	unfinished  something that was acknowledged never came to its end
//	digest      nodes differ in the end
//	ledger      the ledger itself does not verify
//	node        a node's state could not go on
package history
