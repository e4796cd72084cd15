package wire_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// The clients of the memory benchmark live in a process of their own, so that
// only the server's side is measured.
const idleEnv = "RAPTORPACK_IDLE_CLIENTS"

func init() {
	if plan := os.Getenv(idleEnv); plan != "" {
		if err := idleClients(plan); err != nil {
			fmt.Println("error:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
}

// idleClients opens connections by a plan "scheme address count", says so, and
// holds them until its input ends.
func idleClients(plan string) error {
	var scheme, address string
	var count int
	if _, err := fmt.Sscan(plan, &scheme, &address, &count); err != nil {
		return err
	}
	conns := make([]net.Conn, 0, count)
	for range count {
		conn, err := net.Dial("tcp", address)
		if err != nil {
			return err
		}
		if scheme == "wss" {
			conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"http/1.1"}})
		}
		_, err = io.WriteString(conn, "GET /reader HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
		if err != nil {
			return err
		}
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || response.StatusCode != http.StatusSwitchingProtocols {
			return fmt.Errorf("upgrade: %v, %w", response, err)
		}
		conns = append(conns, conn)
	}
	fmt.Println("ready")
	_, err := io.Copy(io.Discard, os.Stdin)
	runtime.KeepAlive(conns)
	return err
}

// BenchmarkIdleSocket holds the memory of an idle connection, at rest where the system
// lets it. What TLS adds is crypto/tls's: the connection, two ciphers, and the buffer
// that its longest record came through.
func BenchmarkIdleSocket(b *testing.B) {
	for scheme, most := range map[string]float64{"ws": 4_000, "wss": 14_000} {
		b.Run(scheme, func(b *testing.B) {
			const count = 4000
			for b.Loop() {
				heap, resident := idleMemory(b, scheme, count)
				b.ReportMetric(heap, "heap-B/conn")
				b.ReportMetric(resident, "rss-B/conn")
				if resident > most {
					b.Errorf("%.0f bytes resident per connection, at most %.0f are allowed", resident, most)
				}
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

func idleMemory(b *testing.B, scheme string, count int) (heap, resident float64) {
	b.Helper()
	l := wiretest.Listen(b)
	watcher := wire.NewWatcher(time.Hour)
	life, end := context.WithCancel(b.Context())
	var watching sync.WaitGroup
	watching.Go(func() {
		if err := watcher.Run(life); err != nil {
			b.Error(err)
		}
	})
	defer watching.Wait()
	defer end()
	var readers sync.WaitGroup
	var mu sync.Mutex
	var conns []wire.Conn
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r, wire.ConnOptions{PingWait: time.Hour, Watcher: watcher})
		if err != nil {
			return
		}
		mu.Lock()
		conns = append(conns, conn)
		mu.Unlock()
		readers.Add(1)
		var read func(context.Context)
		read = func(context.Context) {
			for !conn.Rest(read) {
				if _, err := conn.Next(); err != nil {
					readers.Done()
					return
				}
			}
		}
		go read(r.Context())
	})}
	var served sync.WaitGroup
	served.Go(func() {
		if scheme == "wss" {
			server.TLSConfig = &tls.Config{Certificates: []tls.Certificate{wiretest.NewDeployment(b).TLS(b)}}
			server.ServeTLS(l, "", "")
			return
		}
		server.Serve(l)
	})
	heapBefore, residentBefore := wiretest.Memory(b)
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), fmt.Sprintf("%s=%s %s %d", idleEnv, scheme, l.Addr(), count))
	input, err := child.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	output, err := child.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := child.Start(); err != nil {
		b.Fatal(err)
	}
	line, err := bufio.NewReader(output).ReadString('\n')
	if err != nil || line != "ready\n" {
		b.Fatalf("clients: %q, %v", line, err)
	}
	heapAfter, residentAfter := wiretest.Memory(b)
	mu.Lock()
	for _, c := range conns {
		c.Close()
	}
	mu.Unlock()
	input.Close()
	child.Wait()
	readers.Wait()
	server.Close()
	served.Wait()
	return (heapAfter - heapBefore) / float64(count), (residentAfter - residentBefore) / float64(count)
}

func BenchmarkOpenCachedSession(b *testing.B) {
	p := newPair(b, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(b, 0).PublicKey)
	body := seal(b, p.session, checkIn(1))
	open(b, p.opener, body)
	scratch := make([]byte, len(body))
	b.ReportAllocs()
	for b.Loop() {
		copy(scratch, body)
		packet, err := p.opener.Open(b.Context(), scratch)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := packet.Messages(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSeal(b *testing.B) {
	p := newPair(b, wire.OpenerOptions{}, wire.IdentityOptions{})
	text := []byte(strings.Repeat(`{"Pid":4711,"Name":"process","Path":"/usr/bin/process"}`+"\n", 20_000))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		if _, err := p.session.Seal(text); err != nil {
			b.Fatal(err)
		}
	}
}
