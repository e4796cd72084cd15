package wiretest

import (
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
)

// Memory is what the process uses: live heap and stacks, and resident pages.
func Memory(b *testing.B) (heap, resident float64) {
	b.Helper()
	runtime.GC() // finalisers, then what they freed
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("no /proc: ", err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			kilobytes, err := strconv.Atoi(strings.Fields(text)[0])
			if err != nil {
				b.Fatal(err)
			}
			resident = float64(kilobytes) * 1024
		}
	}
	return float64(m.HeapInuse + m.StackInuse), resident
}
