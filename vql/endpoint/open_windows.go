package endpoint

import (
	"io/fs"

	"golang.org/x/sys/windows"
	"raptorpack/vql"
)

const nonblock = 0

// drives lists the drive letters, which are the top folder of Windows.
func drives() []vql.FileInfo {
	mask, err := windows.GetLogicalDrives()
	if err != nil {
		return nil
	}
	var out []vql.FileInfo
	for i := range 26 {
		if mask&(1<<i) == 0 {
			continue
		}
		name := string(rune('A'+i)) + ":"
		facts := &statFacts{mode: fs.ModeDir}
		out = append(out, &fileInfo{name: name, path: vql.NewPath(vql.PathWindows, name), mode: fs.ModeDir, facts: facts})
	}
	return out
}
