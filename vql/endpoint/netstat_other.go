//go:build !linux

package endpoint

import (
	"context"

	"raptorpack/vql"
)

// eachSocket is never reached: netstat and connections are declared for Linux.
func eachSocket(context.Context, *vql.Scope, func(*socket, holder) error) error { return nil }
