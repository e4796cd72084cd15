//go:build unix

package node

import "syscall"

// storeDescriptors are kept free of clients: segments, uploads, ledger, and the
// other doors. A store without descriptors acknowledges nothing.
const storeDescriptors = 3000

// maxConnections is how many client connections the process may hold, by its
// limit on open files; 0: the default of the door.
func maxConnections() int64 {
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	most := int64(min(uint64(limit.Cur), 1<<31))
	return max(most-storeDescriptors, most/2)
}
