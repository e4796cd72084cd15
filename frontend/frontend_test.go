package frontend_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// TestWholeExchange is the worked example of the client protocol, section 16.2.
func TestWholeExchange(t *testing.T) {
	for _, scheme := range []string{"http", "https", "ws", "wss"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, strings.HasSuffix(scheme, "s") && scheme != "ws", nil)
			a := n.agent(t, scheme, 0)

			code, _, err := a.poll(t.Context())
			if err != nil || code != http.StatusNotAcceptable {
				t.Fatalf("first check-in: %d, %v; want 406", code, err)
			}
			csr, err := wire.NewCSR(a.key)
			if err != nil {
				t.Fatal(err)
			}
			answer, err := a.control.Exchange(t.Context(), wire.Request{Packet: a.seal(wire.EnrolMessage(csr)), Urgent: true})
			if err != nil || answer.Code != http.StatusNotAcceptable {
				t.Fatalf("enrolment: %d, %v; want 406", answer.Code, err)
			}
			if len(n.keys.enrolled) != 1 || n.keys.enrolled[0].Client != a.id {
				t.Fatalf("enrolled %v", n.keys.enrolled)
			}

			type polled struct {
				code int
				jobs []*wirepb.VeloMessage
				err  error
			}
			next := make(chan polled, 1)
			ask := func() {
				go func() {
					code, jobs, err := a.poll(t.Context())
					next <- polled{code, jobs, err}
				}()
			}
			ask()
			n.waiting(t, 1)
			n.collections.give(a.id, "F.INTERROGATE", "F.SECOND")
			got := <-next
			if got.err != nil || len(got.jobs) != 2 || got.jobs[0].SessionId != "F.INTERROGATE" {
				t.Fatalf("woken with %v, %v; want both flows in one answer", got.jobs, got.err)
			}
			ask()
			n.waiting(t, 1)
			if code := a.post(rows("F.INTERROGATE", `{"Hostname":"laptop"}`+"\n")); code != http.StatusOK {
				t.Fatalf("results: %d", code)
			}
			if n.collections.kept("F.INTERROGATE") != 1 {
				t.Error("acknowledged results are not durable")
			}
			n.collections.give(a.id, "F.THIRD")
			if got := <-next; got.err != nil || len(got.jobs) != 1 || got.jobs[0].SessionId != "F.THIRD" {
				t.Fatalf("second answer: %v, %v", got.jobs, got.err)
			}
			if at := n.collections.kept("E.Foreman"); at < 2 {
				t.Errorf("%d check-ins taken, want at least 2", at)
			}
			n.sightings.mu.Lock()
			defer n.sightings.mu.Unlock()
			if n.sightings.seen[a.id] != "127.0.0.1" {
				t.Errorf("seen at %q", n.sightings.seen[a.id])
			}
		})
	}
}

func TestHTTP2IsSpokenOverTLS(t *testing.T) {
	n := launch(t, true, nil)
	conn, err := tls.Dial("tcp", n.address, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "h2" {
		t.Errorf("negotiated %q", p)
	}
	if v := conn.ConnectionState().Version; v != tls.VersionTLS13 {
		t.Errorf("version %x", v)
	}
	if old, err := tls.Dial("tcp", n.address, &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS12}); err == nil {
		old.Close()
		t.Error("TLS 1.2 was let in")
	}
}

func TestWorkQueuedBeforeThePollIsDeliveredAtOnce(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		n := launch(t, false, nil)
		a := n.known(t, scheme, 0)
		n.collections.give(a.id, "F.1")
		code, jobs, err := a.poll(t.Context())
		if err != nil || code != http.StatusOK || len(jobs) != 1 {
			t.Errorf("%s: %d, %v, %v", scheme, code, jobs, err)
		}
	}
}

func TestNothingIsAnsweredBeforeTheCommit(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, nil)
			a := n.known(t, scheme, 0)
			if a.post(rows("F.0", "")) != http.StatusOK {
				t.Fatal("first post")
			}
			commit, entered := make(chan struct{}), make(chan struct{})
			n.collections.setCommit(func(context.Context, []*wirepb.VeloMessage) error {
				close(entered)
				<-commit
				return nil
			})
			answered := make(chan int, 1)
			go func() { answered <- a.post(rows("F.1", "")) }()
			<-entered
			select {
			case code := <-answered:
				t.Fatalf("answered %d before the commit", code)
			case <-time.After(50 * time.Millisecond):
			}
			close(commit)
			if code := <-answered; code != http.StatusOK || n.collections.kept("F.1") != 1 {
				t.Errorf("answer %d, durable %d", code, n.collections.kept("F.1"))
			}
		})
	}
}

