// Package stories tells what one node does when something breaks: the disk, the
// clock, certificates, the network, and clients and operators who mean harm.
//
// Each story is a test on a whole pack in one process: a node composed as the
// program does it, agents, and an operator at the JSON door, over a filestore
// whose faults the test turns on and off. It ends with the same questions: does
// the node say clearly what and where, does it serve again, and is every
// acknowledged row there exactly once. Nothing imports it.
//
// Stories of processes, kill -9 and power cuts are in the folder above.
package stories
