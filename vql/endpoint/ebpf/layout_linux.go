//go:build amd64 || arm64

package ebpf

// A record is what a program writes into the ring buffer: numbers in the
// machine's order (both machines are little-endian) and texts in slots of a fixed
// size, cut off by a NUL. What lies in a slot behind the NUL is old memory of the
// ring and means nothing.
const (
	offTime    = 0  // uint64, nanoseconds since boot
	offEvent   = 8  // uint32, index in the table of events
	offPID     = 12 // uint32, thread group
	offTID     = 16 // uint32
	offPPID    = 20 // uint32
	offUID     = 24 // uint32
	offGID     = 28 // uint32
	offComm    = 32 // text
	offLocal   = 48 // uint32, thread group as our own namespace numbers it; 0 in another
	offCgroups = 56 // cgroupLevels texts: the leaf, its parent, the one above
	offBody    = offCgroups + cgroupLevels*cgroupBytes

	commBytes    = 16
	cgroupLevels = 3
	cgroupBytes  = 96 // cri-containerd-<64>.scope and the like
)

// The body of sched_process_exec. The area of arguments comes in two sizes, so
// that the usual short command line does not take 4 KiB of the ring.
const (
	offArgBytes  = offBody                     // uint32, bytes that were copied
	offArgTotal  = offBody + 4                 // uint32, bytes that the process has
	offEnvBytes  = offBody + 8                 // uint32
	offEnvTotal  = offBody + 12                // uint32
	offAreaSize  = offBody + 16                // uint32, room for arguments in this record
	offEUID      = offBody + 20                // uint32
	offCwdBytes  = offBody + 24                // uint32, bytes that were written
	offCwdWhole  = offBody + 28                // uint32, 1 when the way ended at the root
	offFilename  = offBody + 32                // text
	offCwd       = offFilename + filenameBytes // names with their NULs, the last one first
	offArguments = offCwd + cwdBytes

	filenameBytes = 1024
	cwdBytes      = 1280
	shortArea     = 512
	longArea      = 4096
)

// The bodies of sched_process_fork and sched_process_exit.
const (
	offChild    = offBody // uint32
	offExitCode = offBody // uint32, as wait(2) gives it
	schedBytes  = offBody + 8
)

// The body of a system call: result, six arguments, then a slot for each argument
// that points to memory, in the order of the arguments.
const (
	offResult = offBody     // int64
	offArgs   = offBody + 8 // six uint64
	offSlots  = offArgs + 6*8

	pathBytes     = 1024
	nameBytes     = 256
	sockaddrBytes = 128 // sockaddr_storage
	addressBytes  = 8 + sockaddrBytes
	openHowBytes  = 24
)
