//go:build windows

package client

import "golang.org/x/sys/windows"

// errQuota is what a full volume gives.
const errQuota = windows.ERROR_DISK_FULL