func TestWhatIsNotDurableIsKeptByTheClient(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, func(o *frontend.Options) { o.CommitWait = 50 * time.Millisecond })
			a := n.known(t, scheme, 0)
			for name, commit := range map[string]func(context.Context, []*wirepb.VeloMessage) error{
				"failing commit": func(context.Context, []*wirepb.VeloMessage) error { return errSlowDisk },
				"slow commit": func(ctx context.Context, _ []*wirepb.VeloMessage) error {
					<-ctx.Done()
					return ctx.Err()
				},
			} {
				n.collections.setCommit(commit)
				if code := a.post(rows("F.1", "")); code != http.StatusServiceUnavailable {
					t.Errorf("%s: %d, want 503", name, code)
				}
			}
			if n.collections.kept("F.1") != 0 {
				t.Error("something was taken")
			}
			n.collections.setCommit(nil)
			if code := a.post(rows("F.1", "")); code != http.StatusOK || n.collections.kept("F.1") != 1 {
				t.Errorf("the repeated post: %d, durable %d", code, n.collections.kept("F.1"))
			}
			if n.metric(t, "raptorpack_frontend_shed_total", "durable") != 2 {
				t.Error("refusals are not counted")
			}
		})
	}
}

func TestRefusalsArePaced(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.RetryDelay = 100 * time.Millisecond })
	a := n.known(t, "http", 0)
	n.collections.setCommit(func(context.Context, []*wirepb.VeloMessage) error { return errSlowDisk })
	start := time.Now()
	if code := a.post(rows("F.1", "")); code != http.StatusServiceUnavailable {
		t.Fatalf("code %d", code)
	}
	if took := time.Since(start); took < 100*time.Millisecond {
		t.Errorf("503 after %v", took)
	}
}

func TestAbsenceMustBeKnown(t *testing.T) {
	csrOf := func(a *agent) *wirepb.VeloMessage {
		csr, err := wire.NewCSR(a.key)
		if err != nil {
			t.Fatal(err)
		}
		return wire.EnrolMessage(csr)
	}
	unsure := errors.New("no master")
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, nil)
			a := n.agent(t, scheme, 0)
			poll := func() int {
				code, _, err := a.poll(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				return code
			}
			n.keys.fail(unsure, unsure)
			for what, code := range map[string]int{"poll": poll(), "post": a.post(rows("F.1", "")), "enrolment": a.post(csrOf(a))} {
				if code != http.StatusServiceUnavailable {
					t.Errorf("%s without a master: %d, want 503", what, code)
				}
			}
			n.keys.Fail(unsure)
			for what, code := range map[string]int{"poll": poll(), "post": a.post(rows("F.1", ""))} {
				if code != http.StatusServiceUnavailable {
					t.Errorf("%s with an unsure lookup: %d, want 503", what, code)
				}
			}
			n.keys.Fail(nil)
			n.keys.fail(nil, nil)
			n.keys.mu.Lock()
			n.keys.confirmed = nil
			n.keys.mu.Unlock()
			if code := poll(); code != http.StatusNotAcceptable {
				t.Errorf("poll of an absent client: %d, want 406", code)
			}
			if code := a.post(rows("F.1", "")); code != http.StatusNotAcceptable {
				t.Errorf("post of an absent client: %d, want 406", code)
			}
			n.keys.mu.Lock()
			defer n.keys.mu.Unlock()
			if len(n.keys.confirmed) != 2 || n.keys.confirmed[0] != frontend.Fresh || n.keys.confirmed[1] != frontend.Confirmed {
				t.Errorf("absence was asked for as %v", n.keys.confirmed)
			}
		})
	}
}

func TestUnauthenticatedContentIsNeverTaken(t *testing.T) {
	n := launch(t, false, nil)
	a := n.agent(t, "http", 0)
	csr, err := wire.NewCSR(a.key)
	if err != nil {
		t.Fatal(err)
	}
	a.post(rows("F.1", "forged"), wire.EnrolMessage(csr), rows("F.1", "forged"))
	if n.collections.kept("F.1") != 0 {
		t.Error("content beside an enrolment was taken")
	}
}

