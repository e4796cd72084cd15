//go:build amd64 || arm64

package ebpf

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// decode reads a record. The bytes come from our own programs, but what lies in
// their slots comes from any process, so nothing of it is trusted.
func decode(raw []byte) (*Event, error) {
	if len(raw) < schedBytes {
		return nil, fmt.Errorf("%w: %d bytes", ErrRecord, len(raw))
	}
	r := record(raw)
	kind := int(r.u32(offEvent))
	if kind < 0 || kind >= len(table) {
		return nil, fmt.Errorf("%w: event %d", ErrRecord, kind)
	}
	e := &Event{
		Name: table[kind].name, SinceBoot: r.u64(offTime),
		PID: r.u32(offPID), PPID: r.u32(offPPID), TID: r.u32(offTID), LocalPID: r.u32(offLocal), UID: r.u32(offUID), GID: r.u32(offGID),
		Comm: r.text(offComm, commBytes), Cgroups: r.cgroups(),
	}
	var err error
	e.Data, err = r.data(kind)
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrRecord, e.Name, err)
	}
	return e, nil
}

// record reads at offsets that the caller has checked against its length.
type record []byte

func (r record) u32(at int) uint32 { return binary.LittleEndian.Uint32(r[at:]) }
func (r record) u64(at int) uint64 { return binary.LittleEndian.Uint64(r[at:]) }

// text reads a slot up to its NUL.
func (r record) text(at, size int) string {
	s, _, _ := bytes.Cut(r[at:at+size], []byte{0})
	return string(s)
}

func (r record) cgroups() []string {
	var out []string
	for i := range cgroupLevels {
		if name := r.text(offCgroups+i*cgroupBytes, cgroupBytes); name != "" {
			out = append(out, name)
		}
	}
	return out
}

func (r record) data(kind int) ([]Field, error) {
	switch kind {
	case eventExec:
		return r.exec()
	case eventExit:
		return r.exit(), nil
	case eventFork:
		return []Field{{"child_pid", int64(r.u32(offChild))}}, nil
	}
	return r.call(&table[kind])
}

// exit takes the code of wait(2) apart.
func (r record) exit() []Field {
	status := r.u32(offExitCode)
	signal := any(nil)
	if n := status & 0x7f; n != 0 {
		signal = signalName(int64(n))
	}
	return []Field{
		{"exit_code", int64(status >> 8 & 0xff)},
		{"signal", signal},
		{"core_dumped", status&0x80 != 0},
	}
}

func (r record) exec() ([]Field, error) {
	if len(r) < offArguments {
		return nil, fmt.Errorf("%d bytes", len(r))
	}
	area, args, env := int64(r.u32(offAreaSize)), int64(r.u32(offArgBytes)), int64(r.u32(offEnvBytes))
	behind := offArguments + area
	if args > area || r.u32(offCwdBytes) > cwdBytes || behind+env > int64(len(r)) || area > longArea {
		return nil, fmt.Errorf("areas of %d, %d and %d bytes in %d", area, args, env, len(r))
	}
	argv, cutArgs := r.strings(offArguments, int(args), r.u32(offArgTotal))
	out := []Field{
		{"filename", r.text(offFilename, filenameBytes)},
		{"cwd", r.cwd()},
		{"argv", argv},
		{"argv_truncated", cutArgs},
		{"euid", int64(r.u32(offEUID))},
	}
	if total := r.u32(offEnvTotal); total > 0 {
		vars, cut := r.strings(int(behind), int(env), total)
		out = append(out, Field{"env", vars}, Field{"env_truncated", cut})
	}
	return out, nil
}

// cwd puts the names of the working directory together. What had no room, at the
// top of a very deep one, is an ellipsis; nil is one that could not be read.
func (r record) cwd() any {
	names, _ := r.strings(offCwd, int(r.u32(offCwdBytes)), 0)
	slices.Reverse(names)
	switch whole := r.u32(offCwdWhole) == 1; {
	case whole:
		return "/" + strings.Join(names, "/")
	case len(names) == 0:
		return nil
	}
	return ".../" + strings.Join(names, "/")
}

// strings cuts an area at its NULs. An area that was longer than the room for it,
// or that could not be read, is truncated.
func (r record) strings(at, size int, total uint32) ([]string, bool) {
	truncated := int64(total) > int64(size)
	area := bytes.TrimSuffix(r[at:at+size], []byte{0})
	if len(area) == 0 {
		return []string{}, truncated
	}
	out := []string{}
	for s := range bytes.SplitSeq(area, []byte{0}) {
		out = append(out, string(s))
	}
	return out, truncated
}

// call reads a system call's arguments and result.
func (r record) call(e *event) ([]Field, error) {
	if want := callBytes(e.args); len(r) < want {
		return nil, fmt.Errorf("%d bytes of %d", len(r), want)
	}
	var out []Field
	at := offSlots
	for i, a := range e.args {
		out = r.argument(out, a, r.u64(offArgs+8*i), at)
		at += slotBytes(a.kind)
	}
	result := int64(r.u64(offResult))
	return append(out, Field{"return_value", result}, Field{"error", errorName(result)}), nil
}

// argument appends what an argument shows; at is the place of its slot.
func (r record) argument(out []Field, a arg, value uint64, at int) []Field {
	switch a.kind {
	case argNone:
		return out
	case argOpenHow:
		return append(
			out,
			Field{"flags", openFlags(r.u64(at))}, Field{"mode", modeText(r.u64(at + 8))},
			Field{"resolve", hexText(r.u64(at + 16))},
		)
	}
	return append(out, Field{a.name, r.value(a.kind, value, at)})
}

func (r record) value(kind argKind, value uint64, at int) any {
	switch kind {
	case argPath, argName:
		if value == 0 {
			return nil
		}
		return r.text(at, slotBytes(kind))
	case argAddress, argPeer:
		size := min(int(r.u32(at)), sockaddrBytes)
		return address(r[at+8 : at+8+size])
	case argInt:
		return int64(int32(value))
	case argLong:
		return int64(value)
	}
	return numberText(kind, value)
}
