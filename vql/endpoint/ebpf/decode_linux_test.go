//go:build amd64 || arm64

package ebpf

import (
	"encoding/binary"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// place finds an event's place in the table.
func place(t testing.TB, name string) int {
	t.Helper()
	i := slices.IndexFunc(table, func(e event) bool { return e.name == name })
	if i < 0 {
		t.Skipf("this machine has no %s", name)
	}
	return i
}

// made is a record in the making.
type made []byte

func newRecord(kind, size int) made {
	r := made(make([]byte, size))
	r.put32(offEvent, uint32(kind)).put64(offTime, 7_000_000_001)
	r.put32(offPID, 42).put32(offTID, 43).put32(offPPID, 1).put32(offUID, 1000).put32(offGID, 100)
	return r.text(offComm, "sh").text(offCgroups, "leaf").text(offCgroups+cgroupBytes, "system.slice")
}

func (r made) put32(at int, v uint32) made {
	binary.LittleEndian.PutUint32(r[at:], v)
	return r
}

func (r made) put64(at int, v uint64) made {
	binary.LittleEndian.PutUint64(r[at:], v)
	return r
}

func (r made) text(at int, s string) made {
	copy(r[at:], s+"\x00")
	return r
}

func execRecord(args, env string) made {
	r := newRecord(eventExec, offArguments+shortArea+longArea)
	r.put32(offAreaSize, shortArea).put32(offArgBytes, uint32(len(args))).put32(offArgTotal, uint32(len(args)))
	r.put32(offEnvBytes, uint32(len(env))).put32(offEnvTotal, uint32(len(env)))
	const cwd = "a b\x00home\x00"
	r.put32(offCwdBytes, uint32(len(cwd))).put32(offCwdWhole, 1).text(offCwd, cwd)
	return r.text(offFilename, "/bin/sh").text(offArguments, args).text(offArguments+shortArea, env)
}

func callRecord(t testing.TB, name string, result int64, args ...uint64) made {
	kind := place(t, name)
	r := newRecord(kind, callBytes(table[kind].args)).put64(offResult, uint64(result))
	for i, v := range args {
		r.put64(offArgs+8*i, v)
	}
	return r
}

func TestDecodeReadsWhatAllRecordsHave(t *testing.T) {
	got, err := decode(newRecord(eventFork, schedBytes).put32(offChild, 99).put32(offLocal, 5))
	if err != nil {
		t.Fatal(err)
	}
	want := &Event{
		Name: "sched_process_fork", SinceBoot: 7_000_000_001, PID: 42, TID: 43, PPID: 1, UID: 1000, GID: 100, LocalPID: 5,
		Comm: "sh", Cgroups: []string{"leaf", "system.slice"}, Data: []Field{{"child_pid", int64(99)}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeReadsEachKindOfData(t *testing.T) {
	at := int64(-100)
	inet := func(bytes string) made {
		r := callRecord(t, "connect", -111, 3, 0x7fff0000, uint64(len(bytes)))
		r.put32(offSlots, uint32(len(bytes)))
		copy(r[offSlots+8:], bytes)
		return r
	}
	for name, c := range map[string]struct {
		record made
		want   string
	}{
		"exec":                         {execRecord("sh\x00-c\x00\x00a b\x00", "A=1\x00"), "sched_process_exec sh filename=/bin/sh cwd=/home/a b argv=sh -c  a b argv_truncated=false euid=0 env=A=1 env_truncated=false"},
		"exec, no args":                {execRecord("", ""), "sched_process_exec sh filename=/bin/sh cwd=/home/a b argv= argv_truncated=false euid=0"},
		"exec, cut":                    {execRecord("sh\x00", "").put32(offArgTotal, 9000), "sched_process_exec sh filename=/bin/sh cwd=/home/a b argv=sh argv_truncated=true euid=0"},
		"exit":                         {newRecord(eventExit, schedBytes).put32(offExitCode, 3<<8), "sched_process_exit sh exit_code=3 core_dumped=false"},
		"exit by signal":               {newRecord(eventExit, schedBytes).put32(offExitCode, 11|0x80), "sched_process_exit sh exit_code=0 signal=SIGSEGV core_dumped=true"},
		"openat":                       {callRecord(t, "openat", 3, uint64(at), 1, 0o2000101, 0o644).text(offSlots, "/tmp/a"), "openat sh dirfd=-100 pathname=/tmp/a flags=O_WRONLY|O_CREAT|O_CLOEXEC mode=0644 return_value=3"},
		"openat, refused":              {callRecord(t, "openat", -13, 5, 1).text(offSlots, "x"), "openat sh dirfd=5 pathname=x flags=O_RDONLY mode=0 return_value=-13 error=EACCES"},
		"openat, no path":              {callRecord(t, "openat", -14, 5), "openat sh dirfd=5 flags=O_RDONLY mode=0 return_value=-14 error=EFAULT"},
		"IPv4":                         {inet("\x02\x00\x00\x50\x7f\x00\x00\x01"), "connect sh sockfd=3 sa_family=AF_INET ip=127.0.0.1 port=80 return_value=-111 error=ECONNREFUSED"},
		"IPv6":                         {inet("\x0a\x00\x01\xbb\x00\x00\x00\x00" + strings.Repeat("\x00", 15) + "\x01"), "connect sh sockfd=3 sa_family=AF_INET6 ip=::1 port=443 return_value=-111 error=ECONNREFUSED"},
		"unix":                         {inet("\x01\x00/run/x\x00junk"), "connect sh sockfd=3 sa_family=AF_UNIX path=/run/x return_value=-111 error=ECONNREFUSED"},
		"abstract":                     {inet("\x01\x00\x00bus"), "connect sh sockfd=3 sa_family=AF_UNIX path=@bus return_value=-111 error=ECONNREFUSED"},
		"short IPv4":                   {inet("\x02\x00\x00\x50"), "connect sh sockfd=3 sa_family=AF_INET return_value=-111 error=ECONNREFUSED"},
		"no address":                   {inet(""), "connect sh sockfd=3 return_value=-111 error=ECONNREFUSED"},
		"odd family":                   {inet("\xff\xff"), "connect sh sockfd=3 sa_family=65535 return_value=-111 error=ECONNREFUSED"},
		"openat2":                      {callRecord(t, "openat2", 4, uint64(at), 1, 1, 24).text(offSlots, "b").put64(offSlots+pathBytes, 0o2).put64(offSlots+pathBytes+8, 0o600).put64(offSlots+pathBytes+16, 8), "openat2 sh dirfd=-100 pathname=b flags=O_RDWR mode=0600 resolve=0x8 return_value=4"},
		"renameat2":                    {callRecord(t, "renameat2", 0, uint64(at), 1, uint64(at), 1, 2).text(offSlots, "a").text(offSlots+pathBytes, "b"), "renameat2 sh olddirfd=-100 oldpath=a newdirfd=-100 newpath=b flags=0x2 return_value=0"},
		"kill":                         {callRecord(t, "kill", 0, 1234, 9), "kill sh pid=1234 sig=SIGKILL return_value=0"},
		"kill, odd":                    {callRecord(t, "kill", -22, 1234, 999), "kill sh pid=1234 sig=999 return_value=-22 error=EINVAL"},
		"interrupted":                  {callRecord(t, "accept4", -512, 3), "accept4 sh sockfd=3 flags=0x0 return_value=-512 error=ERESTART"},
		"ptrace":                       {callRecord(t, "ptrace", 0, 16, 77), "ptrace sh request=PTRACE_ATTACH pid=77 addr=0x0 data=0x0 return_value=0"},
		"bpf":                          {callRecord(t, "bpf", 9, 5, 0xdead, 144), "bpf sh cmd=BPF_PROG_LOAD attr=0xdead size=144 return_value=9"},
		"setuid":                       {callRecord(t, "setuid", 0, 0xffffffff), "setuid sh uid=-1 return_value=0"},
		"address bigger than its slot": {inet("\x02\x00\x00\x50\x7f\x00\x00\x01").put32(offSlots, 1<<31), "connect sh sockfd=3 sa_family=AF_INET ip=127.0.0.1 port=80 return_value=-111 error=ECONNREFUSED"},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := decode(c.record)
			if err != nil {
				t.Fatal(err)
			}
			if got := e.Text(); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestDecodeRefusesWhatIsNoRecord(t *testing.T) {
	for name, raw := range map[string][]byte{
		"nothing":           nil,
		"short":             make([]byte, schedBytes-1),
		"unknown event":     newRecord(len(table), 4096),
		"exec cut off":      newRecord(eventExec, offArguments-1),
		"exec, no area":     execRecord("sh\x00", "")[:offArguments+shortArea-1],
		"arguments overlap": execRecord("sh\x00", "").put32(offArgBytes, shortArea+1),
		"env beyond":        execRecord("sh\x00", "A=1\x00").put32(offEnvBytes, longArea+1),
		"huge area":         execRecord("sh\x00", "").put32(offAreaSize, 0xffffffff),
		"cwd beyond":        execRecord("", "").put32(offCwdBytes, cwdBytes+1),
		"call cut off":      callRecord(t, "openat", 0)[:offSlots+pathBytes-1],
	} {
		if e, err := decode(raw); !errors.Is(err, ErrRecord) {
			t.Errorf("%s: got %+v, %v", name, e, err)
		}
	}
}

func TestHostileTextsStayInTheirFields(t *testing.T) {
	e, err := decode(callRecord(t, "unlinkat", 0, 0, 1).text(offSlots, "\xff\xfe\n\"\x1b[2J"))
	if err != nil {
		t.Fatal(err)
	}
	if got := e.Data[1]; got != (Field{"pathname", "\xff\xfe\n\"\x1b[2J"}) {
		t.Errorf("got %q", got)
	}
	full := strings.Repeat("x", pathBytes) // no NUL at all: the slot ends it
	r := callRecord(t, "unlinkat", 0, 0, 1)
	copy(r[offSlots:], full)
	if e, err = decode(r); err != nil || e.Data[1].Value != full {
		t.Errorf("got %d bytes, %v", len(e.Data[1].Value.(string)), err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(execRecord("sh\x00-c\x00", "A=1\x00")))
	f.Add([]byte(newRecord(eventExit, schedBytes).put32(offExitCode, 139)))
	f.Add([]byte(newRecord(eventFork, schedBytes)))
	f.Add([]byte(callRecord(f, "connect", 0, 3, 1, 16).put32(offSlots, 16)))
	f.Add([]byte(callRecord(f, "renameat2", 0, 3, 1, 16).text(offSlots, "a")))
	f.Add([]byte(callRecord(f, "openat2", 0, 3, 1, 16).text(offSlots, "a")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		e, err := decode(raw)
		if err != nil {
			if !errors.Is(err, ErrRecord) {
				t.Fatalf("error of another kind: %v", err)
			}
			return
		}
		if e.Name == "" || len(e.Text()) > 8*len(raw)+4096 {
			t.Fatalf("%d bytes became %+v", len(raw), e)
		}
	})
}
