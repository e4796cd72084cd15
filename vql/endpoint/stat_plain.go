//go:build !linux && !darwin && !windows

package endpoint

import "io/fs"

func (f *statFacts) addTimes(fs.FileInfo) {}