func TestPinnedIdsStayPinned(t *testing.T) {
	n := launch(t, false, nil)
	a := n.agent(t, "http", 0)
	n.keys.SetFor(a.id, &wiretest.ClientKey(t, 1).PublicKey) // as if two keys had one id
	csr, err := wire.NewCSR(a.key)
	if err != nil {
		t.Fatal(err)
	}
	if code, _, _ := a.poll(t.Context()); code != http.StatusForbidden {
		t.Errorf("poll: %d, want 403", code)
	}
	if code := a.post(rows("F.1", "")); code != http.StatusForbidden {
		t.Errorf("post: %d, want 403", code)
	}
	if code := a.post(wire.EnrolMessage(csr)); code != http.StatusForbidden {
		t.Errorf("enrolment with another key: %d, want 403", code)
	}
	if len(n.keys.enrolled) != 0 || n.metric(t, "raptorpack_frontend_enrolments_total", "pinned") != 1 {
		t.Error("not refused, or no alarm")
	}
	b := n.agent(t, "http", 2)
	n.keys.fail(nil, frontend.ErrPinned)
	csr, err = wire.NewCSR(b.key)
	if err != nil {
		t.Fatal(err)
	}
	if code := b.post(wire.EnrolMessage(csr)); code != http.StatusForbidden || n.metric(t, "raptorpack_frontend_enrolments_total", "pinned") != 2 {
		t.Errorf("pinned according to the ledger: %d", code)
	}
}

func TestEnrolmentForAnotherIsRefused(t *testing.T) {
	n := launch(t, false, nil)
	a := n.agent(t, "http", 0)
	csr, err := wire.NewCSR(wiretest.ClientKey(t, 1))
	if err != nil {
		t.Fatal(err)
	}
	if code := a.post(wire.EnrolMessage(csr)); code != http.StatusForbidden || len(n.keys.enrolled) != 0 {
		t.Errorf("code %d, enrolled %v", code, n.keys.enrolled)
	}
}

func TestEnrolmentsAreRationed(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.EnrolPerAddressSecond = 0.0001 })
	codes := map[int]int{}
	for i := range 3 {
		a := n.agent(t, "http", i)
		csr, err := wire.NewCSR(a.key)
		if err != nil {
			t.Fatal(err)
		}
		codes[a.post(wire.EnrolMessage(csr))]++
	}
	if codes[http.StatusNotAcceptable] != 1 || codes[http.StatusServiceUnavailable] != 2 {
		t.Errorf("codes %v, want one 406 and two 503", codes)
	}
}

func TestForgedAndMalformedAreForbidden(t *testing.T) {
	n := launch(t, false, nil)
	a := n.known(t, "http", 0)
	good := a.seal(rows("F.1", ""))
	bad := append([]byte(nil), good...)
	bad[len(bad)-1] ^= 1
	random := make([]byte, 900)
	rand.Read(random)
	for name, body := range map[string][]byte{"MAC": bad, "empty": nil, "random": random, "text": []byte("hello")} {
		for _, path := range []string{"control", "reader", "send_messages", "receive_messages"} {
			if code := n.rawPost(t, path, body, nil); code != http.StatusForbidden {
				t.Errorf("%s to %s: %d, want 403", name, path, code)
			}
		}
	}
	if code := n.rawPost(t, "send_messages", good, nil); code != http.StatusOK {
		t.Errorf("good packet to the synonym: %d", code)
	}
	if code := n.rawPost(t, "control", good, nil); code != http.StatusOK {
		t.Errorf("replayed packet: %d; a client may have missed the first answer", code)
	}
	if n.metric(t, "raptorpack_wire_replays_total", "seen") != 1 {
		t.Error("replay was not counted")
	}
}

