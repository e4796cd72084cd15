package frontend_test

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"raptorpack/frontend"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
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
			// A socket's check-in is answered by work, so it may be taken after that came.
			eventually(t, "two check-ins taken", func() bool { return n.collections.kept("E.Foreman") >= 2 },
				func() any { return n.collections.kept("E.Foreman") })
			n.sightings.mu.Lock()
			defer n.sightings.mu.Unlock()
			if n.sightings.seen[a.id] != "127.0.0.1" {
				t.Errorf("seen at %q", n.sightings.seen[a.id])
			}
		})
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
	eventually(t, "attachment ended", func() bool { return n.collections.ended() == 1 }, func() any { return n.collections.ended() })
	if n.collections.present != 0 {
		t.Error("when its attachment ended, the poll itself was still on the board")
	}
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
	for _, path := range []string{"/server.pem", "/control", "/reader", "/healthz"} {
		w := httptest.NewRecorder()
		method := map[bool]string{true: http.MethodPost, false: http.MethodGet}[path == "/control" || path == "/reader"]
		n.frontend.Handler().ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, path, nil))
		if w.Code != http.StatusServiceUnavailable {
			t.Errorf("%s while draining: %d, want 503", path, w.Code)
		}
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
