package api

import (
	"bufio"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/proto/buspb"
	"raptorpack/users"
)

// idleLedger is never asked for anything.
type idleLedger struct{}

func (idleLedger) ProposeIndex(context.Context, *buspb.Mutation) (uint64, error) { return 1, nil }
func (idleLedger) WaitApplied(context.Context, uint64) error                     { return nil }
func (idleLedger) Reached() uint64                                               { return 1 }
func (idleLedger) Position() (epoch, index uint64, chain [32]byte)               { return 1, 1, chain }

func (idleLedger) Age() (time.Duration, bool)  { return 0, true }
func (idleLedger) Fresh(context.Context) error { return nil }

func (idleLedger) Earlier(string, string) (uint64, bool, error) { return 0, false, nil }

// pipes is a listener whose connections lie in memory, so that time in them is the
// bubble's.
type pipes struct {
	connections chan net.Conn
	closed      chan struct{}
	once        sync.Once
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case c := <-p.connections:
		return c, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error   { p.once.Do(func() { close(p.closed) }); return nil }
func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

// timed runs test beside a server whose operation POST /test calls handle. dial
// connects to it, stop ends it and waits.
func timed(t *testing.T, handle func(context.Context, *Server) error, test func(dial func() net.Conn, stop func())) {
	synctest.Test(t, func(t *testing.T) {
		door := &pipes{connections: make(chan net.Conn), closed: make(chan struct{})}
		s, err := New(Options{Authority: &x509.Certificate{}, Ledger: idleLedger{}, Users: users.New(), HTTP: door, PlainHTTP: true})
		if err != nil {
			t.Fatal(err)
		}
		register(s, http.MethodPost, "/test", "test", "A test", func(ctx context.Context, _ *struct{ Body map[string]string }) (*body[Done], error) {
			return &body[Done]{}, handle(ctx, s)
		})
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1) // one value
		go func() { ended <- s.Run(ctx) }()
		stop := func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
		test(func() net.Conn {
			here, there := net.Pipe()
			door.connections <- there
			return here
		}, stop)
	})
}

const testRequest = "POST /api/v1/test HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s"

// answerOf reads the status of an answer.
func answerOf(t *testing.T, c net.Conn) int {
	t.Helper()
	r, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, r.Body)
	r.Body.Close()
	return r.StatusCode
}

func TestTheBoundOnReadingABodyDoesNotEndTheRequest(t *testing.T) {
	slow := func(ctx context.Context, _ *Server) error {
		select {
		case <-time.After(time.Hour):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	timed(t, slow, func(dial func() net.Conn, stop func()) {
		c := dial()
		fmt.Fprintf(c, testRequest, 2, "{}")
		if got := answerOf(t, c); got != http.StatusOK {
			t.Errorf("a request of an hour: %d", got)
		}
		c.Close()
		c = dial()
		begin := time.Now()
		fmt.Fprintf(c, testRequest, 2, "{")
		if got := answerOf(t, c); got != http.StatusRequestTimeout || time.Since(begin) != bodyWithin {
			t.Errorf("a body that does not come: %d after %v", got, time.Since(begin))
		}
		c.Close()
		stop()
	})
}

// Whoever has a connection when the server is told to stop is answered on it.
func TestAStopAnswersWhoHasJustConnected(t *testing.T) {
	answered := func(context.Context, *Server) error { return nil }
	timed(t, answered, func(dial func() net.Conn, stop func()) {
		c, silent := dial(), dial()
		synctest.Wait() // both are accepted
		begin, stopped := time.Now(), make(chan struct{})
		go func() { defer close(stopped); stop() }()
		synctest.Wait() // and the server is stopping
		fmt.Fprintf(c, testRequest, 2, "{}")
		if got := answerOf(t, c); got != http.StatusOK {
			t.Errorf("a request on a new connection: %d", got)
		}
		c.Close()
		<-stopped
		if took := time.Since(begin); took > finishWithin+time.Second { // of the bubble
			t.Errorf("a connection that says nothing kept the server for %v", took)
		}
		silent.Close()
	})
}

func TestAStopGivesRequestsTimeToFinish(t *testing.T) {
	ends := make(chan error, 3) // one value of each request
	handle := func(ctx context.Context, s *Server) error {
		lasting, end := s.lasting(ctx)
		defer end()
		select {
		case <-time.After(finishWithin - time.Second):
			ends <- ctx.Err()
		case <-ctx.Done():
			ends <- ctx.Err()
			return ctx.Err()
		}
		<-ctx.Done()
		<-lasting.Done()
		ends <- errors.Join(ctx.Err(), lasting.Err())
		return ctx.Err()
	}
	timed(t, handle, func(dial func() net.Conn, stop func()) {
		c := dial()
		fmt.Fprintf(c, testRequest, 2, "{}")
		synctest.Wait()
		begin := time.Now()
		go io.Copy(io.Discard, c)
		stop()
		if took := time.Since(begin); took < finishWithin || took > finishWithin+noticeWithin {
			t.Errorf("the stop took %v", took)
		}
		if err := <-ends; err != nil {
			t.Errorf("a request ended before its time: %v", err)
		}
		if err := <-ends; err == nil || strings.Count(err.Error(), context.Canceled.Error()) != 2 {
			t.Errorf("after its time it ended with %v", err)
		}
		c.Close()
	})
}
