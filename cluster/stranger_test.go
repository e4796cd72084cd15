package cluster_test

import (
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/hashicorp/memberlist"

	"raptorpack/cluster"
	"raptorpack/internal/testkit"
)

func portIn(t *testing.T, address string) int {
	t.Helper()
	_, digits, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	port, err := strconv.Atoi(digits)
	if err != nil {
		t.Fatal(err)
	}
	return port
}

// relay passes TCP connections on to address, counting them in passed.
func relay(t *testing.T, address string, passed *atomic.Int64) string {
	t.Helper()
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() {
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp4", address)
			if err != nil {
				t.Error(err)
				return
			}
			passed.Add(1)
			running.Go(func() { pass(out, in) })
			running.Go(func() { pass(in, out) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		running.Wait()
	})
	return listener.Addr().String()
}

func pass(to, from net.Conn) {
	_, _ = io.Copy(to, from) // its end is the end of both
	_ = to.Close()
	_ = from.Close()
}

// stranger has the key but tells things of itself that are not ours to read.
type stranger struct {
	mu   sync.Mutex
	meta []byte
}

func (s *stranger) NodeMeta(int) []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.meta
}
func (*stranger) NotifyMsg([]byte)                {}
func (*stranger) GetBroadcasts(int, int) [][]byte { return nil }
func (*stranger) LocalState(bool) []byte          { return []byte("what is this") }
func (*stranger) MergeRemoteState([]byte, bool)   {}

func TestNodeWhoseMetadataCannotBeReadIsLeftOut(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	b := launch(t, options(t, "b-1", a.Address()))
	a.sees(t, "b-1")
	later := &stranger{meta: []byte(`{"v":2,"all":"new"}`)}
	config := memberlist.DefaultLocalConfig()
	config.Name, config.BindAddr, config.BindPort, config.SecretKey, config.LogOutput = "c-1", "127.0.0.1", 0, packKey, io.Discard
	config.Delegate = later
	list, err := memberlist.Create(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := list.Shutdown(); err != nil {
			t.Error(err)
		}
	})
	if _, err := list.Join([]string{a.Address()}); err != nil {
		t.Fatal(err)
	}

	for _, n := range []*node{a, b} {
		n.reaches(t, "raptorpack_cluster_metadata_refused_total", 1)
		testkit.Eventually(t, "it is said", func() (any, bool) { return n.log.String(), n.log.count("node left out of the pack") == 1 })
		n.counts(t, 2)
	}
	if a.names() != "b-1" || b.names() != "a-1" {
		t.Errorf("a sees %q, b sees %q", a.names(), b.names())
	}
	a.reaches(t, "raptorpack_cluster_troubles_total", 1) // the state that no node of ours sends

	later.mu.Lock()
	later.meta = []byte(`{"v":1,"version":"9"}`)
	later.mu.Unlock()
	if err := list.UpdateNode(0); err != nil {
		t.Fatal(err)
	}
	a.sees(t, "b-1 c-1")
	b.sees(t, "a-1 c-1")
	if n := a.log.count("node left out of the pack"); n != 1 {
		t.Errorf("it was said %d times", n)
	}
}

func TestPacketsOfStrangersAreSaidOnce(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	conn, err := net.Dial("udp4", a.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	testkit.Eventually(t, "packets are counted", func() (any, bool) {
		for _, packet := range []string{"", "x", "GET / HTTP/1.1\r\n\r\n", "\x01" + string(make([]byte, 200)), "\xf4\x00", "\xf4\x01x" + string(make([]byte, 100))} {
			if _, err := conn.Write([]byte(packet)); err != nil {
				t.Fatal(err)
			}
		}
		seen := a.metric(t, "raptorpack_cluster_troubles_total")
		return seen, seen > 200
	})
	if n := a.log.count("\n"); n != 2 { // another key; no gossip at all
		t.Errorf("%d lines:\n%s", n, a.log)
	}
	b := launch(t, options(t, "b-1", a.Address()))
	a.sees(t, "b-1")
	b.sees(t, "a-1")
}

// A stream that claims 20 MiB is cut off where a pack's state would long have ended.
func TestStreamOfAStrangerIsBounded(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	conn, err := net.Dial("tcp4", a.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	const encrypted = 10 // memberlist's message type
	if _, err := conn.Write(binary.BigEndian.AppendUint32([]byte{encrypted}, 20<<20)); err != nil {
		t.Fatal(err)
	}
	sent := 0
	for block := make([]byte, 64<<10); sent < 19<<20; sent += len(block) {
		if _, err := conn.Write(block); err != nil {
			break
		}
	}
	a.reaches(t, "raptorpack_cluster_troubles_total", 1)
	if sent >= 19<<20 || a.log.count("gossip stream cut off") != 1 {
		t.Errorf("%d bytes were taken:\n%s", sent, a.log)
	}
}

func TestStreamsOfStrangersAreFew(t *testing.T) {
	t.Parallel()
	a := launch(t, options(t, "a-1"))
	for range cluster.MaxInbound {
		conn, err := net.Dial("tcp4", a.Address())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
	}
	over, err := net.Dial("tcp4", a.Address())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = over.Close() }()
	if n, err := over.Read(make([]byte, 1)); err == nil || errors.Is(err, net.ErrClosed) {
		t.Errorf("one stream too many was not closed: read %d, %v", n, err)
	}
	a.reaches(t, "raptorpack_cluster_troubles_total", 1)
	if n := a.log.count("too many gossip streams"); n != 1 {
		t.Errorf("it was said %d times:\n%s", n, a.log)
	}
}
