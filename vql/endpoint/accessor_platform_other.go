//go:build !linux

package endpoint

import "raptorpack/vql"

// addPlatformAccessors adds nothing: process memory is read on Linux only.
func addPlatformAccessors(map[string]vql.Accessor) {}
