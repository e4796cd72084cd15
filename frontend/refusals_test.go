package frontend_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

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

// late is a body whose sender goes on only once it has the answer.
type late struct {
	io.Reader
	answer *httptest.ResponseRecorder
	early  bool
}

func (l *late) Read(p []byte) (int, error) {
	l.early = l.early || !l.answer.Flushed
	return l.Reader.Read(p)
}

func TestRefusedClientsMaySendToTheEnd(t *testing.T) {
	n := launch(t, false, nil)
	answer := httptest.NewRecorder()
	rest := bytes.NewReader(make([]byte, 100_000))
	body := &late{Reader: rest, answer: answer}
	r := httptest.NewRequestWithContext(t.Context(), http.MethodPost, "/reader", body)
	r.ContentLength = rest.Size()
	n.frontend.Handler().ServeHTTP(answer, r)
	if answer.Code != http.StatusServiceUnavailable || body.early || rest.Len() != 0 {
		t.Errorf("code %d, read before the answer: %t, bytes never read: %d; closing then resets the connection, and the answer is lost", answer.Code, body.early, rest.Len())
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
