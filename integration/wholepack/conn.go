package wholepack

import (
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// conn is a connection over a Net, as the side has it that dialled. What the other
// side sends is held here too.
type conn struct {
	net.Conn
	net      *Net
	from, to *host
	broken   bool // guarded by Net.mu

	closed           chan struct{}
	once             sync.Once
	reading, writing deadline
}

// Read implements net.Conn.
func (c *conn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if held := c.clear(way{c.to.name, c.from.name}, c.reading.wait()); held != nil {
		return 0, held
	}
	return n, err
}

// Write implements net.Conn.
func (c *conn) Write(p []byte) (int, error) {
	if err := c.clear(way{c.from.name, c.to.name}, c.writing.wait()); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

// clear returns when bytes may pass on a way, or why they never will.
func (c *conn) clear(on way, until <-chan struct{}) error {
	var passed <-chan time.Time // what is slow is so once
	slowed := false
	for {
		w, broken, changed := c.net.at(on, c)
		switch {
		case c.net.isDead(c.from):
			return syscall.ECONNRESET // for the dead there is no weather
		case w.silent:
		case w.cut, broken:
			return syscall.ECONNRESET
		case w.slow == 0 || slowed:
			return nil
		case passed == nil:
			timer := time.NewTimer(w.slow)
			defer timer.Stop()
			passed = timer.C
		}
		select {
		case <-passed:
			slowed = true
		case <-changed:
		case <-c.closed:
			return net.ErrClosed
		case <-until:
			return os.ErrDeadlineExceeded
		}
	}
}

// Close implements net.Conn.
func (c *conn) Close() error {
	c.once.Do(func() { close(c.closed) })
	c.net.mu.Lock()
	delete(c.net.conns, c)
	c.net.mu.Unlock()
	return c.Conn.Close()
}

// reset closes the connection as the system does of a process that is gone.
func (c *conn) reset() {
	if tcp, ok := c.Conn.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // at worst the other side hears an ordinary end
	}
	_ = c.Conn.Close() // whoever uses it learns why by broken
}

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.reading.set(t)
	c.writing.set(t)
	return c.Conn.SetDeadline(t)
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error {
	c.reading.set(t)
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error {
	c.writing.set(t)
	return c.Conn.SetWriteDeadline(t)
}

// deadline is a moment that can be moved while somebody waits for it.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	over  chan struct{} // closed at the deadline
}

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.over // it fired: wait until it has said so
	}
	d.timer = nil
	select {
	case <-d.over:
		d.over = make(chan struct{})
	default:
	}
	if t.IsZero() {
		return
	}
	over := d.over
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(over) })
		return
	}
	close(over)
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.over
}