func TestLargeBodiesOfStrangersAreRefusedUnread(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.StrangerMemory = -1 })
	conn := dialRaw(t, n.address)
	io.WriteString(conn, "POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 5000000\r\n\r\n"+strings.Repeat("x", 1024))
	answer := make([]byte, 512)
	read, err := conn.Read(answer) // no more than the head was sent, so no more was read
	if err != nil || !strings.HasPrefix(string(answer[:read]), "HTTP/1.1 503") {
		t.Fatalf("answer %q, %v", answer[:read], err)
	}
	if n.metric(t, "raptorpack_frontend_shed_total", "stranger") != 1 {
		t.Error("not counted")
	}

	// The same size is welcome once the session, or the address, is known.
	a := n.known(t, "http", 0)
	text := make([]byte, 200_000)
	rand.Read(text)
	large := rows("F.1", strings.ToValidUTF8(string(text), "x"))
	if code := a.post(rows("F.0", "")); code != http.StatusOK {
		t.Fatalf("small post: %d", code)
	}
	if code := a.post(large); code != http.StatusOK || n.collections.kept("F.1") != 1 {
		t.Errorf("large post of a known client: %d", code)
	}
}

func TestLargeFirstPostOfAKnownClientGetsThrough(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		n := launch(t, false, nil)
		a := n.known(t, scheme, 0)
		text := make([]byte, 300_000)
		rand.Read(text)
		large := rows("F.1", strings.ToValidUTF8(string(text), "x"))
		if size(large) <= 64<<10 {
			t.Fatal("test is too small")
		}
		if code := a.post(large); code != http.StatusOK || n.collections.kept("F.1") != 1 {
			t.Errorf("%s: %d; behind a balancer the first packet a node sees may be a large one", scheme, code)
		}
	}
}

func TestOversizedBodiesAreRefusedAndKept(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.MaxBody = 10 << 20 })
	a := n.known(t, "http", 0)
	if a.post(rows("F.0", "")) != http.StatusOK {
		t.Fatal("first post")
	}
	conn := dialRaw(t, n.address)
	io.WriteString(conn, "POST /control HTTP/1.1\r\nHost: x\r\nContent-Length: 11000000\r\n\r\n")
	answer := make([]byte, 512)
	read, err := conn.Read(answer)
	if err != nil || !strings.HasPrefix(string(answer[:read]), "HTTP/1.1 503") {
		t.Errorf("answer %q, %v; no other code lets the client keep its data", answer[:read], err)
	}
	if n.metric(t, "raptorpack_frontend_shed_total", "oversize") != 1 || !strings.Contains(n.log.String(), "over the limit") {
		t.Error("not counted or not logged")
	}
	if code := n.rawPost(t, "reader", make([]byte, 100_000), nil); code != http.StatusServiceUnavailable {
		t.Errorf("check-in of 100 kB: %d, want 503", code)
	}
}

func TestBombsAreBuriedAndTheRestIsTaken(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.MaxElement = 2 << 20 })
	a := n.known(t, "http", 0)
	bomb := wire.Deflate(make([]byte, 3<<20))
	element := func(m *wirepb.VeloMessage) []byte {
		body, err := protoList(m)
		if err != nil {
			t.Fatal(err)
		}
		return wire.Deflate(body)
	}
	body, err := a.session.SealPacked(true, element(rows("F.1", "")), bomb, []byte("no zlib"), element(rows("F.2", "")))
	if err != nil {
		t.Fatal(err)
	}
	if code := n.rawPost(t, "control", body, nil); code != http.StatusOK {
		t.Fatalf("code %d", code)
	}
	if n.collections.kept("F.1") != 1 || n.collections.kept("F.2") != 1 || len(n.collections.letters) != 2 {
		t.Errorf("kept %d and %d, %d dead letters", n.collections.kept("F.1"), n.collections.kept("F.2"), len(n.collections.letters))
	}
	if string(n.collections.letters[1]) != "no zlib" || n.metric(t, "raptorpack_frontend_dead_letters_total") != 2 {
		t.Error("the dead letter does not have its bytes, or is not counted")
	}
}

func TestPadsKeepThePollAlive(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) {
		o.PadEvery, o.MaxPoll, o.PollJitter = 10*time.Millisecond, 200*time.Millisecond, time.Millisecond
	})
	a := n.known(t, "http", 0)
	answer, err := a.reader.Exchange(t.Context(), wire.Request{Packet: a.seal(checkIn(0))})
	if err != nil || answer.Code != http.StatusOK {
		t.Fatalf("%d, %v", answer.Code, err)
	}
	if len(answer.Body) < 2*len(wire.Pad) || strings.Trim(string(answer.Body), string(wire.Pad)) != "" {
		t.Errorf("idle answer %x", answer.Body)
	}
	if jobs, err := a.session.Open(t.Context(), answer.Body); err != nil || len(jobs) != 0 {
		t.Errorf("opened: %v, %v", jobs, err)
	}
	n.waiting(t, 0)
	if n.metric(t, "raptorpack_frontend_poll_duration_seconds") != 1 {
		t.Error("poll was not measured")
	}
}

