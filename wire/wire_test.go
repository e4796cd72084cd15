package wire_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
	"raptorpack/wire/wiretest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// pair is a server's and a client's end with nothing between.
type pair struct {
	*wiretest.Deployment
	keys     wiretest.Keys
	registry *prometheus.Registry
	identity *wire.Identity
	opener   *wire.Opener
	sealer   *wire.Sealer
	session  *wire.Session
}

func newPair(t testing.TB, o wire.OpenerOptions, i wire.IdentityOptions) *pair {
	t.Helper()
	p := &pair{Deployment: wiretest.NewDeployment(t), registry: prometheus.NewRegistry()}
	i.Registerer = p.registry
	p.identity = p.Identity(t, i)
	o.Identity, o.Keys, o.Orgs = p.identity, p.keys.Lookup, wiretest.Orgs
	var err error
	if p.opener, err = wire.NewOpener(o); err != nil {
		t.Fatal(err)
	}
	if p.sealer, err = wire.NewSealer(wire.SealerOptions{Identity: p.identity, Nonce: wiretest.OrgNonce}); err != nil {
		t.Fatal(err)
	}
	p.session = p.Session(t, wiretest.ClientKey(t, 0))
	return p
}

func (p *pair) privateOperations(t testing.TB) int {
	t.Helper()
	n := 0.0
	families, err := p.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "raptorpack_wire_private_key_operations_total" {
			continue
		}
		for _, m := range f.Metric {
			if m.Label[0].GetValue() != "refused" {
				n += m.Counter.GetValue()
			}
		}
	}
	return int(n)
}

func checkIn(version uint64) *wirepb.VeloMessage {
	return &wirepb.VeloMessage{SessionId: "E.Foreman", ForemanCheckin: &wirepb.ForemanCheckin{LastEventTableVersion: version}}
}

func seal(t testing.TB, s *wire.Session, messages ...*wirepb.VeloMessage) []byte {
	t.Helper()
	body, err := s.SealMessages(messages...)
	if err != nil {
		t.Fatal(err)
	}
	return body
}

func open(t testing.TB, o *wire.Opener, body []byte) *wire.Packet {
	t.Helper()
	packet, err := o.Open(t.Context(), bytes.Clone(body))
	if err != nil {
		t.Fatal(err)
	}
	return packet
}

