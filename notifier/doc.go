// Package notifier knows which clients wait on this node and wakes them.
//
// It owns the board of waiting connections, one per client, and the set of
// clients whose presence changed. It never promises delivery: a wake that finds
// nobody costs one poll, and whoever registers looks for work afterwards. It
// never writes to a connection and knows nothing of tasks.
//
// Main walk: a connection calls Register before it looks for work; whoever
// applies an entry that gives a client work calls Wake; the connection's bell
// rings and it looks again. A newer connection of the same client takes the
// place of an older one, which is told.
//
// Locking: the board is sharded by client; a shard's mutex is held for a map
// operation only. Bells ring after it is released.
package notifier