func TestReaderHeadersComeBeforeWork(t *testing.T) {
	n := launch(t, false, nil)
	a := n.known(t, "http", 0)
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, a.base+"reader", strings.NewReader(string(a.seal(checkIn(0)))))
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(r) // returns with the head
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK || response.Header.Get("X-Accel-Buffering") != "no" {
		t.Errorf("%d, %v", response.StatusCode, response.Header)
	}
}

func TestNewestReaderWins(t *testing.T) {
	for _, scheme := range []string{"http", "ws"} {
		t.Run(scheme, func(t *testing.T) {
			n := launch(t, false, nil)
			old, fresh := n.known(t, scheme, 0), n.known(t, scheme, 0)
			ended := make(chan error, 1)
			go func() {
				_, jobs, err := old.poll(t.Context())
				if len(jobs) > 0 {
					t.Error("the older reader got the work")
				}
				ended <- err
			}()
			n.waiting(t, 1)
			got := make(chan int, 1)
			go func() {
				_, jobs, err := fresh.poll(t.Context())
				if err != nil {
					t.Error(err)
				}
				got <- len(jobs)
			}()
			<-ended
			n.collections.give(old.id, "F.1")
			if jobs := <-got; jobs != 1 {
				t.Errorf("the newer reader got %d jobs", jobs)
			}
		})
	}
}

func TestTurnsOfTwoAddressesAreAnAlarm(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.ProxyHeader = "X-Real-IP" })
	a := n.known(t, "http", 0)
	var polls sync.WaitGroup
	for i := range 6 {
		before := n.metric(t, "raptorpack_notifier_replaced_waiters_total")
		polls.Go(func() {
			n.hold(t, a.seal(checkIn(0)), []string{"10.0.0.1", "10.9.9.9"}[i%2])
		})
		eventually(t, "reader in place", func() bool {
			return i == 0 && n.board.Count() == 1 || n.metric(t, "raptorpack_notifier_replaced_waiters_total") > before
		}, func() any { return n.board.Count() })
	}
	if n.metric(t, "raptorpack_frontend_contested_readers_total") == 0 || !strings.Contains(n.log.String(), "is its key copied") {
		t.Error("no alarm")
	}
	n.stop()
	polls.Wait()
}

func TestSocketsArePinged(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.PingWait = 500 * time.Millisecond })
	a := n.known(t, "ws", 0)
	polled := make(chan int, 1)
	go func() {
		_, jobs, err := a.poll(t.Context())
		if err != nil {
			t.Error(err)
		}
		polled <- len(jobs)
	}()
	if a.post(rows("F.1", "")) != http.StatusOK {
		t.Fatal("post")
	}
	eventually(t, "pings", func() bool { return n.metric(t, "raptorpack_frontend_pings_total", "sent") >= 6 }, func() any { return n.log.String() })
	// Both sockets outlived several silent intervals.
	if n.metric(t, "raptorpack_frontend_connections", "reader_socket") != 1 || n.metric(t, "raptorpack_frontend_connections", "control_socket") != 1 {
		t.Errorf("sockets were dropped: %s", n.log.String())
	}
	n.collections.give(a.id, "F.2")
	if got := <-polled; got != 1 {
		t.Errorf("%d jobs after idling", got)
	}
}

func TestSilentSocketsAreDropped(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.PingWait = 50 * time.Millisecond })
	conn := dialRaw(t, n.address)
	io.WriteString(conn, "GET /reader HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n")
	if _, err := io.Copy(io.Discard, conn); err != nil { // until the server closes
		t.Fatal(err)
	}
	eventually(t, "connection gone", func() bool { return n.metric(t, "raptorpack_frontend_connections") == 0 }, func() any { return "" })
}

