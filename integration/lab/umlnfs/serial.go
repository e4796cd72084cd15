package main

// Running commands in a guest: JSON lines over its serial line.

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

type msg struct {
	ID   int      `json:"id"`
	Argv []string `json:"argv,omitempty"`
	Dial string   `json:"dial,omitempty"` // instead of Argv: an address to connect to
	Dir  string   `json:"dir,omitempty"`
	In   []byte   `json:"in,omitempty"`
	EOF  bool     `json:"eof,omitempty"`
	Out  []byte   `json:"out,omitempty"`
	Exit *int     `json:"exit,omitempty"`
	Up   bool     `json:"up,omitempty"`
	Got  int      `json:"got,omitempty"` // bytes that the guest has read of its serial line
	// control socket only
	Verb string `json:"verb,omitempty"`
	Node string `json:"node,omitempty"`
	Arg  string `json:"arg,omitempty"`
	Err  string `json:"err,omitempty"`
}

type lineWriter struct {
	mu sync.Mutex
	w  io.Writer
}

func (l *lineWriter) send(m msg) error {
	b, _ := json.Marshal(m)
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.w.Write(append(b, '\n'))
	return err
}

// paced writes to a guest's serial line no more than the guest has room for: the line of UML 6.1 stands still for good
// once the kernel's buffer of 4096 bytes (tty(4)) has been full.
type paced struct {
	w    io.Writer
	mu   sync.Mutex
	more sync.Cond // room, or the guest has ended
	room int
	dead bool
}

const serialRoom = 3072

func newPaced(w io.Writer) *paced {
	p := &paced{w: w, room: serialRoom}
	p.more.L = &p.mu
	return p
}

func (p *paced) Write(data []byte) (int, error) {
	done := 0
	for done < len(data) {
		p.mu.Lock()
		for p.room == 0 && !p.dead {
			p.more.Wait()
		}
		n := min(p.room, len(data)-done)
		p.room -= n
		dead := p.dead
		p.mu.Unlock()
		if dead {
			return done, errors.New("node lost its power")
		}
		if _, err := p.w.Write(data[done : done+n]); err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

func (p *paced) got(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.room += n
	p.more.Broadcast()
}

func (p *paced) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.dead = true
	p.more.Broadcast()
}

// told is the guest's end of the serial line: it tells what it has read.
type told struct {
	r io.Reader
	w *lineWriter
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if n > 0 {
		t.w.send(msg{Got: n})
	}
	return n, err
}

// serveRequests is the guest's side.
func serveRequests(c *config) {
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR|unix.O_NOCTTY, 0)
	must(err, "serial line")
	t, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	must(err, "serial line")
	t.Iflag, t.Oflag, t.Lflag = 0, 0, 0
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	must(unix.IoctlSetTermios(int(tty.Fd()), unix.TCSETS, t), "serial line")
	os.Setenv("TMPDIR", "/run/tmp")
	w := &lineWriter{w: tty}
	w.send(msg{Up: true})
	stdin := map[int]io.WriteCloser{} // of commands and connections
	in := bufio.NewReaderSize(&told{tty, w}, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			return
		}
		var m msg
		if json.Unmarshal(line, &m) != nil {
			continue
		}
		switch {
		case m.Dial != "":
			stdin[m.ID] = dial(w, m)
		case m.Argv != nil:
			cmd := exec.Command(m.Argv[0], m.Argv[1:]...)
			cmd.Dir, cmd.Env = m.Dir, append(os.Environ(), c.cmdEnv()...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			stdin[m.ID], _ = cmd.StdinPipe()
			pr, pw, _ := os.Pipe()
			cmd.Stdout, cmd.Stderr = pw, pw
			code := 0
			if err := cmd.Start(); err != nil {
				w.send(msg{ID: m.ID, Out: []byte(err.Error() + "\n")})
				code = 127
			}
			pw.Close()
			go func() {
				buf := make([]byte, 16384)
				for {
					n, err := pr.Read(buf)
					if n > 0 {
						w.send(msg{ID: m.ID, Out: buf[:n]})
					}
					if err != nil {
						break
					}
				}
				if code == 0 {
					cmd.Wait()
					code = cmd.ProcessState.ExitCode() & 0xff
				}
				w.send(msg{ID: m.ID, Exit: &code})
			}()
		case m.EOF:
			if p := stdin[m.ID]; p != nil {
				p.Close()
				delete(stdin, m.ID)
			}
		default:
			if p := stdin[m.ID]; p != nil {
				p.Write(m.In)
			}
		}
	}
}

// outgoing is what the host sends to a connection that may not stand yet, or whose other end does not read.  Waiting
// there would keep everybody else in this guest waiting, so a full queue ends the connection.
type outgoing struct {
	queue chan []byte
	stop  context.CancelFunc
	ended bool
}

func (o *outgoing) Write(p []byte) (int, error) {
	if o.ended {
		return 0, net.ErrClosed
	}
	select {
	case o.queue <- p:
		return len(p), nil
	default:
		o.stop()
		return 0, errors.New("queue full")
	}
}

func (o *outgoing) Close() error {
	if !o.ended {
		o.ended = true
		close(o.queue)
	}
	return nil
}

// dial connects to an address as this guest sees it, and carries bytes until either end closes.
func dial(w *lineWriter, m msg) *outgoing {
	ctx, stop := context.WithCancel(context.Background())
	o := &outgoing{queue: make(chan []byte, 256), stop: stop}
	go func() {
		defer stop()
		conn, err := (&net.Dialer{Timeout: 10 * time.Second}).DialContext(ctx, "tcp", m.Dial)
		if err != nil {
			code := 1
			w.send(msg{ID: m.ID, Exit: &code, Err: err.Error()})
			return
		}
		context.AfterFunc(ctx, func() { conn.Close() })
		go func() {
			for data := range o.queue {
				conn.Write(data) // an error shows at the reader too
			}
			stop()
		}()
		buf, code := make([]byte, 16384), 0
		for {
			n, err := conn.Read(buf)
			if n > 0 {
				w.send(msg{ID: m.ID, Out: buf[:n]})
			}
			if err != nil {
				break
			}
		}
		w.send(msg{ID: m.ID, Exit: &code})
	}()
	return o
}
