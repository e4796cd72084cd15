package main

import (
	"encoding/json"
	"runtime"
	"time"

	"raptorpack/vql"
)

// cost is what this process had spent at a moment.
type cost struct {
	at     time.Time
	cpu    time.Duration // of all threads, user and system; 0 where the system does not tell
	memory runtime.MemStats
}

func costNow() cost {
	c := cost{at: time.Now()}
	runtime.ReadMemStats(&c.memory)
	c.cpu = cpuTime()
	return c
}

// report is what was spent since, as one line of JSON.
func (c *cost) report(s vql.Stats) string {
	now := costNow()
	text, err := json.Marshal(struct {
		Mallocs   uint64        `json:"mallocs"`
		Bytes     uint64        `json:"alloc_bytes"`
		CPU       time.Duration `json:"cpu_ns"`
		Wall      time.Duration `json:"wall_ns"`
		Scanned   uint64        `json:"rows_scanned"`
		Emitted   uint64        `json:"rows_emitted"`
		Plugins   uint64        `json:"plugins_called"`
		Functions uint64        `json:"functions_called"`
		Ops       uint64        `json:"ops"`
		Spilled   uint64        `json:"bytes_spilled"`
	}{
		now.memory.Mallocs - c.memory.Mallocs, now.memory.TotalAlloc - c.memory.TotalAlloc, now.cpu - c.cpu, now.at.Sub(c.at),
		s.RowsScanned, s.RowsEmitted, s.PluginsCalled, s.FunctionsCalled, s.Ops, s.BytesSpilled,
	})
	if err != nil {
		return err.Error() // numbers do not fail
	}
	return string(text)
}
