// Package minion is the list of what runs while another node leads: this node
// follows the ledger, and says so when it falls behind.
//
// It never orders or accepts an entry. What runs whoever leads (the bus, the
// outbox, the doors) is not its business.
//
// Main walk: Run follows and watches the age of the state until it is told to
// stop; a candidate is told so when it has won an epoch.
//
// There are no locks: the ledger has its own.
package minion
