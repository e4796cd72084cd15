package pool

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// line is both ends of an agent's connection.
func line(m manner, o Manners) (*conn, net.Conn) {
	near, far := net.Pipe()
	p := &Pool{options: Options{Manners: o}}
	a := &agent{pool: p, manner: m}
	c := &conn{Conn: near, agent: a, timing: timing{at: &p.posts}, closed: make(chan struct{})}
	a.holds(c)
	return c, far
}

func TestSlowLineTakesItsTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := line(slow, Manners{Delay: 3 * time.Second, ReadRate: 10})
		begun := time.Now()
		go func() {
			_, _ = io.ReadFull(far, make([]byte, 5)) // what is read is the other test's
			_, _ = far.Write(make([]byte, 100))
		}()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 3*time.Second {
			t.Errorf("wrote after %v", took)
		}
		if _, err := io.ReadFull(c, make([]byte, 100)); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begun); took != 13*time.Second {
			t.Errorf("read after %v", took)
		}
		go func() {
			time.Sleep(time.Second)
			c.Close()
		}()
		begun = time.Now()
		if _, err := c.Write([]byte("x")); err == nil || time.Since(begun) != time.Second {
			t.Errorf("a write at a connection that closes: %v after %v", err, time.Since(begun))
		}
		far.Close()
	})
}

func TestLineIsCutInTheMiddleOfAWrite(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, far := line(cut, Manners{})
		c.budget = 8
		arrived := make(chan int, 1)
		go func() {
			all, _ := io.ReadAll(far) // to its end, whatever that is
			arrived <- len(all)
		}()
		if _, err := c.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write([]byte("cut here")); !errors.Is(err, errCut) {
			t.Errorf("%v", err)
		}
		if n := <-arrived; n != 9 {
			t.Errorf("%d bytes arrived", n)
		}
		if c.agent.sockets() != 0 || c.agent.pool.count.cuts.Load() != 1 {
			t.Errorf("%d sockets, %d cut", c.agent.sockets(), c.agent.pool.count.cuts.Load())
		}
	})
}

func TestAgentWithoutNetworkOpensNothing(t *testing.T) {
	c, far := line(orderly, Manners{})
	defer far.Close()
	c.agent.here = true
	c.agent.leave()
	if c.agent.sockets() != 0 {
		t.Error("its connection is still open")
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the other side: %v", err)
	}
	if c.agent.holds(c) {
		t.Error("a connection that came up late is kept")
	}
}
