package stories_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/binary"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/cmd/node"
	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

// hostile is an enrolled client that sends what it likes.
type hostile struct {
	t       *testing.T
	id      ids.Client
	session *wire.Session
	control *wire.Endpoint
	flow    string // that was given to it,
	name    string // with a result of this name
}

func (p *pack) base() string {
	return "https://localhost:" + strconv.Itoa(p.file.Frontend.BindPort) + "/"
}

// hostile enrols a client and takes the first flow that it is given.
func (p *pack) hostile(n int) *hostile {
	t := p.t
	t.Helper()
	transport, err := wire.NewTransport(wire.TransportOptions{
		TLS: wire.TLSOptions{CA: []byte(p.file.Client.CACertificate), SelfSigned: true}, ConnectionTimeout: time.Minute,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(transport.Close)
	text, err := transport.ServerPEM(t.Context(), p.base())
	if err != nil {
		t.Fatal(err)
	}
	server, err := wire.CheckServer(text, wire.Trust{CA: []byte(p.file.Client.CACertificate)})
	if err != nil {
		t.Fatal(err)
	}
	key := wiretest.ClientKey(t, n)
	h := &hostile{t: t, id: ids.ClientOfKey(&key.PublicKey)}
	if h.session, err = wire.NewSession(wire.SessionOptions{Key: key, Server: server, Nonce: p.file.Client.Nonce}); err != nil {
		t.Fatal(err)
	}
	if h.control, err = transport.Endpoint(p.base(), wire.PathControl); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.control.Close() })
	csr, err := wire.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	if code := h.post(wire.EnrolMessage(csr)); code != http.StatusNotAcceptable {
		t.Fatalf("enrolment: %d", code)
	}
	h.takeFlow(transport, p.base())
	return h
}

// takeFlow waits for the interrogation that every new client gets.
func (h *hostile) takeFlow(transport *wire.Transport, base string) {
	reader, err := transport.Endpoint(base, wire.PathReader)
	if err != nil {
		h.t.Fatal(err)
	}
	defer reader.Close()
	wait(h.t, "a flow for the hostile client", func() (bool, string) {
		checkIn, err := h.session.SealMessages(&wirepb.VeloMessage{SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{}})
		if err != nil {
			h.t.Fatal(err)
		}
		answer, err := reader.Exchange(h.t.Context(), wire.Request{Packet: checkIn})
		if err != nil || answer.Code != http.StatusOK {
			return false, answer.Text
		}
		jobs, err := h.session.Open(h.t.Context(), answer.Body)
		for _, job := range jobs {
			var answers []*wirepb.VeloMessage
			for _, flow := range job.GetFlowStatsRequest().GetFlowId() { // whether we know it
				answers = append(answers, &wirepb.VeloMessage{SessionId: flow, FlowStats: &wirepb.FlowStats{
					FlowComplete: true, QueryStatus: []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_UNKNOWN_FLOW}},
				}})
			}
			if len(answers) > 0 {
				h.post(answers...) // in one packet, as agents send what waits
			}
			for _, action := range job.GetFlowRequest().GetVqlClientActions() {
				for _, query := range action.GetQuery() {
					if query.GetName() != "" {
						h.flow, h.name = job.SessionId, query.GetName()
						return true, ""
					}
				}
			}
		}
		return false, fmt.Sprint(jobs, err)
	})
}

func (h *hostile) post(messages ...*wirepb.VeloMessage) int {
	h.t.Helper()
	body, err := h.session.SealMessages(messages...)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.send(body)
}

func (h *hostile) send(body []byte) int {
	h.t.Helper()
	answer, err := h.control.Exchange(context.Background(), wire.Request{Packet: body})
	if err != nil {
		h.t.Fatal(err)
	}
	return answer.Code
}

