//go:build amd64 || arm64

package ebpf

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestAProgramThatStartsIsSeen(t *testing.T) {
	s := watch(t, Options{IncludeEnv: true}, ignore)
	args := []string{"/bin/true", "a b", "", "ü\xff\n", "--" + strconv.Itoa(os.Getpid())}
	cmd := exec.Cmd{Path: "/bin/true", Args: args, Env: []string{"ODD=x y", "EMPTY="}, Dir: "/"}
	before := time.Now()
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	ours := func(e *Event) bool { return int(e.LocalPID) == cmd.Process.Pid }
	e := s.wait("sched_process_exec", ours)
	if got := field(t, e, "argv"); !slices.Equal(got.([]string), args) {
		t.Errorf("argv %q, want %q", got, args)
	}
	if got := field(t, e, "env"); !slices.Equal(got.([]string), cmd.Env) {
		t.Errorf("env %q", got)
	}
	if got := field(t, e, "cwd"); got != "/" {
		t.Errorf("cwd %q", got)
	}
	if got := field(t, e, "filename"); got != "/bin/true" {
		t.Errorf("filename %q", got)
	}
	if field(t, e, "argv_truncated") != false || field(t, e, "env_truncated") != false {
		t.Error("truncated")
	}
	if field(t, e, "euid") != int64(os.Geteuid()) {
		t.Errorf("euid %v", field(t, e, "euid"))
	}
	if e.Comm != "true" || int(e.UID) != os.Getuid() || int(e.GID) != os.Getgid() {
		t.Errorf("got %+v", e)
	}
	if off := e.Time.Sub(before); off < -time.Minute || off > time.Minute {
		t.Errorf("its time is off by %v", off)
	}
	exit := s.wait("sched_process_exit", ours)
	if field(t, exit, "exit_code") != int64(0) || exit.PID != e.PID || exit.PPID != e.PPID {
		t.Errorf("got %+v", exit)
	}
	s.wait("sched_process_fork", func(f *Event) bool {
		return field(t, f, "child_pid") == int64(e.PID) && f.PID == e.PPID && int(f.LocalPID) == os.Getpid()
	})
}

func TestTheWorkingDirectoryIsSeenAcrossMounts(t *testing.T) {
	s := watch(t, Options{}, ignore)
	deep := t.TempDir()
	for range 30 { // more than the steps that are gone
		deep = filepath.Join(deep, "d")
	}
	long := filepath.Join(t.TempDir(), strings.Repeat("n", 255), strings.Repeat("ü", 127))
	for dir, want := range map[string]string{
		t.TempDir(): "", long: "", "/proc/sys/net": "", "/dev": "",
		deep: "..." + strings.Repeat("/d", cwdSteps),
	} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if want == "" {
			want = dir
		}
		cmd := exec.Command("/bin/true", "in", dir)
		cmd.Dir = dir
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		e := s.wait("sched_process_exec", func(e *Event) bool { return int(e.LocalPID) == cmd.Process.Pid })
		if got := field(t, e, "cwd"); got != want {
			t.Errorf("cwd %q, want %q", got, want)
		}
	}
}

func TestLongArgumentsAreCut(t *testing.T) {
	s := watch(t, Options{}, ignore)
	for _, c := range []struct {
		length, kept int
		cut          bool
	}{
		{400, 400, false},
		{3000, 3000, false},
		{20000, longArea - len("/bin/true\x00"), true},
	} {
		cmd := exec.Command("/bin/true", strings.Repeat("x", c.length))
		if err := cmd.Run(); err != nil {
			t.Fatal(err)
		}
		e := s.wait("sched_process_exec", func(e *Event) bool { return int(e.LocalPID) == cmd.Process.Pid })
		argv := field(t, e, "argv").([]string)
		if len(argv) != 2 || len(argv[1]) != c.kept || field(t, e, "argv_truncated") != c.cut {
			t.Errorf("%d bytes: %d arguments, cut %v", c.length, len(argv), field(t, e, "argv_truncated"))
		}
	}
}

func TestHowAProcessEndedIsSeen(t *testing.T) {
	s := watch(t, Options{Events: []string{"sched_process_exit"}}, ignore)
	run := func(script string) *Event {
		cmd := exec.Command("/bin/sh", "-c", script)
		_ = cmd.Run() // it shall end badly
		return s.wait("sched_process_exit", func(e *Event) bool { return int(e.LocalPID) == cmd.Process.Pid })
	}
	if e := run("exit 3"); field(t, e, "exit_code") != int64(3) || field(t, e, "signal") != nil {
		t.Errorf("got %+v", e)
	}
	if e := run("kill -KILL $$"); field(t, e, "signal") != "SIGKILL" || field(t, e, "exit_code") != int64(0) {
		t.Errorf("got %+v", e)
	}
}

func TestFilesThatAreTouchedAreSeen(t *testing.T) {
	s := watch(t, Options{Events: []string{"openat", "unlinkat", "renameat", "renameat2", "fchmodat", "symlinkat"}}, ignore)
	dir := t.TempDir()
	a, b := filepath.Join(dir, "a\n\"ü"), filepath.Join(dir, "b")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(a, nil, 0o640))
	must(unix.Fchmodat(unix.AT_FDCWD, a, 0o4711, 0))
	must(unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_NOREPLACE))
	must(os.Symlink("nowhere", a))
	must(os.Remove(b))
	_, err := os.Open(filepath.Join(dir, "missing"))
	if err == nil {
		t.Fatal("there is a file that should not be")
	}
	s.waitText("openat", fmt.Sprintf("pathname=%s flags=O_WRONLY|O_CREAT|O_TRUNC|O_CLOEXEC mode=0640", a))
	s.waitText("fchmodat", fmt.Sprintf("pathname=%s mode=04711 return_value=0", a))
	s.waitText("renameat2", fmt.Sprintf("oldpath=%s newdirfd=-100 newpath=%s flags=0x1 return_value=0", a, b))
	s.waitText("symlinkat", fmt.Sprintf("target=nowhere newdirfd=-100 linkpath=%s return_value=0", a))
	s.waitText("unlinkat", fmt.Sprintf("pathname=%s flags=0x0 return_value=0", b))
	s.waitText("openat", "missing flags=O_RDONLY|O_CLOEXEC mode=0 return_value=-2 error=ENOENT")
}

