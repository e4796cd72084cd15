package ebpf

import "strings"

// containerDigits is the length of the ids that container runtimes give.
const containerDigits = 64

// ContainerID finds the id of the container that a process's cgroup belongs to,
// from names of cgroups, the nearest first: 64 hex digits, as docker, containerd,
// CRI-O and podman use them, alone or as in docker-ID.scope. It is empty for a
// process of no container, and for the runtimes' own helpers (conmon), which live
// beside the container that they watch.
func ContainerID(cgroups []string) string {
	for _, name := range cgroups {
		if strings.Contains(name, "conmon") {
			return ""
		}
		if id := hexRun(name); id != "" {
			return id
		}
	}
	return ""
}

// hexRun returns the run of exactly 64 hex digits in name.
func hexRun(name string) string {
	run := 0
	for i := 0; i <= len(name); i++ {
		if i < len(name) && strings.IndexByte("0123456789abcdef", name[i]) >= 0 {
			run++
			continue
		}
		if run == containerDigits {
			return name[i-run : i]
		}
		run = 0
	}
	return ""
}
