package cluster

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"

	"raptorpack/internal/retry"
)

const (
	dialLimit = 2 * time.Second // a host that is there answers in milliseconds

	// What somebody without the key can make this node hold: so many streams for
	// streamLimit, of so many bytes each. The state of 50 nodes has about 20 KiB.
	maxInbound     = 64
	maxStreamBytes = 1 << 20
	streamLimit    = 5 * time.Second

	socketBytes = 2 << 20 // for packets that wait; the system may grant less
	bindTries   = 10      // for a port that is free for both TCP and UDP
)

// Texts that the log recognises when memberlist repeats them.
var (
	errCrowded  = errors.New("too many gossip streams at once")
	errTooLarge = errors.New("gossip stream is too large")
)

// resting is how long a socket that fails is left alone.
var resting = retry.Policy{First: 10 * time.Millisecond, Cap: time.Second}

// transport carries gossip over one UDP and one TCP socket. Unlike memberlist's
// own it binds without starting anything, bounds what strangers can send, and
// knows when its last connection has gone.
type transport struct {
	tcp *net.TCPListener
	udp *net.UDPConn
	own netip.AddrPort // what others are told

	trouble func(kind, key, message string, args ...any)
	dial    func(address string, limit time.Duration) (net.Conn, error)

	packets chan *memberlist.Packet // no slots: packets wait in the socket, and beyond it the system drops them, which gossip is made for
	streams chan net.Conn           // no slots: connections wait in the listener
	done    chan struct{}           // closed by Shutdown; carries nothing
	running sync.WaitGroup          // the two loops and all open streams

	mu      sync.Mutex
	ended   bool
	open    map[*stream]struct{}
	inbound int
}

func bind(at netip.AddrPort) (*net.TCPListener, *net.UDPConn, error) {
	var last error
	for try := 0; try == 0 || try < bindTries && at.Port() == 0; try++ {
		tcp, udp, err := bindBoth(at)
		if err == nil {
			return tcp, udp, nil
		}
		last = err
	}
	return nil, nil, fmt.Errorf("gossip cannot listen: %w", last) // names the address itself
}

func bindBoth(at netip.AddrPort) (*net.TCPListener, *net.UDPConn, error) {
	suffix := ""
	if at.Addr().Is4() {
		suffix = "4" // 0.0.0.0 is then not also ::
	}
	tcp, err := net.ListenTCP("tcp"+suffix, net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, nil, err
	}
	port := tcp.Addr().(*net.TCPAddr).AddrPort().Port()
	udp, err := net.ListenUDP("udp"+suffix, net.UDPAddrFromAddrPort(netip.AddrPortFrom(at.Addr(), port)))
	if err != nil {
		return nil, nil, errors.Join(err, tcp.Close())
	}
	_ = udp.SetReadBuffer(socketBytes) // a wish
	return tcp, udp, nil
}

func newTransport(s *settings, trouble func(kind, key, message string, args ...any)) (*transport, error) {
	tcp, udp, err := bind(s.bind)
	if err != nil {
		return nil, err
	}
	t := &transport{
		tcp: tcp, udp: udp, trouble: trouble, open: map[*stream]struct{}{},
		packets: make(chan *memberlist.Packet), streams: make(chan net.Conn), done: make(chan struct{}),
	}
	ip := s.advertise
	if !ip.IsValid() {
		ip = s.bind.Addr()
	}
	if ip.IsUnspecified() {
		if ip, err = ownAddress(s.bind.Addr().Is4(), s.join); err != nil {
			return nil, errors.Join(err, t.Shutdown())
		}
	}
	t.own = netip.AddrPortFrom(ip, tcp.Addr().(*net.TCPAddr).AddrPort().Port())
	return t, nil
}

// serve starts the two loops, which end with Shutdown. Dials end with ctx.
func (t *transport) serve(ctx context.Context) {
	t.dial = func(address string, limit time.Duration) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, min(limit, dialLimit))
		defer cancel()
		return new(net.Dialer).DialContext(ctx, "tcp", address)
	}
	t.running.Go(t.receive)
	t.running.Go(t.accept)
}