func TestPacketGoesThereAndBack(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	client := p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)

	forged := checkIn(1010)
	forged.Source, forged.OrgId = "C.ffffffffffffffff", "OTHER"
	packet := open(t, p.opener, seal(t, p.session, forged))
	if packet.Standing != wire.Known || packet.Client != client || packet.Org != ids.RootOrg || packet.Replayed {
		t.Fatalf("packet %+v", packet)
	}
	messages, err := packet.Messages()
	if err != nil || len(messages) != 1 || messages[0].ForemanCheckin.LastEventTableVersion != 1010 {
		t.Fatalf("messages %v, %v", messages, err)
	}
	if messages[0].Source != client.String() || messages[0].OrgId != "" {
		t.Errorf("source %q, org %q come from the message, not the envelope", messages[0].Source, messages[0].OrgId)
	}

	answer, err := p.sealer.Seal(t.Context(), wire.Delivery{
		Client: client, Key: &wiretest.ClientKey(t, 0).PublicKey, Messages: []*wirepb.VeloMessage{{SessionId: "F.1", Cancel: &wirepb.Cancel{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	jobs, err := p.session.Open(t.Context(), append(bytes.Clone(wire.Pad), answer...))
	if err != nil || len(jobs) != 1 || jobs[0].SessionId != "F.1" {
		t.Fatalf("jobs %v, %v", jobs, err)
	}
	for _, idle := range [][]byte{nil, wire.Pad, bytes.Repeat(wire.Pad, 7)} {
		if jobs, err := p.session.Open(t.Context(), bytes.Clone(idle)); err != nil || jobs != nil {
			t.Errorf("idle answer %x: %v, %v", idle, jobs, err)
		}
	}
}

func TestCachedSessionCostsNoPrivateKey(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	first := seal(t, p.session, checkIn(1))
	if p.opener.Recognises(first[:400]) {
		t.Error("a session nobody has seen is recognised")
	}
	for i := range 5 {
		packet := open(t, p.opener, seal(t, p.session, checkIn(1)))
		if packet.Cached != (i > 0) {
			t.Errorf("packet %d: cached = %v", i, packet.Cached)
		}
	}
	if n := p.privateOperations(t); n != 1 {
		t.Errorf("%d private-key operations, want 1", n)
	}
	if !p.opener.Recognises(first[:400]) {
		t.Error("an authenticated session is not recognised by its head")
	}
	p.opener.Forget(ids.RootOrg, p.session.Client())
	if open(t, p.opener, first).Cached {
		t.Error("a forgotten session is still cached")
	}
}

func TestEnrolmentCostsOnePrivateKeyOperation(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	key := wiretest.ClientKey(t, 0)
	csr, err := wire.NewCSR(key)
	if err != nil {
		t.Fatal(err)
	}
	if open(t, p.opener, seal(t, p.session, checkIn(0))).Standing != wire.Stranger {
		t.Fatal("an unknown client is not a stranger")
	}
	packet := open(t, p.opener, seal(t, p.session, wire.EnrolMessage(csr)))
	messages, err := packet.Messages()
	if err != nil {
		t.Fatal(err)
	}
	public, err := wire.CheckCSR(messages[0].Csr.Pem, packet.Client)
	if err != nil {
		t.Fatal(err)
	}
	p.keys.Set(public)
	if open(t, p.opener, seal(t, p.session, checkIn(0))).Standing != wire.Known {
		t.Fatal("the enrolled client is not known")
	}
	if n := p.privateOperations(t); n != 1 {
		t.Errorf("%d private-key operations for an enrolment, want 1", n)
	}
}

func TestSimultaneousPacketsOfANewSessionShareOneOperation(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{Workers: 1})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	bodies := make([][]byte, 16)
	for i := range bodies {
		bodies[i] = seal(t, p.session, checkIn(1))
	}
	var done sync.WaitGroup
	for _, body := range bodies {
		done.Go(func() {
			if _, err := p.opener.Open(t.Context(), body); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	if n := p.privateOperations(t); n != 1 {
		t.Errorf("%d private-key operations, want 1", n)
	}
}

func TestForgeriesAreRefused(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	good := seal(t, p.session, checkIn(1))
	other, err := wire.NewSession(wire.SessionOptions{Key: wiretest.ClientKey(t, 0), Server: p.session.Server(), Nonce: "of another deployment"})
	if err != nil {
		t.Fatal(err)
	}
	change := func(edit func(*wirepb.ClientCommunication)) []byte {
		var m wirepb.ClientCommunication
		if err := proto.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		edit(&m)
		body, err := proto.Marshal(&m)
		if err != nil {
			t.Fatal(err)
		}
		return body
	}
	cases := map[string]struct {
		body []byte
		want error
	}{
		"MAC":           {change(func(m *wirepb.ClientCommunication) { m.FullHmac[0] ^= 1 }), wire.ErrForged},
		"short MAC":     {change(func(m *wirepb.ClientCommunication) { m.FullHmac = m.FullHmac[:4] }), wire.ErrMalformed},
		"payload":       {change(func(m *wirepb.ClientCommunication) { m.Encrypted[0] ^= 1 }), wire.ErrForged},
		"iv":            {change(func(m *wirepb.ClientCommunication) { m.PacketIv[0] ^= 1 }), wire.ErrForged},
		"cipher":        {change(func(m *wirepb.ClientCommunication) { m.EncryptedCipher[9] ^= 1 }), wire.ErrForged},
		"metadata":      {change(func(m *wirepb.ClientCommunication) { m.EncryptedCipherMetadata[9] ^= 1 }), wire.ErrForged},
		"old version":   {change(func(m *wirepb.ClientCommunication) { m.ApiVersion = 3 }), wire.ErrMalformed},
		"version":       {change(func(m *wirepb.ClientCommunication) { m.ApiVersion = 5 }), wire.ErrForged},
		"no cipher":     {change(func(m *wirepb.ClientCommunication) { m.EncryptedCipher = nil }), wire.ErrMalformed},
		"foreign nonce": {seal(t, other, checkIn(1)), wire.ErrForged},
		"pad":           {wire.Pad, wire.ErrMalformed},
		"empty":         {nil, wire.ErrMalformed},
		"garbage":       {[]byte("GET / HTTP/1.1\r\n\r\n"), wire.ErrMalformed},
	}
	for name, c := range cases {
		for _, state := range []string{"new", "cached"} {
			if state == "cached" {
				open(t, p.opener, good)
			} else {
				p.opener.Forget(ids.RootOrg, p.session.Client())
			}
			_, err := p.opener.Open(t.Context(), bytes.Clone(c.body))
			if err == nil || !errors.Is(err, wire.ErrForged) && !errors.Is(err, wire.ErrMalformed) {
				t.Errorf("%s, %s session: %v, want %v", name, state, err, c.want)
			}
			if state == "new" && !errors.Is(err, c.want) {
				t.Errorf("%s, %s session: %v, want %v", name, state, err, c.want)
			}
		}
	}
	if packet, err := p.opener.Open(t.Context(), good); err != nil || packet.Standing != wire.Known {
		t.Errorf("the good packet after all forgeries: %v, %v", packet, err)
	}
}

func TestAnothersSignatureIsAnImpostor(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	// The id of client 0 is pinned to the key of client 1.
	p.keys.SetFor(p.session.Client(), &wiretest.ClientKey(t, 1).PublicKey)
	if got := open(t, p.opener, seal(t, p.session, checkIn(1))).Standing; got != wire.Impostor {
		t.Errorf("standing %v, want impostor", got)
	}
}

func TestUnsureLookupIsNeitherKnownNorAbsent(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Fail(errors.New("state is stale"))
	body := seal(t, p.session, checkIn(1))
	if _, err := p.opener.Open(t.Context(), bytes.Clone(body)); !errors.Is(err, wire.ErrUnsure) {
		t.Errorf("unsure lookup gave %v", err)
	}
	p.keys.Fail(nil)
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	if open(t, p.opener, body).Standing != wire.Known {
		t.Error("the same packet is not known once the lookup is sure")
	}
}

func TestReplaysAreFlagged(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	body := seal(t, p.session, checkIn(1))
	for i, want := range []bool{false, true, true} {
		if got := open(t, p.opener, body); got.Replayed != want || got.Stale {
			t.Errorf("time %d: replayed = %v, stale = %v", i+1, got.Replayed, got.Stale)
		}
	}
	if open(t, p.opener, seal(t, p.session, checkIn(1))).Replayed {
		t.Error("a new packet is flagged")
	}
}

func TestPacketsHoursBehindAreFlagged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
		p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
		old := seal(t, p.session, checkIn(1))
		time.Sleep(2 * time.Hour)
		open(t, p.opener, seal(t, p.session, checkIn(1)))
		if open(t, p.opener, old).Stale {
			t.Error("two hours are within what a client may be late")
		}
		old = seal(t, p.session, checkIn(1))
		time.Sleep(4 * time.Hour)
		open(t, p.opener, seal(t, p.session, checkIn(1)))
		if got := open(t, p.opener, old); !got.Stale || got.Replayed {
			t.Errorf("four hours behind: %+v", got)
		}
	})
}

func TestPrivateKeyOperationsAreRationed(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{OperationsPerSecond: 0.001, MaxWait: -1})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	open(t, p.opener, seal(t, p.session, checkIn(1)))
	next := p.Session(t, wiretest.ClientKey(t, 0))
	if _, err := p.opener.Open(t.Context(), seal(t, next, checkIn(1))); !errors.Is(err, wire.ErrBusy) {
		t.Errorf("second new session: %v, want ErrBusy", err)
	}
	open(t, p.opener, seal(t, p.session, checkIn(1))) // a cached one needs none
	// Nor do new ones take what answers to known clients need.
	if _, err := p.sealer.Seal(t.Context(), wire.Delivery{Client: p.session.Client(), Key: &wiretest.ClientKey(t, 0).PublicKey}); err != nil {
		t.Errorf("an answer meanwhile: %v", err)
	}
	if n := p.privateOperations(t); n != 2 {
		t.Errorf("%d private-key operations, want 2", n)
	}
}

func TestOperationWaitsForItsTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{OperationsPerSecond: 1, Workers: 1})
		p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
		for range 7 { // burst of 2, then 1 s each, up to 5 s
			s := p.Session(t, wiretest.ClientKey(t, 0))
			open(t, p.opener, seal(t, s, checkIn(1)))
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		s := p.Session(t, wiretest.ClientKey(t, 0))
		if _, err := p.opener.Open(ctx, seal(t, s, checkIn(1))); !errors.Is(err, wire.ErrBusy) {
			t.Errorf("a caller who has left got %v", err)
		}
	})
}

