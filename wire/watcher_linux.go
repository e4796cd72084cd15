package wire

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// poller is an epoll(7) instance. Its own descriptor is waited for as any other is, by
// the runtime, so that it takes no thread.
type poller struct {
	file *os.File
	raw  syscall.RawConn
}

func newPoller() (*poller, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // or the runtime would not wait for it
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), unix.Close(fd))
	}
	p := &poller{file: os.NewFile(uintptr(fd), "epoll")}
	if p.raw, err = p.file.SyscallConn(); err == nil {
		err = p.file.SetReadDeadline(time.Time{}) // fails where the runtime cannot wait
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("epoll: %w", err), p.file.Close())
	}
	return p, nil
}

// arm asks to be told once of the next byte, or the end, of a connection. The kernel
// forgets a connection that is closed.
func (p *poller) arm(conn syscall.RawConn, first bool, number int32, turn uint32) error {
	operation := unix.EPOLL_CTL_MOD
	if first {
		operation = unix.EPOLL_CTL_ADD
	}
	event := unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLRDHUP | unix.EPOLLONESHOT, Fd: number, Pad: int32(turn)}
	var closed, refused error
	err := conn.Control(func(fd uintptr) {
		closed = p.raw.Control(func(epoll uintptr) {
			refused = unix.EpollCtl(int(epoll), operation, int(fd), &event)
		})
	})
	return errors.Join(err, closed, refused)
}

// wait tells of connections until it is interrupted.
func (p *poller) wait(told func(number int32, turn uint32)) error {
	events := make([]unix.EpollEvent, 128)
	for {
		n := 0
		var failed error
		err := p.raw.Read(func(fd uintptr) bool {
			n, failed = unix.EpollWait(int(fd), events, 0)
			return n > 0 || failed != nil
		})
		if errors.Is(failed, unix.EINTR) {
			failed = nil
		}
		if err := errors.Join(err, failed); err != nil {
			return err
		}
		for _, e := range events[:max(0, n)] {
			told(e.Fd, uint32(e.Pad))
		}
	}
}

// interrupt ends wait.
func (p *poller) interrupt() { _ = p.file.SetReadDeadline(longAgo) }

func (p *poller) close() { _ = p.file.Close() }
