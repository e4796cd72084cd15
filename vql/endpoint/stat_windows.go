package endpoint

import (
	"io/fs"
	"syscall"
	"time"
)

func (f *statFacts) addTimes(info fs.FileInfo) {
	s, ok := info.Sys().(*syscall.Win32FileAttributeData)
	if !ok {
		return
	}
	f.atime = time.Unix(0, s.LastAccessTime.Nanoseconds()).UTC()
	f.btime = time.Unix(0, s.CreationTime.Nanoseconds()).UTC()
}
