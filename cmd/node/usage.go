package node

import (
	"os"
	"sync"
	"time"

	"github.com/shirou/gopsutil/v4/process"
)

// usage measures what this process costs, for others to see.
type usage struct {
	mu     sync.Mutex
	self   *process.Process
	at     time.Time
	spent  float64 // CPU seconds up to at
	cpu    float64
	memory int64
}

// usageEvery is how long a measurement stands.
const usageEvery = 2 * time.Second

// now returns the share of a core used lately and the resident bytes; zeros where
// the system does not tell.
func (u *usage) now() (cpu float64, memory int64) {
	u.mu.Lock()
	defer u.mu.Unlock()
	passed := time.Since(u.at)
	if passed < usageEvery {
		return u.cpu, u.memory
	}
	if u.self == nil {
		self, err := process.NewProcess(int32(os.Getpid()))
		if err != nil {
			return 0, 0
		}
		u.self = self
	}
	if times, err := u.self.Times(); err == nil {
		spent := times.User + times.System
		if !u.at.IsZero() {
			u.cpu = (spent - u.spent) / passed.Seconds()
		}
		u.spent = spent
	}
	if info, err := u.self.MemoryInfo(); err == nil {
		u.memory = int64(info.RSS)
	}
	u.at = time.Now()
	return u.cpu, u.memory
}
