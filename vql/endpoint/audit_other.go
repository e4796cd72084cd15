//go:build !linux

package endpoint

import (
	"context"
	"errors"

	"raptorpack/vql"
)

// watchAudit is never reached: audit is declared for Linux.
func watchAudit(context.Context, *vql.Scope, vql.Emit) error { return errors.ErrUnsupported }