// bomb is a zlib stream (RFC 1950) of so many MiB of zeros. One MiB is deflated
// and repeated: a block that refers to nothing before it may be.
func bomb(mebibytes int) []byte {
	var one bytes.Buffer
	z := zlib.NewWriter(&one)
	z.Write(make([]byte, 1<<20)) // a bytes.Buffer takes everything
	z.Flush()
	head, block := one.Bytes()[:2], bytes.Clone(one.Bytes()[2:])
	stream := append(bytes.Clone(head), bytes.Repeat(block, mebibytes)...)
	stream = append(stream, 0x03, 0x00) // an empty last block
	zeros := uint32(mebibytes) << 20 % 65521
	return binary.BigEndian.AppendUint32(stream, zeros<<16|1) // Adler-32
}

// taken returns the memory that this process got from the system: it never goes
// down, so it remembers peaks.
func taken() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys
}

// TestBombsStayInTheirBounds runs before the stories that run side by side: they
// would be seen in the memory of the process.
func TestBombsStayInTheirBounds(t *testing.T) {
	p := launch(t, options{tune: func(u *node.Tuning) { u.CommitWait = time.Minute }})
	h := p.hostile(2)
	senders, together := 4, 16
	if raced {
		senders, together = 1, 4
	}
	gibibyte := bomb(1024)
	if whole, err := wire.Inflate(bomb(3), 4<<20, nil); err != nil || len(whole) != 3<<20 {
		t.Fatalf("the bomb is no zlib stream: %d, %v", len(whole), err)
	}
	rows := func(declared uint64) *wirepb.VeloMessage {
		return &wirepb.VeloMessage{SessionId: h.flow, VqlResponse: &wirepb.VQLResponse{
			Query: &wirepb.VQLRequest{Name: h.name}, CompressedJsonResponse: gibibyte, UncompressedSize: declared, TotalRows: 1,
		}}
	}
	buffer := func(declared uint64) *wirepb.VeloMessage {
		return &wirepb.VeloMessage{SessionId: h.flow, FileBuffer: &wirepb.FileBuffer{
			Data: gibibyte, UncompressedLength: declared, UploadNumber: 1, Pathspec: &wirepb.PathSpec{Path: "bomb"},
		}}
	}
	runtime.GC()
	before := taken()
	for _, c := range []struct {
		name, kind string
		message    *wirepb.VeloMessage
	}{
		{"rows that say how long they are", "rows", rows(1 << 30)},
		{"rows that lie", "rows", rows(1000)},
		{"rows at the limit", "rows", rows(64 << 20)},
		{"upload that says how long it is", "upload", buffer(1 << 30)},
		{"upload that lies", "upload", buffer(1 << 20)},
	} {
		was := p.metric("raptorpack_flows_dead_letters_total", c.kind)
		// What can never be taken is kept aside and acknowledged.
		if code := h.post(c.message); code != http.StatusOK {
			t.Errorf("%s: answered with %d", c.name, code)
		}
		if got := p.metric("raptorpack_flows_dead_letters_total", c.kind); got != was+1 {
			t.Errorf("%s: %v dead letters after %v", c.name, got, was)
		}
	}
	envelope, err := h.session.SealPacked(true, gibibyte)
	if err != nil {
		t.Fatal(err)
	}
	if code := h.send(envelope); code != http.StatusOK {
		t.Errorf("envelope: answered with %d", code)
	}
	if got := p.metric("raptorpack_frontend_dead_letters_total"); got != 1 {
		t.Errorf("%v dead letters of the envelope", got)
	}
	t.Logf("one after the other: %d MiB", (taken()-before)>>20)
	manyAtOnce(t, p, h, senders, func() ([]byte, error) { return h.session.SealPacked(true, gibibyte) })
	t.Logf("envelopes at once: %d MiB", (taken()-before)>>20)
	limit := bomb(64)
	manyAtOnce(t, p, h, together, func() ([]byte, error) {
		return h.session.SealMessages(&wirepb.VeloMessage{SessionId: h.flow, VqlResponse: &wirepb.VQLResponse{
			Query: &wirepb.VQLRequest{Name: h.name}, CompressedJsonResponse: limit, UncompressedSize: 64 << 20, TotalRows: 1,
		}})
	})
	const bound = 900 << 20
	if more := taken() - before; more > bound {
		t.Errorf("bombs of 1 GiB took %d MiB of memory", more>>20)
	} else {
		t.Logf("bombs of 1 GiB took %d MiB of memory", more>>20)
	}
	p.waitLog("client sent what cannot be taken", h.id.String())
	files, err := filepath.Glob(filepath.Join(p.store, filepath.FromSlash(string(filestore.DeadLetters(ids.RootOrg))), "*.jsonl.gz"))
	if err != nil || len(files) == 0 {
		t.Errorf("no file of dead letters: %v", err)
	}
	p.waitReady()
	p.agent(0).collect(500).complete()
}

