//go:build !windows

package endpoint

import "os"

func isAdmin() bool { return os.Geteuid() == 0 }
