package endpoint

import (
	"context"
	"os"

	"golang.org/x/sys/unix"
	"raptorpack/vql"
)

// listMounts reads our mount table, and falls back where /proc is missing.
func listMounts(ctx context.Context) ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return gopsutilMounts(ctx)
	}
	return parseMounts(data), nil
}

func systemMemory() (*vql.Dict, error) {
	var s unix.Sysinfo_t
	if err := unix.Sysinfo(&s); err != nil {
		return nil, err
	}
	unit := uint64(s.Unit)
	d := vql.NewDict()
	for _, f := range []struct {
		name  string
		value uint64
	}{
		{"TotalPhysicalMemory", uint64(s.Totalram)},
		{"TotalFreeMemory", uint64(s.Freeram)},
		{"TotalSharedMemory", uint64(s.Sharedram)},
		{"TotalSwap", uint64(s.Totalswap)},
		{"FreeSwap", uint64(s.Freeswap)},
	} {
		d.Set(f.name, f.value*unit)
	}
	return d, nil
}
