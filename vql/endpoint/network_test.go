package endpoint_test

import (
	"bufio"
	"context"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/miekg/dns"
)

// nameServer answers like a server for the zone test; it gives its address.
func nameServer(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	records := map[string]string{
		"host.test. A":  "alias.test. 60 IN CNAME host.test.|host.test. 60 IN A 192.0.2.1|host.test. 60 IN A 192.0.2.2",
		"host.test. MX": "host.test. 60 IN MX 10 mail.test.", "1.2.0.192.in-addr.arpa. PTR": "1.2.0.192.in-addr.arpa. 60 IN PTR host.test.",
		"long.test. TXT": `long.test. 60 IN TXT "text"`,
	}
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg).SetReply(q)
		text, ok := records[q.Question[0].Name+" "+dns.TypeToString[q.Question[0].Qtype]]
		switch {
		case !ok:
			m.Rcode = dns.RcodeNameError
		case strings.HasPrefix(text, "long.") && w.RemoteAddr().Network() == "udp":
			m.Truncated = true
		default:
			for line := range strings.SplitSeq(text, "|") {
				r, err := dns.NewRR(line)
				if err != nil {
					t.Error(err)
				}
				m.Answer = append(m.Answer, r)
			}
		}
		if err := w.WriteMsg(m); err != nil {
			t.Error(err)
		}
	})
	for _, s := range []*dns.Server{{PacketConn: conn, Handler: handler}, {Listener: l, Handler: handler}} {
		started, ended := make(chan struct{}), make(chan error, 1) // one start, one end
		s.NotifyStartedFunc = func() { close(started) }
		go func() { ended <- s.ActivateAndServe() }()
		<-started
		t.Cleanup(func() {
			if err := s.Shutdown(); err != nil {
				t.Error(err)
			}
			<-ended
		})
	}
	return conn.LocalAddr().String()
}

func TestHost(t *testing.T) {
	s := newSession(t, map[string]any{"S": nameServer(t)})
	s.want(`SELECT host(name='host.test', server=S) AS A, host(name='host.test', server=S, type='mx') AS M,
	   host(name='192.0.2.1', server=S, type='PTR') AS P, host(name='long.test', server=S, type='TXT') AS T, host(name='localhost', prefer_go=TRUE) AS L FROM scope()`,
		`{"A":["192.0.2.1","192.0.2.2"],"M":["10 mail.test."],"P":["host.test."],"T":["\"text\""],"L":["127.0.0.1"]}`)
	s.want(`SELECT host(name='none.test', server=S) AS A, host(name='x', server=S, type='NOSUCH') AS B, host(name='x', tracker_only=TRUE) AS C,
	   host(name='`+strings.Repeat("x", 70)+`.test', server=S) AS D FROM scope()`, `{"A":null,"B":null,"C":null,"D":null}`)
	s.wantLog("none.test.: NXDOMAIN")
	s.wantLog(`unknown type of record "NOSUCH"`)
	s.wantLog("no tracker of DNS is installed")
}

// serve accepts connections, one after the other, until the test ends.
func serve(t *testing.T, l net.Listener, each func(net.Conn)) {
	t.Helper()
	ended := make(chan struct{}) // closed only
	go func() {
		defer close(ended)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			each(c)
			_ = c.Close() // the other end has what it gets
		}
	}()
	t.Cleanup(func() {
		_ = l.Close() // wakes the goroutine
		<-ended
	})
}

func TestNetcat(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	serve(t, l, func(c net.Conn) {
		line, _ := bufio.NewReader(c).ReadString('\n')
		_, _ = c.Write([]byte("you said " + line + strings.Repeat("x", 300) + "\n\nend")) // what is lost is missed below
	})
	s := newSession(t, map[string]any{"Sock": l.Addr().String()})
	s.want(`SELECT Data FROM netcat(address=Sock, type='unix', send='hi\n', chunk_size=256)`,
		`{"Data":"you said hi"}`, `{"Data":"`+strings.Repeat("x", 256)+`"}`, `{"Data":"`+strings.Repeat("x", 44)+`"}`, `{"Data":""}`, `{"Data":"end"}`)
	s.want(`SELECT Data FROM netcat(address=Sock, type='unix', send='a,b,c\n', sep=',')`,
		`{"Data":"you said a"}`, `{"Data":"b"}`, `{"Data":"c\n`+strings.Repeat("x", 300)+`\n\nend"}`)
	s.want(`SELECT Data FROM netcat(address=Sock, type='unix', send='a,b\n', sep='x', chunk_size=4) LIMIT 4`,
		`{"Data":"you "}`, `{"Data":"said"}`, `{"Data":" a,b"}`, `{"Data":"\n"}`)
	s.want(`SELECT Data FROM netcat(address=Sock + 'none', type='unix')`)
	s.wantLog("netcat: dial unix")
	s.want(`SELECT Data FROM netcat(address='x', type='carrier pigeon')`)
	s.wantLog(`unknown type "carrier pigeon"`)
}

func TestNetcatConnectsAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newSession(t, map[string]any{"Sock": filepath.Join(t.TempDir(), "none")})
		ctx, cancel := context.WithTimeout(t.Context(), 25*time.Second)
		defer cancel()
		_ = s.each(ctx, `SELECT Data FROM netcat(address=Sock, type='unix', retry=10)`, nil) // ends with the context
		s.scope.Close()
		s.wantLog("netcat: dial unix")
		s.wantLog("(repeated ")
	})
}

func TestNetcatEndsWithItsQuery(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	connected := make(chan struct{}) // closed only
	serve(t, l, func(c net.Conn) {
		close(connected)
		_, _ = c.Read(make([]byte, 1)) // until the other end goes
	})
	s := newSession(t, map[string]any{"Addr": l.Addr().String()})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-connected
		cancel()
	}()
	_ = s.each(ctx, `SELECT Data FROM netcat(address=Addr)`, nil) // returns: that is the test
}
