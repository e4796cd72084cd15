package main

// The cables of a cluster end in one switch, which can cut or slow each of them.

import (
	"errors"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

type frame struct {
	at   time.Time
	data []byte
}

type port struct {
	conn  *os.File // one ethernet frame per packet
	queue chan frame
	mu    sync.Mutex
	down  bool
	delay time.Duration
}

type ethSwitch struct {
	mu    sync.Mutex
	ports map[string]*port
	macs  map[[6]byte]string
	apart map[[2]string]bool // pairs of nodes, in order of name, whose frames to each other are dropped
}

func pair(a, b string) [2]string { return [2]string{min(a, b), max(a, b)} }

// set obeys `net NODE up|down|delay=D|down=NODE|up=NODE`.
func (s *ethSwitch) set(name, what string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.ports[name]
	key, value, _ := strings.Cut(what, "=")
	switch {
	case (key == "up" || key == "down") && value != "":
		if s.ports[value] == nil {
			return errors.New("no node " + value)
		}
		s.apart[pair(name, value)] = key == "down"
	case what == "up" || what == "down":
		p.mu.Lock()
		defer p.mu.Unlock()
		p.down = what == "down"
	case key == "delay":
		d, err := time.ParseDuration(value)
		if err != nil {
			return err
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.delay = d
	default:
		return errors.New("up, down, delay=D, down=NODE or up=NODE")
	}
	return nil
}

// plug connects a new kernel's cable and returns the kernel's end of it.  The cable's state survives a reboot.
func (s *ethSwitch) plug(name string) *os.File {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	check(err)
	unix.SetNonblock(fds[0], true)
	for _, fd := range fds {
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_SNDBUF, 4<<20)
	}
	s.mu.Lock()
	p := &port{conn: os.NewFile(uintptr(fds[0]), name), queue: make(chan frame, 4096)}
	if old := s.ports[name]; old != nil {
		p.down, p.delay = old.down, old.delay
	}
	s.ports[name] = p
	s.mu.Unlock()
	go func() { // frames to this kernel, in order, each not before its time
		for f := range p.queue {
			time.Sleep(time.Until(f.at))
			p.conn.Write(f.data)
		}
	}()
	go func() { // frames from this kernel
		buf := make([]byte, 70000)
		for {
			n, err := p.conn.Read(buf)
			if err != nil || n == 0 {
				p.conn.Close()
				return
			}
			if n >= 14 {
				s.forward(name, p, append([]byte(nil), buf[:n]...))
			}
		}
	}()
	return os.NewFile(uintptr(fds[1]), name)
}

func (p *port) state() (bool, time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.down, p.delay
}

func (s *ethSwitch) forward(from string, src *port, data []byte) {
	down, d1 := src.state()
	if down {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.macs[[6]byte(data[6:12])] = from
	to := s.macs[[6]byte(data[:6])]
	for name, p := range s.ports {
		if name == from || (to != "" && name != to) || s.apart[pair(from, name)] {
			continue
		}
		down, d2 := p.state()
		if down {
			continue
		}
		select {
		case p.queue <- frame{time.Now().Add(d1 + d2), data}:
		default: // queue full: drop, as a switch does
		}
	}
}
