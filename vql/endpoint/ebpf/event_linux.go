//go:build amd64 || arm64

package ebpf

import (
	"fmt"
	"strings"
	"time"
)

// Event is one thing that happened.
type Event struct {
	// Name is the event's name, as in Known.
	Name string
	// Time is when it happened, by the machine's clock.
	Time time.Time
	// SinceBoot is the kernel's time in nanoseconds since the machine started,
	// sleep included.
	SinceBoot uint64
	// PID, PPID, TID are of the process that did it, as the first namespace of the
	// machine numbers them.
	PID, PPID, TID uint32
	// LocalPID is the same as PID in the namespace of this program, 0 when the
	// process lives in another.
	LocalPID uint32
	// UID and GID are the process's real ones in the first user namespace.
	UID, GID uint32
	// Comm is the name of the thread, 15 bytes at most.
	Comm string
	// Cgroups are the names of the process's cgroup and of those above it, the
	// nearest first, three at most.
	Cgroups []string
	// Data holds what belongs to this event, in order.
	Data []Field
}

// Field is a named value: string, []string, int64, bool, nil or []Field.
type Field struct {
	Name  string
	Value any
}

// Text is the event as a line to search in: its name, the thread's name, then each
// field as NAME=VALUE, lists with spaces between.
func (e *Event) Text() string {
	var b strings.Builder
	b.WriteString(e.Name + " " + e.Comm)
	writeFields(&b, e.Data)
	return b.String()
}

func writeFields(b *strings.Builder, fields []Field) {
	for _, f := range fields {
		switch v := f.Value.(type) {
		case []Field:
			writeFields(b, v)
		case []string:
			b.WriteString(" " + f.Name + "=" + strings.Join(v, " "))
		case nil:
		default:
			fmt.Fprintf(b, " %s=%v", f.Name, v)
		}
	}
}
