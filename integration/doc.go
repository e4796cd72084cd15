// Package integration runs the real program: nodes and agents as processes on
// loopback, killed, cut off from power and started again, and a checker that
// compares what agents were told with what the store holds.
//
// Nothing imports it. Short forms of the stories run in every `go test`; the long
// ones behind -long (make integration), the NFS lab behind make integration-nfs.
package integration