func TestServerPEMOverWebSocket(t *testing.T) {
	n := launch(t, false, nil)
	a := n.agent(t, "ws", 0)
	e, err := a.transport.Endpoint(a.base, wire.PathServerPEM)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	answer, err := e.Exchange(t.Context(), wire.Request{Packet: wire.Pad})
	if err != nil || string(answer.Body) != string(n.Server) {
		t.Errorf("%d bytes, %v", len(answer.Body), err)
	}
}

func TestGarbageOnThePortHarmsNobody(t *testing.T) {
	for _, withTLS := range []bool{false, true} {
		n := launch(t, withTLS, nil)
		for _, junk := range []string{"\x00\x01\x02\x03garbage\r\n\r\n", "\x16\x03\x01\xff\xff\xff", "GET", strings.Repeat("A", 100_000), "POST /control HTTP/1.1\r\nContent-Length: -5\r\n\r\n"} {
			conn := dialRaw(t, n.address)
			io.WriteString(conn, junk)
			conn.Close()
		}
		scheme := map[bool]string{false: "http", true: "https"}[withTLS]
		if code := n.known(t, scheme, 0).post(rows("F.1", "")); code != http.StatusOK {
			t.Errorf("after garbage: %d", code)
		}
	}
}

func TestGarbageFramesCloseTheSocketOnly(t *testing.T) {
	n := launch(t, false, nil)
	a := n.known(t, "ws", 0)
	for range 3 {
		answer, err := a.control.Exchange(t.Context(), wire.Request{Packet: []byte("garbage")})
		if err != nil || answer.Code != http.StatusForbidden {
			t.Fatalf("%d, %v", answer.Code, err)
		}
	}
	if code := a.post(rows("F.1", "")); code != http.StatusOK {
		t.Errorf("code %d", code)
	}
}

func TestAnotherClientMayNotSpeakOnAReader(t *testing.T) {
	n := launch(t, false, nil)
	a, b := n.known(t, "ws", 0), n.known(t, "ws", 1)
	go a.poll(t.Context())
	n.waiting(t, 1)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	answer, err := a.reader.Exchange(ctx, wire.Request{Packet: b.seal(checkIn(0))})
	if err == nil && answer.Code != http.StatusForbidden {
		t.Errorf("answer %d", answer.Code)
	}
	n.waiting(t, 0)
	if n.board.Connected(ids.RootOrg, b.id) {
		t.Error("the other client is taken for connected")
	}
}

func TestDrainHandsClientsOver(t *testing.T) {
	n := launch(t, false, func(o *frontend.Options) { o.DrainWindow = 300 * time.Millisecond })
	const each = 4
	var ended sync.WaitGroup
	for i := range each {
		for _, scheme := range []string{"http", "ws"} {
			a := n.known(t, scheme, i+map[string]int{"http": 0, "ws": each}[scheme])
			ended.Go(func() {
				code, jobs, err := a.poll(t.Context())
				if len(jobs) != 0 || scheme == "http" && (err != nil || code != http.StatusOK) {
					t.Errorf("%s poll ended with %d, %v, %v", scheme, code, jobs, err)
				}
			})
		}
	}
	n.waiting(t, 2*each)
	busy := n.known(t, "http", 2*each)
	commit, entered := make(chan struct{}), make(chan struct{})
	n.collections.setCommit(func(context.Context, []*wirepb.VeloMessage) error {
		close(entered)
		<-commit
		return nil
	})
	posted := make(chan int, 1)
	go func() { posted <- busy.post(rows("F.1", "")) }()
	<-entered
	go n.stop()
	ended.Wait()
	if err := n.frontend.Ready(); err == nil {
		t.Error("ready while draining")
	}
	close(commit)
	if code := <-posted; code != http.StatusOK {
		t.Errorf("the post in progress: %d", code)
	}
	n.stop()
	if n.board.Count() != 0 || n.collections.closed != 2*each {
		t.Errorf("%d still waiting, %d of %d detached", n.board.Count(), n.collections.closed, 2*each)
	}
}

