package endpoint

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// errProc means that a file of /proc does not have the form of proc(5). A process
// that ends while we read gives such files, so it is no cause for alarm.
var errProc = errors.New("unexpected form of a /proc file")

// clockTicks is USER_HZ, which Linux fixes at 100 for user space on every
// architecture that we build for (see times(2) and the kernel's param.h).
const clockTicks = 100

// procStat holds what we use of /proc/PID/stat.
type procStat struct {
	pid, ppid      int64
	comm           string
	state          byte
	session, tty   int64
	utime, stime   uint64 // clock ticks
	cutime, cstime int64
	threads        int64
	start          uint64 // clock ticks since boot
	vsize          uint64 // bytes
	rss            int64  // pages
}

// parseProcStat reads /proc/PID/stat. The name in parentheses may itself hold
// blanks, parentheses and line ends, so the last closing one counts.
func parseProcStat(data []byte) (procStat, error) {
	var s procStat
	left, right := bytes.IndexByte(data, '('), bytes.LastIndexByte(data, ')')
	if left < 1 || right < left {
		return s, fmt.Errorf("%w: stat has no name", errProc)
	}
	s.comm = string(data[left+1 : right])
	f := strings.Fields(string(data[right+1:]))
	if len(f) < 22 {
		return s, fmt.Errorf("%w: stat has %d fields", errProc, len(f))
	}
	var bad error
	signed := func(text string) int64 {
		n, err := strconv.ParseInt(text, 10, 64)
		bad = errors.Join(bad, err)
		return n
	}
	unsigned := func(text string) uint64 {
		n, err := strconv.ParseUint(text, 10, 64)
		bad = errors.Join(bad, err)
		return n
	}
	s.pid = signed(strings.TrimSpace(string(data[:left])))
	s.state = f[0][0]
	s.ppid, s.session, s.tty = signed(f[1]), signed(f[3]), signed(f[4])
	s.utime, s.stime = unsigned(f[11]), unsigned(f[12])
	s.cutime, s.cstime = signed(f[13]), signed(f[14])
	s.threads, s.start = signed(f[17]), unsigned(f[19])
	s.vsize, s.rss = unsigned(f[20]), signed(f[21])
	if bad != nil {
		return s, fmt.Errorf("%w: stat: %w", errProc, bad)
	}
	return s, nil
}

// statusNumbers returns the numbers of one line of /proc/PID/status, as "Uid:".
func statusNumbers(status []byte, key string) []int64 {
	for line := range bytes.Lines(status) {
		rest, ok := bytes.CutPrefix(line, []byte(key))
		if !ok {
			continue
		}
		var out []int64
		for _, f := range bytes.Fields(rest) {
			n, err := strconv.ParseInt(string(f), 10, 64)
			if err != nil {
				break // the unit, as kB
			}
			out = append(out, n)
		}
		return out
	}
	return nil
}

// commandLine joins the arguments of /proc/PID/cmdline with blanks. A process may
// overwrite that memory, so the NUL bytes may be missing.
func commandLine(data []byte) string {
	data = bytes.TrimRight(data, "\x00")
	return string(bytes.ReplaceAll(data, []byte{0}, []byte{' '}))
}

// A socket is a line of /proc/net/tcp and its siblings.
type socket struct {
	v6       bool
	udp      bool
	local    netip.AddrPort
	remote   netip.AddrPort
	state    uint8
	uid      uint32
	inode    uint64
	protocol string // tcp, tcp6, udp, udp6
}

// socketStates are the names of enum tcp_state, as ss(8) abbreviates them.
var socketStates = [...]string{
	1: "ESTAB", 2: "SYN_SENT", 3: "SYN_RECV", 4: "FIN_WAIT1", 5: "FIN_WAIT2", 6: "TIME_WAIT",
	7: "CLOSE", 8: "CLOSE_WAIT", 9: "LAST_ACK", 10: "LISTEN", 11: "CLOSING", 12: "NEW_SYN_RECV",
}

// status names the state. UDP has none but "connected", which shows as ESTAB.
func (s *socket) status() string {
	if s.udp && s.state == 7 {
		return ""
	}
	if int(s.state) < len(socketStates) {
		return socketStates[s.state]
	}
	return strconv.Itoa(int(s.state))
}

