//go:build amd64 || arm64

package artifacts_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"raptorpack/vql/endpoint/ebpf"
)

// whileActing runs a query whose LIMIT ends it, while act happens again and again.
func whileActing(t *testing.T, s *session, query string, act func() error) []string {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1) // one result
	go func() {
		for ctx.Err() == nil {
			if err := act(); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	rows := s.run(query, nil)
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if all := strings.Join(s.logs, "\n"); strings.Contains(all, ebpf.ErrPermission.Error()) {
		t.Skip(all)
	}
	var out []string
	for _, row := range rows {
		text, err := row.MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, string(text))
	}
	return out
}

func TestProcessExecutionsAreTold(t *testing.T) {
	if err := ebpf.Supported(); err != nil {
		t.Skip(err)
	}
	s := newSession(t, builtIn(t))
	got := whileActing(t, s, `SELECT Ppid, Name, Filename, CommandLine, Argv, Truncated, Env FROM Artifact.Linux.Events.ProcessExecutions(Filter='told of [12]', ExcludeFilename='/sh$') LIMIT 1`,
		func() error {
			return exec.Command("/bin/sh", "-c", "/bin/true 'told of 1'; exec /bin/true 'told of 2'").Run()
		})
	if len(got) != 1 || !strings.Contains(got[0], `"Name":"true","Filename":"/bin/true","CommandLine":"/bin/true told of `) || !strings.Contains(got[0], `"Env":null`) {
		t.Errorf("got %s\nlog %s", got, s.logs)
	}
}

func TestNetworkConnectionsAreTold(t *testing.T) {
	if err := ebpf.Supported(); err != nil {
		t.Skip(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	if err := l.Close(); err != nil { // nobody listens there from now on
		t.Fatal(err)
	}
	s := newSession(t, builtIn(t))
	got := whileActing(t, s, fmt.Sprintf(`SELECT Event, Pid, Family, IP, Port FROM Artifact.Linux.Events.NetworkConnections(ExcludeIP='^$') WHERE Port = %d LIMIT 1`, port),
		func() error {
			c, err := net.Dial("tcp4", l.Addr().String())
			if err == nil {
				return c.Close()
			}
			return nil // refused, which is an attempt too
		})
	want := fmt.Sprintf(`{"Event":"connect","Pid":%d,"Family":"AF_INET","IP":"127.0.0.1","Port":%d}`, os.Getpid(), port)
	if len(got) != 1 || got[0] != want {
		t.Errorf("got %s, want %s\nlog %s", got, want, s.logs)
	}
}