func TestHealth(t *testing.T) {
	var mu sync.Mutex
	trouble := errors.New("store does not answer")
	n := launch(t, false, func(o *frontend.Options) {
		o.BasePath = "/velo"
		o.Ready = func() error {
			mu.Lock()
			defer mu.Unlock()
			return trouble
		}
	})
	get := func(path string) (int, string) {
		response, err := http.Get("http://" + n.address + path)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response.StatusCode, string(body)
	}
	if code, text := get("/velo/healthz"); code != http.StatusServiceUnavailable || !strings.Contains(text, "store") {
		t.Errorf("not ready: %d %q", code, text)
	}
	mu.Lock()
	trouble = nil
	mu.Unlock()
	if code, _ := get("/velo/healthz"); code != http.StatusOK {
		t.Errorf("ready: %d", code)
	}
	if code, text := get("/velo/server.pem"); code != http.StatusOK || text != string(n.Server) {
		t.Errorf("server.pem below the base path: %d", code)
	}
	if code, _ := get("/healthz"); code != http.StatusNotFound {
		t.Errorf("outside the base path: %d", code)
	}
	if code, _ := get("/velo/control"); code != http.StatusMethodNotAllowed {
		t.Errorf("GET control: %d", code)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}

func TestAddressBehindProxies(t *testing.T) {
	trusted := []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("10.1.0.0/16")}
	for name, c := range map[string]struct {
		header  string
		trusted []netip.Prefix
		want    string
	}{
		"one proxy":          {"203.0.113.9", trusted, "203.0.113.9"},
		"two proxies":        {"203.0.113.9, 10.1.2.3", trusted, "203.0.113.9"},
		"claim of a client":  {"1.2.3.4, 203.0.113.9, 10.1.2.3", trusted, "203.0.113.9"},
		"no address":         {"unknown", trusted, "127.0.0.1"},
		"untrusted proxy":    {"203.0.113.9", []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, "127.0.0.1"},
		"nobody is listed":   {"203.0.113.9", nil, "203.0.113.9"},
		"nearest is claimed": {"1.2.3.4, 203.0.113.9", nil, "203.0.113.9"},
	} {
		n := launch(t, false, func(o *frontend.Options) { o.ProxyHeader, o.TrustedProxies = "X-Forwarded-For", c.trusted })
		a := n.known(t, "http", 0)
		n.rawPost(t, "control", a.seal(rows("F.1", "")), func(r *http.Request) { r.Header.Set("X-Forwarded-For", c.header) })
		n.sightings.mu.Lock()
		if got := n.sightings.seen[a.id]; got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
		n.sightings.mu.Unlock()
	}
}

func TestProxyProtocolTellsTheAddress(t *testing.T) {
	l, err := frontend.Listen(t.Context(), frontend.ListenOptions{Address: "127.0.0.1:0", ProxyProtocol: true})
	if err != nil {
		t.Fatal(err)
	}
	n := launch(t, false, func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
	n.address = l.Addr().String()
	s := n.Session(t, wiretest.ClientKey(t, 0))
	client := n.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	body, err := s.SealMessages(rows("F.1", ""))
	if err != nil {
		t.Fatal(err)
	}
	conn := dialRaw(t, n.address)
	io.WriteString(conn, "PROXY TCP4 203.0.113.7 127.0.0.1 4711 8000\r\nPOST /control HTTP/1.1\r\nHost: x\r\nContent-Length: "+
		itoa(len(body))+"\r\n\r\n"+string(body))
	answer := make([]byte, 256)
	if read, err := conn.Read(answer); err != nil || !strings.HasPrefix(string(answer[:read]), "HTTP/1.1 200") {
		t.Fatalf("%q, %v", answer[:read], err)
	}
	n.sightings.mu.Lock()
	defer n.sightings.mu.Unlock()
	if n.sightings.seen[client] != "203.0.113.7" {
		t.Errorf("seen at %q", n.sightings.seen[client])
	}
}

func TestDoorShedsConnections(t *testing.T) {
	l, err := frontend.Listen(t.Context(), frontend.ListenOptions{Address: "127.0.0.1:0", PerSecond: -1, MaxConnections: 1})
	if err != nil {
		t.Fatal(err)
	}
	n := launch(t, false, func(o *frontend.Options) { o.Listener.Close(); o.Listener = l })
	first := dialRaw(t, l.Addr().String())
	io.WriteString(first, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := first.Read(make([]byte, 64)); err != nil {
		t.Fatal(err)
	}
	second := dialRaw(t, l.Addr().String())
	if _, err := second.Read(make([]byte, 1)); err == nil {
		t.Error("a connection over the limit was served")
	}
	_ = n
}