// parseSocket reads one line; ok is false for the heading and for damaged lines.
func parseSocket(line, protocol string) (s socket, ok bool) {
	f := strings.Fields(line)
	if len(f) < 10 || !strings.HasSuffix(f[0], ":") {
		return s, false
	}
	s.protocol = protocol
	s.v6, s.udp = strings.HasSuffix(protocol, "6"), strings.HasPrefix(protocol, "udp")
	var okLocal, okRemote bool
	s.local, okLocal = parseProcAddr(f[1])
	s.remote, okRemote = parseProcAddr(f[2])
	state, err1 := strconv.ParseUint(f[3], 16, 8)
	uid, err2 := strconv.ParseUint(f[7], 10, 32)
	inode, err3 := strconv.ParseUint(f[9], 10, 64)
	s.state, s.uid, s.inode = uint8(state), uint32(uid), inode
	return s, okLocal && okRemote && errors.Join(err1, err2, err3) == nil
}

// parseProcAddr reads ADDRESS:PORT in hexadecimal. The kernel prints the address as
// 32-bit words in its own byte order, which is little endian wherever we run.
func parseProcAddr(text string) (netip.AddrPort, bool) {
	host, port, ok := strings.Cut(text, ":")
	if !ok {
		return netip.AddrPort{}, false
	}
	raw, err := hex.DecodeString(host)
	if err != nil || len(raw) != 4 && len(raw) != 16 {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.LittleEndian.Uint32(raw[i:]))
	}
	addr, _ := netip.AddrFromSlice(raw)
	p, err := strconv.ParseUint(port, 16, 16)
	return netip.AddrPortFrom(addr, uint16(p)), err == nil
}

// A mount is a line of /proc/mounts.
type mount struct{ device, point, kind, options string }

func parseMounts(data []byte) []mount {
	var out []mount
	for line := range bytes.Lines(data) {
		f := strings.Fields(string(line))
		if len(f) < 4 {
			continue
		}
		out = append(out, mount{unescapeMount(f[0]), unescapeMount(f[1]), f[2], f[3]})
	}
	return out
}

// unescapeMount reads the octal escapes that stand for blanks, tabs, line ends and
// backslashes in /proc/mounts.
func unescapeMount(s string) string {
	if !strings.Contains(s, `\`) {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// A memoryRange is a line of /proc/PID/maps: addresses from start up to end.
type memoryRange struct {
	start, end uint64
	perms      string
	name       string
}

func parseMaps(data []byte) []memoryRange {
	var out []memoryRange
	for line := range bytes.Lines(data) {
		text := strings.TrimRight(string(line), "\n")
		f := strings.SplitN(text, " ", 6)
		if len(f) < 5 {
			continue
		}
		from, to, ok := strings.Cut(f[0], "-")
		start, err1 := strconv.ParseUint(from, 16, 64)
		end, err2 := strconv.ParseUint(to, 16, 64)
		if !ok || err1 != nil || err2 != nil || end <= start {
			continue
		}
		r := memoryRange{start: start, end: end, perms: f[1]}
		if len(f) == 6 {
			r.name = strings.TrimSpace(f[5])
		}
		out = append(out, r)
	}
	return out
}

// parseMountType finds the file system type of a device in /proc/self/mountinfo,
// or that of a mount: btrfs has devices of its own for subvolumes, overlays for
// what lies below, which the table does not list.
func parseMountType(data []byte, major, minor uint32, mount uint64) string {
	device, number, byMount := fmt.Sprintf("%d:%d", major, minor), strconv.FormatUint(mount, 10), ""
	for line := range bytes.Lines(data) {
		left, right, ok := strings.Cut(string(line), " - ")
		if !ok {
			continue
		}
		f, kind := strings.Fields(left), strings.Fields(right)
		if len(f) < 3 || len(kind) == 0 {
			continue
		}
		if f[2] == device {
			return kind[0]
		}
		if f[0] == number {
			byMount = kind[0]
		}
	}
	return byMount
}
