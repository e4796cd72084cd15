// Package cluster knows who is in the pack: the names, addresses and load of the
// other nodes, as gossip last told. It is the only user of memberlist.
//
// It never decides who is master: that is a lease on the filestore. It carries
// nothing but membership, and promises nothing but a good guess; whoever needs
// to know whether a node lives asks that node.
//
// Main walk: New binds the sockets. Run starts memberlist on them, tells the
// others of this node, and joins every address that is named in the
// configuration or by Seeds and is not among the members (join.go). memberlist
// reports who came, changed and went; the table keeps that and rings Changed.
// When its context ends, Run says farewell and lets go of the sockets.
//
// Locking: the table's mutex is held for map operations only. memberlist calls
// the table under a lock of its own, so nothing there waits, logs or calls back.
//
// DESIGN.md has the guarantees, and what is not promised.
package cluster
