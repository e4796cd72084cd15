package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/internal/testkit"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// lounge is a server whose connections rest with a Watcher. It answers a message with
// the same.
type lounge struct {
	address string
	tls     bool
	watcher *wire.Watcher

	mu      sync.Mutex
	resting int
	conns   []wire.Conn
	ends    []error
}

func newLounge(t *testing.T, withTLS bool, o wire.ConnOptions) *lounge {
	t.Helper()
	listener := wiretest.Listen(t)
	silence := o.Silence
	if silence == 0 {
		silence = time.Hour
	}
	l := &lounge{address: listener.Addr().String(), tls: withTLS, watcher: wire.NewWatcher(silence)}
	o.Watcher = l.watcher
	life, end := context.WithCancel(t.Context())
	var watching, serving sync.WaitGroup
	watching.Go(func() {
		if err := l.watcher.Run(life); err != nil {
			t.Error(err)
		}
	})
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r, o)
		if err != nil {
			t.Error(err)
			return
		}
		l.mu.Lock()
		l.conns = append(l.conns, conn)
		l.mu.Unlock()
		serving.Add(1)
		go l.serve(conn, &serving)
	})}
	if withTLS {
		s.TLSConfig = &tls.Config{Certificates: []tls.Certificate{wiretest.NewDeployment(t).TLS(t)}}
		listener = tls.NewListener(listener, s.TLSConfig)
	}
	var accepting sync.WaitGroup
	accepting.Go(func() { s.Serve(listener) })
	t.Cleanup(func() {
		s.Close()
		accepting.Wait()
		for _, conn := range l.conns {
			conn.Close()
		}
		serving.Wait()
		end()
		watching.Wait()
	})
	return l
}

func (l *lounge) serve(conn wire.Conn, serving *sync.WaitGroup) {
	var listen func(context.Context)
	listen = func(ctx context.Context) {
		if ctx != nil {
			l.rests(-1)
		}
		for {
			err := l.once(conn)
			if err != nil {
				l.mu.Lock()
				l.ends = append(l.ends, err)
				l.mu.Unlock()
				serving.Done()
				return
			}
			l.rests(1)
			if conn.Rest(listen) {
				return
			}
			l.rests(-1)
		}
	}
	listen(nil) //nolint:staticcheck // the first call does not come from a Watcher
}

func (l *lounge) once(conn wire.Conn) error {
	r, err := conn.Next()
	if err != nil || r == nil {
		return err
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	return conn.Write(text)
}

func (l *lounge) rests(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.resting += n
}

func (l *lounge) wait(t *testing.T, resting int) {
	t.Helper()
	testkit.Eventually(t, "connections at rest", func() (any, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.resting, l.resting == resting
	})
}

func (l *lounge) ended(t *testing.T) error {
	t.Helper()
	testkit.Eventually(t, "the end of a connection", func() (any, bool) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.ends), len(l.ends) > 0
	})
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ends[0]
}

// guest is a client that sends frames as it likes.
type guest struct {
	net.Conn
	in *bufio.Reader
}