func TestConnectionsAreSeenFromBothEnds(t *testing.T) {
	s := watch(t, Options{Events: []string{"connect", "bind", "listen", "accept4", "accept"}}, ignore)
	for network, at := range map[string]string{
		"tcp4": "127.0.0.1:0", "tcp6": "[::1]:0", "unix": filepath.Join(t.TempDir(), "s"),
	} {
		l, err := net.Listen(network, at)
		if err != nil {
			t.Logf("this machine has no %s: %v", network, err)
			continue
		}
		out, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		in, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		want := "path=" + l.Addr().String()
		if tcp, ok := l.Addr().(*net.TCPAddr); ok {
			want = fmt.Sprintf("ip=%s port=%d", tcp.IP, tcp.Port)
			from := out.LocalAddr().(*net.TCPAddr)
			s.waitText("accept4", fmt.Sprintf("ip=%s port=%d", from.IP, from.Port))
		} else {
			s.waitText("bind", want)
			s.waitText("accept4", "sa_family=AF_UNIX")
		}
		s.waitText("connect", want)
		s.waitText("listen", "return_value=0")
		for _, c := range []interface{ Close() error }{in, out, l} {
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

func TestOtherCallsAreSeen(t *testing.T) {
	s := watch(t, Options{Events: []string{"kill", "memfd_create", "bpf", "setns", "ptrace", "setresuid", "mount", "finit_module", "process_vm_writev"}}, ignore)
	fd, err := unix.MemfdCreate("odd name", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	// Calls that the kernel refuses are seen too, and harm nobody.
	_ = unix.Kill(os.Getpid(), 0)
	_ = unix.Setns(-1, unix.CLONE_NEWNS)
	_ = unix.PtraceAttach(-5)
	_ = unix.Mount("from", "/does/not/exist", "nofs", unix.MS_BIND, "")
	_ = unix.FinitModule(-1, "a=b", 2)
	_, _ = unix.ProcessVMWritev(-7, nil, nil, 0)
	_ = unix.Close(fd)
	s.waitText("memfd_create", "name=odd name flags=0x1")
	s.waitText("kill", fmt.Sprintf("pid=%d sig=0 return_value=0", os.Getpid()))
	s.waitText("setns", "fd=-1 nstype=0x20000 return_value=-9 error=EBADF")
	s.waitText("ptrace", "request=PTRACE_ATTACH pid=-5")
	s.waitText("mount", "source=from target=/does/not/exist filesystemtype=nofs mountflags=0x1000 return_value=-")
	s.waitText("finit_module", "fd=-1 param_values=a=b flags=0x2")
	s.waitText("process_vm_writev", "pid=-7")
}

func TestSeveralWatchersSeeTheSame(t *testing.T) {
	first := watch(t, Options{}, ignore)
	second := watch(t, Options{Events: []string{"sched_process_exec", "openat"}}, ignore)
	cmd := exec.Command("/bin/true", "both")
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	ours := func(e *Event) bool { return int(e.LocalPID) == cmd.Process.Pid }
	a, b := first.wait("sched_process_exec", ours), second.wait("sched_process_exec", ours)
	if a.Text() != b.Text() {
		t.Errorf("%s\n%s", a.Text(), b.Text())
	}
}

func TestAWatcherDoesNotFeedItself(t *testing.T) {
	s := watch(t, Options{Events: []string{"openat"}}, func(e *Event) error {
		if int(e.LocalPID) == os.Getpid() {
			for range 3 { // each event of ours makes three more
				openOnce(t, "/dev/null")
			}
		}
		return nil
	})
	openOnce(t, "/dev/null")
	s.waitLog("events of this program itself were left out")
}

func TestAContainerIsKnownByItsCgroup(t *testing.T) {
	needKernel(t)
	id := strings.Repeat("0a1b2c3d", 8)
	group := ""
	for _, root := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		if _, err := os.Stat(filepath.Join(root, "cgroup.procs")); err == nil {
			group = filepath.Join(root, "raptorpack-test-"+strconv.Itoa(os.Getpid()))
			break
		}
	}
	if group == "" {
		t.Skip("cgroups are not mounted where they usually are")
	}
	leaf := filepath.Join(group, "docker-"+id+".scope")
	if err := os.MkdirAll(leaf, 0o755); err != nil {
		t.Skipf("may not make a cgroup: %v", err)
	}
	t.Cleanup(func() {
		for _, dir := range []string{leaf, group} {
			if err := os.Remove(dir); err != nil {
				t.Error(err)
			}
		}
	})
	s := watch(t, Options{Events: []string{"sched_process_exec"}}, ignore)
	cmd := exec.Command("/bin/sh", "-c", `echo $$ > "$0/cgroup.procs" && exec /bin/true inside`, leaf)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Skipf("may not enter a cgroup: %v: %s", err, out)
	}
	e := s.wait("sched_process_exec", func(e *Event) bool {
		return int(e.LocalPID) == cmd.Process.Pid && e.Comm == "true"
	})
	if got := ContainerID(e.Cgroups); got != id {
		t.Errorf("container %q of cgroups %q", got, e.Cgroups)
	}
}
