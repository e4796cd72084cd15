//go:build amd64 || arm64

package endpoint_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"raptorpack/vql"
	"raptorpack/vql/endpoint/ebpf"
)

// needEBPF skips a test where the kernel refuses, and only there.
func needEBPF(t testing.TB) {
	t.Helper()
	if err := ebpf.Supported(); err != nil {
		t.Skip(err)
	}
	s := newSession(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = s.each(ctx, `SELECT * FROM watch_ebpf()`, func(*vql.Dict) error { return nil }) // ctx has ended
	if strings.Contains(s.log(), ebpf.ErrPermission.Error()) || strings.Contains(s.log(), ebpf.ErrUnsupported.Error()) {
		t.Skip(s.log())
	}
}

// keepRunning starts a program again and again until ctx ends, for a query that
// begins to watch at its own time.
func keepRunning(ctx context.Context, t testing.TB, args ...string) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			if err := exec.Command(args[0], args[1:]...).Run(); err != nil {
				t.Error(err)
				return
			}
		}
	}()
	return func() { <-done }
}

func TestWatchEBPFShowsAProgramThatStarts(t *testing.T) {
	needEBPF(t)
	s := newSession(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	wait := keepRunning(ctx, t, "/bin/true", "seen by ebpf", "\xff")
	got := s.rows(fmt.Sprintf(`SELECT System.ProcessID > 0 AS Pid, System.ParentProcessID = %d AS Parent, System.ThreadID = System.ProcessID AS Thread,
	     System.UserId AS UserId, System.ContainerID =~ '^$|^[0-9a-f]{64}$' AS Container, System.EventName AS EventName, System.HostName AS HostName, System.ProcessName AS ProcessName,
	     System.Timestamp > '2020-01-01' AS Timed, EventData.filename AS filename, EventData.argv AS argv, EventData.env AS env
	   FROM watch_ebpf(events='sched_process_exec', regex_prefilter='argv=/bin/true SEEN by') LIMIT 1`, os.Getpid()))
	cancel()
	wait()
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"Pid":true,"Parent":true,"Thread":true,"UserId":%d,"Container":true,"EventName":"sched_process_exec","HostName":%q,"ProcessName":"true",`+
		`"Timed":true,"filename":"/bin/true","argv":["/bin/true","seen by ebpf","\ufffd"],"env":null}`, os.Getuid(), host)
	if len(got) != 1 || got[0] != want {
		t.Errorf("got  %s\nwant %s\nlog: %s", got, want, s.log())
	}
}

func TestWatchEBPFDefaultsToProcesses(t *testing.T) {
	needEBPF(t)
	s := newSession(t, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	wait := keepRunning(ctx, t, "/bin/true")
	names := map[string]bool{}
	err := s.each(t.Context(), `SELECT System.EventName AS N FROM watch_ebpf()`, func(row *vql.Dict) error {
		name, _ := row.Get("N")
		names[fmt.Sprint(name)] = true
		if len(names) == 3 {
			return vql.ErrStop
		}
		return nil
	})
	cancel()
	wait()
	if err != nil || !names["sched_process_exec"] || !names["sched_process_exit"] || !names["sched_process_fork"] {
		t.Errorf("saw %v, %v", names, err)
	}
}

func TestWatchEBPFSaysWhatItCannot(t *testing.T) {
	if err := ebpf.Supported(); err != nil {
		t.Skip(err)
	}
	for query, line := range map[string]string{
		`SELECT * FROM watch_ebpf(events=['openat', 'nonsense'])`:       `watch_ebpf: unknown event: "nonsense"; known are accept, accept4, bind`,
		`SELECT * FROM watch_ebpf(policy='apiVersion: tracee.aquasec')`: `watch_ebpf: policy is not supported`,
		`SELECT * FROM watch_ebpf(regex_prefilter='(')`:                 `watch_ebpf: regex_prefilter: `,
	} {
		s := newSession(t, nil)
		s.want(query)
		s.wantLog(line)
	}
}

func TestEBPFEventsListsWhatCanBeWatched(t *testing.T) {
	if err := ebpf.Supported(); err != nil {
		t.Skip(err)
	}
	s := newSession(t, nil)
	s.want(`SELECT * FROM ebpf_events() WHERE Event =~ '^(sched_process_exit|connect)$'`,
		`{"Event":"sched_process_exit","Metadata":{"description":"The last thread of a process ended.","source":"tracepoint","fields":["exit_code","signal","core_dumped"],"default":true}}`,
		`{"Event":"connect","Metadata":{"description":"Connected a socket.","source":"system call","fields":["sockfd","addr","return_value","error"],"default":false}}`)
	s.want(`SELECT version(plugin='watch_ebpf') AS A, version(plugin='ebpf_events') AS B FROM scope()`, `{"A":1,"B":1}`)
}