// manyAtOnce sends packets from several connections together: each is taken, or
// told to come later, and none is dropped.
func manyAtOnce(t *testing.T, p *pack, h *hostile, n int, seal func() ([]byte, error)) {
	t.Helper()
	var senders sync.WaitGroup
	for range n {
		senders.Go(func() {
			body, err := seal()
			if err != nil {
				t.Error(err)
				return
			}
			request, err := http.NewRequest(http.MethodPost, p.base()+"control", bytes.NewReader(body))
			if err != nil {
				t.Error(err)
				return
			}
			answer, err := p.plainClient().Do(request)
			if err != nil {
				t.Error(err)
				return
			}
			answer.Body.Close()
			if answer.StatusCode != http.StatusOK && answer.StatusCode != http.StatusServiceUnavailable {
				t.Errorf("answered with %d", answer.StatusCode)
			}
		})
	}
	senders.Wait()
}

// Mangled packets decode to something else than an agent would send.
func TestMangledPacketsHarmNobody(t *testing.T) {
	t.Parallel()
	p := launch(t, options{})
	h := p.hostile(2)
	deep := []byte{}
	for range 10_000 { // a message within a message, as protobuf knows them
		deep = append([]byte{0x0a}, append(binary.AppendUvarint(nil, uint64(len(deep))), deep...)...)
	}
	list, err := proto.Marshal(&wirepb.MessageList{Job: []*wirepb.VeloMessage{{
		SessionId: h.flow, VqlResponse: &wirepb.VQLResponse{
			Query: &wirepb.VQLRequest{Name: h.name}, JsonlResponse: strings.Repeat("[", 100_000), TotalRows: 1,
		},
	}, {
		SessionId: "F.NOTMINE", VqlResponse: &wirepb.VQLResponse{JsonlResponse: "{}\n", TotalRows: 1},
	}, {
		SessionId: "../../etc/passwd", LogMessage: &wirepb.LogMessage{Jsonl: "{}\n", NumberOfRows: 1},
	}, {
		SessionId: h.flow, FileBuffer: &wirepb.FileBuffer{
			Data: []byte("x"), Eof: true, UploadNumber: 7, StoredSize: 1, Size: 1,
			Pathspec: &wirepb.PathSpec{Components: []string{"..", "..", "..", "..", "..", "etc", "cron.d", "x"}, Accessor: "../.."},
		},
	}}})
	if err != nil {
		t.Fatal(err)
	}
	body, err := h.session.SealPacked(false, deep, []byte("no protobuf at all"), bytes.Repeat([]byte{0xff}, 4096), list)
	if err != nil {
		t.Fatal(err)
	}
	if code := h.send(body); code != http.StatusOK {
		t.Errorf("answered with %d", code)
	}
	p.waitMetric(2, "raptorpack_frontend_dead_letters_total")
	p.waitMetric(3, "raptorpack_flows_dead_letters_total")
	err = filepath.WalkDir(filepath.Dir(p.store), func(path string, d os.DirEntry, err error) error {
		if err == nil && !strings.HasPrefix(path, p.store) && !d.IsDir() {
			t.Errorf("%s lies outside of the store", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
	p.agent(0).collect(500).complete()
}
