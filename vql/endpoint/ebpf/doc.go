// Package ebpf reports what processes do on Linux, as the kernel sees it.
package ebpf
