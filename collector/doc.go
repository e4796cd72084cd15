// Package collector is the offline collector: it runs artifacts on this machine,
// without a server, and packs what they give into a container.
//
// It owns the running of compiled requests outside of an agent, and the bundle that
// rows, logs and uploads grow in. It never compiles for a client, and keeps nothing
// but its output.
//
// Main walk: NewBundle, Run, Bundle.Close; collect() does the same within a query.
//
// Locking: Bundle.mu guards its files; it is held while they are written, because rows
// of one result must not mix.
package collector
