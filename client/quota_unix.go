//go:build unix

package client

import "syscall"

// errQuota is what a user's used-up disk quota gives.
const errQuota = syscall.EDQUOT
