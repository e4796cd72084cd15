// Package master owns the lease, its epochs, and the list of what runs while
// this node leads.
//
// It never serves clients or browsers, and never decides anything about hunts,
// flows or labels: duties are handed in.
//
// Main walk: Run campaigns for an epoch, leads it (the ledger first; once that
// takes entries, the duties), and follows again. The context of everything
// that leads ends with the lease, and all of it has ended before this node
// releases the lease and campaigns anew.
//
// There are no locks: one goroutine runs the walk, and what others may ask is
// an atomic number.
package master