func TestBombsAreDefused(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{MaxElement: 1 << 20, MaxPacket: 3 << 20}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	zeros := wire.Deflate(make([]byte, 2<<20))
	empties := wire.Deflate(bytes.Repeat([]byte{0x0a, 0x00}, 400_000))
	columns, err := proto.Marshal(&wirepb.MessageList{Job: []*wirepb.VeloMessage{{SessionId: "F.1", VqlResponse: &wirepb.VQLResponse{Columns: make([]string, 400_000)}}}})
	if err != nil {
		t.Fatal(err)
	}
	log, err := proto.Marshal(&wirepb.MessageList{Job: []*wirepb.VeloMessage{{SessionId: "F.1", LogMessage: &wirepb.LogMessage{Jsonl: strings.Repeat("x", 900<<10)}}}})
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		elements [][]byte
		want     error
	}{
		"one large element":          {[][]byte{zeros}, wire.ErrTooLarge},
		"many elements":              {[][]byte{wire.Deflate(log), wire.Deflate(log), wire.Deflate(log), wire.Deflate(log)}, wire.ErrTooLarge},
		"a million empty messages":   {[][]byte{empties}, wire.ErrTooLarge},
		"cut stream":                 {[][]byte{wire.Deflate(log)[:500]}, wire.ErrMalformed},
		"no stream":                  {[][]byte{[]byte("not zlib at all")}, wire.ErrMalformed},
		"bytes behind the stream":    {[][]byte{append(wire.Deflate(log), 0)}, wire.ErrMalformed},
		"what an agent may send":     {[][]byte{wire.Deflate(log), wire.Deflate(log)}, nil},
		"many columns, within bound": {[][]byte{wire.Deflate(columns)}, nil},
	}
	for name, c := range cases {
		body, err := p.session.SealPacked(true, c.elements...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := open(t, p.opener, body).Messages(); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	body, err := p.session.SealPacked(true, wire.Deflate(log))
	if err != nil {
		t.Fatal(err)
	}
	reserved := int64(0)
	for _, err := range open(t, p.opener, body).Lists(func(n int64) error {
		if reserved += n; reserved > 512<<10 {
			return wire.ErrBusy
		}
		return nil
	}) {
		if !errors.Is(err, wire.ErrBusy) {
			t.Errorf("inflating past the reserved memory: %v", err)
		}
	}
	if reserved > 2<<20 {
		t.Errorf("reserved %d bytes for 900 KiB", reserved)
	}
}

// A bomb uses up what it might have: a packet of many costs what a large one does,
// and the rest of it fails without being looked at.
func TestBombsUseUpThePacket(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{MaxElement: 1 << 20, MaxPacket: 3 << 20}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	bomb, small := wire.Deflate(make([]byte, 2<<20)), wire.Deflate(nil)
	body, err := p.session.SealPacked(true, small, bomb, small, bomb, small, bomb, small, bomb)
	if err != nil {
		t.Fatal(err)
	}
	var good []int
	at, reserved := 0, int64(0)
	for _, err := range open(t, p.opener, body).Lists(func(n int64) error { reserved += n; return nil }) {
		if err == nil {
			good = append(good, at)
		} else if !errors.Is(err, wire.ErrTooLarge) {
			t.Errorf("element %d: %v", at, err)
		}
		at++
	}
	if !slices.Equal(good, []int{0, 2, 4}) || at != 8 {
		t.Errorf("good elements %v of %d", good, at)
	}
	if reserved > 4<<20 {
		t.Errorf("%d bytes were inflated", reserved)
	}
}

// What a packet has too much of is not collected first.
func TestElementsAreCounted(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	for elements, want := range map[int]error{4096: nil, 4097: wire.ErrMalformed} {
		body, err := p.session.SealPacked(false, make([][]byte, elements)...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := p.opener.Open(t.Context(), body); !errors.Is(err, want) {
			t.Errorf("%d elements: %v, want %v", elements, err, want)
		}
	}
}

// A client whose key goes away while its first packet is opened has no session
// left, whichever comes first.
func TestForgottenSessionsDoNotComeBack(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	client := p.session.Client()
	gone := false
	opener, err := wire.NewOpener(wire.OpenerOptions{Identity: p.identity, Orgs: wiretest.Orgs, Keys: func(context.Context, ids.Org, ids.Client) (*rsa.PublicKey, error) {
		if gone {
			return nil, wire.ErrNoKey
		}
		gone = true // just after this look
		return &wiretest.ClientKey(t, 0).PublicKey, nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	body := seal(t, p.session, checkIn(1))
	if _, err := opener.Open(t.Context(), bytes.Clone(body)); !errors.Is(err, wire.ErrUnsure) {
		t.Errorf("key gone meanwhile: %v", err)
	}
	if got := open(t, opener, body); got.Standing != wire.Stranger {
		t.Errorf("standing %v of %s afterwards, want stranger", got.Standing, client)
	}
}

func TestStrangersInflateLittle(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	body, err := p.session.SealPacked(true, wire.Deflate(make([]byte, 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, p.opener, body).Messages(); !errors.Is(err, wire.ErrTooLarge) {
		t.Errorf("1 MiB from a stranger: %v", err)
	}
}

func TestFramesAreWhatAgentsRead(t *testing.T) {
	for want, f := range map[string]wire.Frame{
		`{"code":200}`:                          {Code: 200},
		`{"code":406,"err":"Please \"Enrol\""}`: {Code: 406, Err: `Please "Enrol"`},
		`{"code":200,"data":"WgEA"}`:            {Code: 200, Data: wire.Pad},
	} {
		got := f.Append(nil)
		if string(got) != want {
			t.Errorf("frame %s, want %s", got, want)
		}
		back, err := wire.ParseFrame(got)
		if err != nil || back.Code != f.Code || back.Err != f.Err || !bytes.Equal(back.Data, f.Data) {
			t.Errorf("back: %+v, %v", back, err)
		}
	}
	if f, err := wire.ParseFrame([]byte(`{}`)); err != nil || f.Code != 0 {
		t.Errorf("empty frame: %+v, %v", f, err)
	}
}

// What does not compress goes as it is, and comes out alike; all else is deflated.
func TestSealDeflatesOnlyWhatShrinks(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	p.keys.Set(&wiretest.ClientKey(t, 0).PublicKey)
	noise := make([]byte, 64<<10)
	rand.Read(noise)
	for name, c := range map[string]struct {
		data   []byte
		shrink bool
	}{
		"noise": {noise, false}, "zeros": {make([]byte, 64<<10), true},
	} {
		body := seal(t, p.session, &wirepb.VeloMessage{SessionId: "F.1", FileBuffer: &wirepb.FileBuffer{Data: c.data}})
		if small := len(body) < len(c.data)/2; small != c.shrink {
			t.Errorf("%s: %d bytes became %d", name, len(c.data), len(body))
		}
		messages, err := open(t, p.opener, body).Messages()
		if err != nil || len(messages) != 1 || !bytes.Equal(messages[0].FileBuffer.Data, c.data) {
			t.Errorf("%s did not come back: %v", name, err)
		}
	}
}

// A session that the server forgot costs it one private-key operation, and the client
// nothing.
func TestForgottenSessionIsMadeAnew(t *testing.T) {
	p := newPair(t, wire.OpenerOptions{}, wire.IdentityOptions{})
	key := &wiretest.ClientKey(t, 0).PublicKey
	send := func() {
		t.Helper()
		body, err := p.sealer.Seal(t.Context(), wire.Delivery{Client: ids.ClientOfKey(key), Key: key, Messages: []*wirepb.VeloMessage{{SessionId: "F.1"}}})
		if err != nil {
			t.Fatal(err)
		}
		if jobs, err := p.session.Open(t.Context(), body); err != nil || len(jobs) != 1 {
			t.Errorf("%d jobs, %v", len(jobs), err)
		}
	}
	send()
	send()
	if n := p.privateOperations(t); n != 1 {
		t.Errorf("%d private-key operations for two answers", n)
	}
	p.sealer.Forget(key)
	send()
	if n := p.privateOperations(t); n != 2 {
		t.Errorf("%d private-key operations after one session was forgotten", n)
	}
}
