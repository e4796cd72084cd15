package wire_test

import (
	"bufio"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// pipeListener hands one connection to a server.
type pipeListener chan net.Conn

func (l pipeListener) Accept() (net.Conn, error) {
	conn, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return conn, nil
}

func (l pipeListener) Close() error   { return nil }
func (l pipeListener) Addr() net.Addr { return &net.TCPAddr{} }

// upgraded gives both ends of a WebSocket in memory: ours, and the bare one of a
// client, which sends frames as it likes.
func upgraded(t *testing.T, withTLS bool) (wire.Conn, net.Conn) {
	t.Helper()
	server, client := net.Pipe()
	if withTLS {
		server = tls.Server(server, &tls.Config{Certificates: []tls.Certificate{wiretest.NewDeployment(t).TLS(t)}})
		client = tls.Client(client, &tls.Config{InsecureSkipVerify: true})
	}
	l := make(pipeListener, 1)
	l <- server
	conns := make(chan wire.Conn, 1)
	s := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, err := wire.Upgrade(w, r, wire.ConnOptions{})
		if err != nil {
			t.Error(err)
		}
		conns <- conn
	})}
	go s.Serve(l)
	io.WriteString(client, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if _, err := http.ReadResponse(bufio.NewReader(client), nil); err != nil {
		t.Fatal(err)
	}
	conn := <-conns
	t.Cleanup(func() { client.Close(); conn.Close(); close(l); s.Close() })
	return conn, client
}

const (
	openPart = "\x02\x81\x00\x00\x00\x00x" // a part of a message, which goes on
	ping     = "\x89\x80\x00\x00\x00\x00"
)

// A message that nothing comes of is given up, however lively the connection is.
func TestPingsKeepNoMessageOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, client := upgraded(t, false)
		go io.Copy(io.Discard, client)
		var sender sync.WaitGroup
		defer sender.Wait()
		sender.Go(func() {
			io.WriteString(client, openPart)
			for range 120 { // or until the server gives up
				if _, err := io.WriteString(client, ping); err != nil {
					return
				}
				time.Sleep(10 * time.Second)
			}
		})
		start := time.Now()
		r, err := conn.Next()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(r); err == nil {
			t.Error("half a message was taken")
		}
		if took := time.Since(start); took > time.Minute { // of the bubble
			t.Errorf("listened for %v", took)
		}
		conn.Close()
	})
}

// Between messages pings are life, for as long as they come.
func TestPingsKeepAConnectionOpen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, client := upgraded(t, false)
		go io.Copy(io.Discard, client)
		go func() {
			for range 60 {
				io.WriteString(client, ping)
				time.Sleep(time.Minute)
			}
			io.WriteString(client, "\x82\x81\x00\x00\x00\x00x")
		}()
		r, err := conn.Next()
		if err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(r); string(text) != "x" || err != nil {
			t.Errorf("after an hour of pings: %q, %v", text, err)
		}
		conn.Close()
	})
}

// A client that pings and does not read holds up nobody who writes to it.
func TestStalledClientsHoldUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, client := upgraded(t, false)
		var reader sync.WaitGroup
		reader.Go(func() { _, _ = conn.Next() })
		io.WriteString(client, ping)
		synctest.Wait() // the pong is on its way, and stuck
		start := time.Now()
		if err := conn.Ping(); err != nil {
			t.Error(err)
		}
		if took := time.Since(start); took != 0 { // of the bubble
			t.Errorf("ping took %v", took)
		}
		conn.Close()
		reader.Wait()
	})
}

// Closing waits a moment for a client that does not read, not for the seconds that
// TLS would give it.
func TestStalledClientsHoldUpNoClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, _ := upgraded(t, true)
		start := time.Now()
		conn.Close()
		if took := time.Since(start); took > time.Second { // of the bubble
			t.Errorf("closing took %v", took)
		}
	})
}
