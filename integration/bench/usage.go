package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is what /proc counts processor time in: USER_HZ is 100 on all Linux ports
// that Go knows (proc(5)).
const tick = 10 * time.Millisecond

// usage is what a process has used at a moment.
type usage struct {
	at      time.Time
	cpu     time.Duration
	rss     int64 // bytes
	files   int64 // bytes of it that are pages of files: the program, mostly
	metrics map[string]float64
}

// usage reads /proc and /metrics of the server.
func (s *server) usage(ctx context.Context) (usage, error) {
	u := usage{at: time.Now()}
	var err error
	if u.cpu, err = s.cpu(); err != nil {
		return u, err
	}
	if u.rss, err = s.rss(); err != nil {
		return u, err
	}
	if u.files, err = s.memory("RssFile:"); err != nil {
		return u, err
	}
	u.metrics, err = s.metrics(ctx)
	return u, err
}

// sockets are the WebSockets that were open.
func (u usage) sockets() float64 {
	var sum float64
	for _, kind := range []string{"control", "reader"} {
		sum += u.metrics[`raptorpack_frontend_connections{kind="`+kind+`_socket"}`]
	}
	return sum
}

func proc(command *exec.Cmd, file string) (string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", command.Process.Pid, file))
	return string(text), err
}

func (s *server) proc(file string) (string, error) { return proc(s.command, file) }

func (s *server) cpu() (time.Duration, error) { return cpuOf(s.command) }

// cpuOf is the processor time that a process has used.
func cpuOf(command *exec.Cmd) (time.Duration, error) {
	text, err := proc(command, "stat")
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	user, err := strconv.ParseInt(fields[11], 10, 64)
	system, again := strconv.ParseInt(fields[12], 10, 64)
	return time.Duration(user+system) * tick, errors.Join(err, again)
}

func (s *server) rss() (int64, error) { return s.memory("VmRSS:") }

// memory reads one of the kernel's figures about the process, in bytes.
func (s *server) memory(which string) (int64, error) {
	text, err := s.proc("status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(text, which)
	kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	return kib << 10, err
}

// metrics reads /metrics; names carry their dimensions as they are printed.
func (s *server) metrics(ctx context.Context) (map[string]float64, error) {
	text, err := s.ask(ctx, "/metrics")
	if err != nil {
		return nil, err
	}
	out := map[string]float64{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		name, value, ok := cutLast(lines.Text())
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil && name[0] != '#' {
			out[name] = n
		}
	}
	return out, lines.Err()
}

func cutLast(line string) (before, after string, ok bool) {
	at := strings.LastIndexByte(line, ' ')
	if at < 1 {
		return "", "", false
	}
	return line[:at], line[at+1:], true
}

func (s *server) ask(ctx context.Context, path string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, s.monitor+path, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	return io.ReadAll(response.Body)
}

// collect makes the server collect its garbage, so that what is left is in use.
func (s *server) collect(ctx context.Context) error {
	for range 2 {
		if _, err := s.ask(ctx, "/debug/pprof/heap?gc=1&debug=1"); err != nil {
			return err
		}
	}
	return nil
}

// quiet waits until the server has nothing to do: below a twentieth of a core for
// two seconds, or a minute at most.
func (s *server) quiet(ctx context.Context) error {
	before, err := s.cpu()
	if err != nil {
		return err
	}
	err = until(ctx, 2*time.Second, time.Minute, func() (bool, error) {
		now, err := s.cpu()
		calm := now-before < 100*time.Millisecond && now != before
		before = now
		return calm, err
	})
	if errors.Is(err, errPatience) {
		return nil
	}
	return err
}

// profile is a running collection of CPU profiles, of some seconds each.
type profile struct {
	server *server
	name   string
	stop   context.CancelFunc
	done   chan struct{}
	files  []string
}

func (s *server) profile(ctx context.Context, name string) *profile {
	ctx, stop := context.WithCancel(ctx)
	p := &profile{server: s, name: name, stop: stop, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		for n := 0; ctx.Err() == nil; n++ {
			text, err := s.ask(ctx, "/debug/pprof/profile?seconds=3")
			path := filepath.Join(s.bench.out, fmt.Sprintf("%s.%03d.prof", name, n))
			if err == nil && os.WriteFile(path, text, 0o644) == nil {
				p.files = append(p.files, path)
			}
		}
	}()
	return p
}

// end stops profiling. If what was measured missed its aim, the dearest functions
// are written to a file; else the profiles are removed.
func (p *profile) end(ctx context.Context, missed bool) error {
	p.stop()
	<-p.done
	if len(p.files) == 0 {
		return nil
	}
	if missed {
		for suffix, order := range map[string]string{"flat": "-flat", "cum": "-cum"} {
			args := append([]string{"tool", "pprof", "-top", order, "-nodecount=60", os.Args[0]}, p.files...)
			text, err := exec.CommandContext(ctx, "go", args...).Output()
			if err != nil {
				return fmt.Errorf("read profile: %w", err)
			}
			path := filepath.Join(p.server.bench.out, p.name+"."+suffix+".txt")
			if err := os.WriteFile(path, text, 0o644); err != nil {
				return err
			}
			p.server.bench.note("profile: %s", path)
		}
		return nil
	}
	var errs []error
	for _, path := range p.files {
		errs = append(errs, os.Remove(path))
	}
	return errors.Join(errs...)
}