func (l *lounge) enter(t *testing.T) guest {
	t.Helper()
	conn, err := net.Dial("tcp", l.address)
	if err != nil {
		t.Fatal(err)
	}
	if l.tls {
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	t.Cleanup(func() { conn.Close() })
	g := guest{conn, bufio.NewReader(conn)}
	g.say(t, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if _, err := http.ReadResponse(g.in, nil); err != nil {
		t.Fatal(err)
	}
	return g
}

func (g guest) say(t *testing.T, bytes string) {
	t.Helper()
	if _, err := io.WriteString(g, bytes); err != nil {
		t.Fatal(err)
	}
}

func (g guest) hear(t *testing.T, bytes string) {
	t.Helper()
	got := make([]byte, len(bytes))
	if _, err := io.ReadFull(g.in, got); err != nil || string(got) != bytes {
		t.Fatalf("heard %q (%v), not %q", got, err, bytes)
	}
}

const (
	question = "\x82\x82\x00\x00\x00\x00hi"
	reply    = "\x82\x02hi"
	pong     = "\x8a\x00"
)

// both runs a test over plain connections and over TLS, whose layer keeps bytes of its
// own.
func both(t *testing.T, o wire.ConnOptions, test func(*testing.T, *lounge)) {
	if runtime.GOOS != "linux" {
		t.Skip("connections rest on Linux only")
	}
	t.Run("plain", func(t *testing.T) { test(t, newLounge(t, false, o)) })
	t.Run("TLS", func(t *testing.T) { test(t, newLounge(t, true, o)) })
}

func TestRestingConnectionsHear(t *testing.T) {
	both(t, wire.ConnOptions{}, func(t *testing.T, l *lounge) {
		g := l.enter(t)
		for range 3 {
			g.say(t, question)
			g.hear(t, reply)
			l.wait(t, 1)
			g.say(t, ping)
			g.hear(t, pong)
			l.wait(t, 1)
		}
	})
}

// What comes in one piece is taken to its end before the connection rests, and what
// comes in many is waited for.
func TestNothingIsLeftBehindAtRest(t *testing.T) {
	both(t, wire.ConnOptions{}, func(t *testing.T, l *lounge) {
		g := l.enter(t)
		g.say(t, strings.Repeat(question+ping, 100)+question[:3])
		g.hear(t, strings.Repeat(reply+pong, 100))
		g.say(t, question[3:])
		g.hear(t, reply)
		l.wait(t, 1)
		for _, b := range []byte(question + ping) {
			g.say(t, string([]byte{b}))
		}
		g.hear(t, reply+pong)
		l.wait(t, 1)
	})
}

func TestRestingConnectionsTakeNoGoroutine(t *testing.T) {
	both(t, wire.ConnOptions{}, func(t *testing.T, l *lounge) {
		const count = 40
		before := runtime.NumGoroutine()
		for range count {
			g := l.enter(t)
			g.say(t, question)
			g.hear(t, reply)
		}
		l.wait(t, count)
		testkit.Eventually(t, "fewer goroutines", func() (any, bool) {
			now := runtime.NumGoroutine()
			return now, now < before+count/2
		})
	})
}

func TestRestEndsWithTheConnection(t *testing.T) {
	for name, end := range map[string]func(l *lounge, g guest){
		"closed by us":   func(l *lounge, _ guest) { l.conns[0].Close() },
		"closed by them": func(_ *lounge, g guest) { g.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			both(t, wire.ConnOptions{}, func(t *testing.T, l *lounge) {
				g := l.enter(t)
				g.say(t, question)
				g.hear(t, reply)
				l.wait(t, 1)
				end(l, g)
				if err := l.ended(t); !errors.Is(err, wire.ErrClosed) {
					t.Error(err)
				}
				l.wait(t, 0)
			})
		})
	}
}

// Whoever says nothing, not even a pong, has gone.
func TestSilenceEndsARest(t *testing.T) {
	both(t, wire.ConnOptions{Silence: 200 * time.Millisecond}, func(t *testing.T, l *lounge) {
		g := l.enter(t)
		g.say(t, question)
		g.hear(t, reply)
		if err := l.ended(t); !errors.Is(err, wire.ErrClosed) {
			t.Error(err)
		}
	})
}

// A Watcher that ends leaves nobody at rest.
func TestConnectionsOutliveTheirWatcher(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("connections rest on Linux only")
	}
	w := wire.NewWatcher(time.Minute)
	life, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.Run(life) }()
	conns := make(chan wire.Conn, 1)
	listener := wiretest.Listen(t)
	s := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(rw, r, wire.ConnOptions{Watcher: w})
		if err != nil {
			t.Error(err)
		}
		conns <- conn
	})}
	go s.Serve(listener)
	t.Cleanup(func() { s.Close() })
	l := &lounge{address: listener.Addr().String()}
	g := l.enter(t)
	conn := <-conns
	defer conn.Close()
	resumed := make(chan struct{})
	testkit.Eventually(t, "rest", func() (any, bool) { // until Run has begun
		return nil, conn.Rest(func(context.Context) { close(resumed) })
	})
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	<-resumed
	if conn.Rest(func(context.Context) { t.Error("rested with nobody to watch") }) {
		t.Error("a connection rests with nobody to watch")
	}
	g.say(t, question)
	r, err := conn.Next()
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(r); string(text) != "hi" || err != nil {
		t.Errorf("heard %q, %v", text, err)
	}
}