// receive hands packets over.
func (t *transport) receive() {
	scratch := make([]byte, 64<<10)
	for try := 1; ; {
		n, from, err := t.udp.ReadFromUDPAddrPort(scratch)
		if err != nil {
			if !t.rest(try, "gossip socket does not read", err) {
				return
			}
			try++
			continue
		}
		try = 1
		if n == 0 {
			continue // a knock: there is nothing in it
		}
		packet := &memberlist.Packet{Buf: bytes.Clone(scratch[:n]), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case t.packets <- packet:
		case <-t.done:
			return
		}
	}
}

// accept hands connections over.
func (t *transport) accept() {
	for try := 1; ; {
		conn, err := t.tcp.Accept()
		if err != nil {
			if !t.rest(try, "gossip socket does not accept", err) {
				return
			}
			try++
			continue
		}
		try = 1
		s, err := t.track(conn, true)
		if err != nil {
			t.trouble(troubleOverload, "crowded", "gossip stream refused", "from", conn.RemoteAddr(), "err", err)
			_ = conn.Close() // it is refused anyway
			continue
		}
		select {
		case t.streams <- s:
		case <-t.done:
			_ = s.Close() // nobody will read it
			return
		}
	}
}

// rest waits after a failure and reports whether to go on.
func (t *transport) rest(try int, message string, err error) bool {
	if errors.Is(err, net.ErrClosed) {
		return false
	}
	t.trouble(troubleNetwork, message, message, "err", err)
	timer := time.NewTimer(resting.Pause(try))
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-t.done:
		return false
	}
}

// track notes an open connection, so that Shutdown can end it and wait for
// whoever uses it to let go.
func (t *transport) track(conn net.Conn, inbound bool) (*stream, error) {
	s := &stream{Conn: conn, left: maxStreamBytes}
	s.release = func() { t.forget(s, inbound) }
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.ended:
		return nil, net.ErrClosed
	case inbound && t.inbound >= maxInbound:
		return nil, errCrowded
	case inbound:
		t.inbound++
	}
	t.open[s] = struct{}{}
	t.running.Add(1)
	return s, nil
}

func (t *transport) forget(s *stream, inbound bool) {
	t.mu.Lock()
	delete(t.open, s)
	if inbound {
		t.inbound--
	}
	t.mu.Unlock()
	t.running.Done()
}

// Shutdown implements memberlist.Transport: it closes the sockets, ends all
// connections and waits until nobody uses them. It may be called again.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	first := !t.ended
	t.ended = true
	var cut []net.Conn
	for s := range t.open {
		cut = append(cut, s.Conn)
	}
	t.mu.Unlock()
	var err error
	if first {
		close(t.done)
		err = errors.Join(t.tcp.Close(), t.udp.Close())
	}
	for _, conn := range cut {
		_ = conn.Close() // whoever uses it finds out, and lets go
	}
	t.running.Wait()
	return err
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.own.Addr().AsSlice(), int(t.own.Port()), nil
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, address string) (time.Time, error) {
	to, err := netip.ParseAddrPort(address)
	if err != nil {
		return time.Time{}, err
	}
	_, err = t.udp.WriteToUDPAddrPort(b, to) // not wrapped: memberlist looks at its type
	return time.Now(), err
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return t.WriteTo(b, a.Addr)
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(address string, limit time.Duration) (net.Conn, error) {
	conn, err := t.dial(address, limit)
	if err != nil {
		return nil, err
	}
	s, err := t.track(conn, false)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return s, nil
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, limit time.Duration) (net.Conn, error) {
	return t.DialTimeout(a.Addr, limit)
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// stream is a connection that is counted, and ends after maxStreamBytes.
type stream struct {
	net.Conn
	left    int64 // read by one goroutine at a time
	closed  sync.Once
	release func()
}

// Read implements io.Reader.
func (s *stream) Read(b []byte) (int, error) {
	if s.left <= 0 {
		return 0, errTooLarge
	}
	n, err := s.Conn.Read(b[:min(int64(len(b)), s.left)])
	s.left -= int64(n)
	return n, err
}

// Close implements io.Closer.
func (s *stream) Close() error {
	err := s.Conn.Close()
	s.closed.Do(s.release)
	return err
}
