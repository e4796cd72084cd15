package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"raptorpack/config"
)

// server is the process that is measured.
type server struct {
	name    string
	node    string // in a pack
	bench   *bench
	loaded  *config.Loaded
	command *exec.Cmd
	orders  io.Writer     // lines are orders to give memory back
	answers *bufio.Reader // a line each
	log     *os.File
	door    *door
	monitor string
	shared  bool // others have the store, too
}

// start runs a server on an empty store and waits until it is ready.
func (b *bench) start(ctx context.Context, name string, tls bool) (*server, error) {
	if err := os.RemoveAll(filepath.Join(b.out, name)); err != nil { // a store of an earlier run knows the clients already
		return nil, err
	}
	return b.startOn(ctx, name, tls)
}

// startOn is start on the store that is there.
func (b *bench) startOn(ctx context.Context, name string, tls bool) (*server, error) {
	ports, err := freePorts(6)
	if err != nil {
		return nil, err
	}
	folder := filepath.Join(b.out, name)
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return nil, err
	}
	// Stock limits keep a server calm in storms; here the storm is what is measured.
	merge := fmt.Sprintf(`{"Frontend": {"bind_address": "127.0.0.1", "bind_port": %d, "use_plain_http": %t,
		"default_client_monitoring_artifacts": [], "resources": {"connections_per_second": 10000, "enrollments_per_second": 10000}},
		"GUI": {"bind_port": %d}, "API": {"bind_port": %d}, "Monitoring": {"bind_port": %d},
		"Bus": {"bind_address": "127.0.0.1", "bind_port": %d}, "Gossip": {"bind_address": "127.0.0.1", "bind_port": %d}}`, ports[0], !tls, ports[1], ports[2], ports[3], ports[4], ports[5])
	text, err := config.Generate(config.GenerateOptions{Datastore: filepath.Join(folder, "store"), Hostname: "localhost", Now: time.Now(), MergeJSON: merge})
	if err != nil {
		return nil, err
	}
	path := filepath.Join(folder, "server.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return nil, err
	}
	s := &server{name: name, bench: b, monitor: fmt.Sprintf("http://127.0.0.1:%d", ports[3])}
	if s.loaded, err = config.Load(path, config.Options{}); err != nil {
		return nil, err
	}
	scheme := "http"
	if tls {
		scheme = "https"
	}
	s.loaded.Client.ServerURLs = []string{fmt.Sprintf("%s://127.0.0.1:%d/", scheme, ports[0])}
	if s.door, err = newDoor(s.loaded, ports[1]); err != nil {
		return nil, err
	}
	if s.log, err = os.Create(filepath.Join(folder, "server.log")); err != nil {
		return nil, err
	}
	if err := s.launch(ctx, path); err != nil {
		return nil, err
	}
	return s, s.ready(ctx)
}

// launch starts the server's process.
func (s *server) launch(ctx context.Context, args ...string) error {
	s.command = exec.CommandContext(ctx, os.Args[0], append([]string{"serve"}, args...)...)
	s.command.Stderr = s.log
	s.command.Cancel = func() error { return s.command.Process.Signal(syscall.SIGTERM) }
	s.command.WaitDelay = time.Minute
	out, err := s.command.StdoutPipe()
	if err != nil {
		return err
	}
	if s.orders, err = s.command.StdinPipe(); err != nil {
		return err
	}
	s.answers = bufio.NewReader(out)
	return s.command.Start()
}

func freePorts(n int) ([]int, error) {
	var out []int
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer l.Close()
		out = append(out, l.Addr().(*net.TCPAddr).Port) //nolint:forcetypeassert // a TCP listener
	}
	return out, nil
}

func (s *server) ready(ctx context.Context) error {
	return until(ctx, 10*time.Millisecond, 30*time.Second, func() (bool, error) {
		response, err := http.Get(s.monitor + "/readyz") //nolint:noctx // bounded by until
		if err != nil {
			return false, nil //nolint:nilerr // not yet
		}
		return response.StatusCode == http.StatusOK, response.Body.Close()
	})
}

var errPatience = errors.New("gave up waiting")

// until asks done every tick until it says yes.
func until(ctx context.Context, every, limit time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	end := time.Now().Add(limit)
	for {
		if ok, err := done(); ok || err != nil {
			return err
		}
		if time.Now().After(end) {
			return fmt.Errorf("%w after %v", errPatience, limit)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// stop ends the server and tells how long it took.
func (s *server) stop() error {
	begun := time.Now()
	s.door.close()
	err := s.command.Process.Signal(syscall.SIGTERM)
	err = errors.Join(err, s.command.Wait(), s.log.Close())
	s.bench.note("%s: server stopped after %.1f s, load average %s", s.name, time.Since(begun).Seconds(), loadAverage())
	if err != nil {
		return fmt.Errorf("stop server (log in %s): %w", s.log.Name(), err)
	}
	if s.shared {
		return nil
	}
	return os.RemoveAll(filepath.Join(s.bench.out, s.name, "store"))
}

func (s *server) store() string { return s.loaded.Datastore.FilestoreDirectory }

// stored adds up the sizes of files below a folder of the store.
func (s *server) stored(folder string) (bytes int64, files int, err error) {
	err = filepath.WalkDir(filepath.Join(s.store(), strings.TrimPrefix(folder, "/")), func(_ string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			bytes += info.Size()
			files++
		}
		return err
	})
	return bytes, files, err
}
