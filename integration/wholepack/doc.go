// Package wholepack runs a whole pack in one process: nodes composed as the program
// does it, with real gRPC and HTTP on loopback, agents, and operators at the JSON
// door of any node, over one shared disk.
//
// Everything a node stands on can be taken away from it alone: its disk (Node.FS: hangs,
// errors, lost answers; Node.Stale), its network (Net: cut, silent, slow, by pair
// and direction), its life (Node.Kill). A killed node is that of kill -9: from the
// call on nothing of it reaches the disk, its connections are gone, and what is left
// of it in this process is cleared away behind its back. The next Start of the name
// is its next incarnation. Others cannot tell from the process id that a killed node
// is gone, since the process lives on: for them it ran on another host.
//
// Package history writes down what operators, readers and agents saw and compares it
// with the store afterwards. Nothing imports this package but tests.
package wholepack
