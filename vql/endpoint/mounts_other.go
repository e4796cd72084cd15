//go:build !linux

package endpoint

import (
	"context"
	"errors"

	"raptorpack/vql"
)

func listMounts(ctx context.Context) ([]mount, error) { return gopsutilMounts(ctx) }

// systemMemory is never reached: sysinfo is declared for Linux.
func systemMemory() (*vql.Dict, error) { return nil, errors.ErrUnsupported }
