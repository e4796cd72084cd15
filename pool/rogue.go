package pool

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"raptorpack/client"
	"raptorpack/proto/wirepb"
	"raptorpack/wire"
)

// rogue posts what its agent should not, over a connection of its own: the agent
// beside it goes on as if nothing were.
type rogue struct {
	agent   *agent
	options *client.Options
	session *wire.Session
	url     string
	turn    int
}

// maxKept bounds the bytes of a batch that is kept to be sent again.
const maxKept = 1 << 20

// keep notes a batch that was acknowledged, if it is not too large.
func (a *agent) keep(messages [][]byte) {
	size := 0
	kept := make([][]byte, len(messages)) // the slice is its caller's
	for i, m := range messages {
		size += len(m)
		kept[i] = m
	}
	if size > maxKept {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.last = kept
}

// misbehave starts the agent's rogue, if its manner takes one. The function that is
// returned waits for its end, which comes with that of ctx.
func (a *agent) misbehave(ctx context.Context, o *client.Options) (ended func() error) {
	switch a.manner {
	case resend, garbage, forge:
	default:
		return func() error { return nil }
	}
	r := &rogue{agent: a, options: o}
	done := make(chan error, 1) // one answer
	ctx, stop := context.WithCancel(ctx)
	go func() { done <- r.run(ctx) }()
	return func() error {
		stop()
		return <-done
	}
}

func (r *rogue) run(ctx context.Context) error {
	manners := &r.agent.pool.options.Manners
	for {
		// Not all at the same moment.
		wait(ctx, manners.Every/2+rand.N(manners.Every))
		if ctx.Err() != nil {
			return nil
		}
		packet, counted, err := r.packet(ctx)
		if err == nil && packet != nil {
			err = r.post(ctx, packet, counted)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			r.session = nil // another server has other keys
			r.agent.pool.options.Logger.Debug("misdeed went wrong", "number", r.agent.number, "err", err)
		}
	}
}

// packet is the next misdeed, and where it is counted; nil when there is nothing to do.
func (r *rogue) packet(ctx context.Context) ([]byte, *atomic.Int64, error) {
	if err := r.greet(ctx); err != nil {
		return nil, nil, err
	}
	count := &r.agent.pool.count
	r.turn++
	switch r.agent.manner {
	case resend:
		packet, err := r.again()
		return packet, &count.resends, err
	case forge:
		packet, err := r.session.SealMessages(r.forged()...)
		return packet, &count.forgeries, err
	default:
		packet, err := r.nonsense()
		return packet, &count.garbage, err
	}
}

// greet makes a session with one of the servers, if there is none.
func (r *rogue) greet(ctx context.Context) error {
	if r.session != nil {
		return nil
	}
	r.url = r.options.ServerURLs[rand.IntN(len(r.options.ServerURLs))]
	text, err := r.options.Transport.ServerPEM(ctx, r.url)
	if err != nil {
		return err
	}
	server, err := wire.CheckServer(text, wire.Trust{CA: r.options.CA, PinnedName: r.options.PinnedName})
	if err != nil {
		return err
	}
	r.session, err = wire.NewSession(wire.SessionOptions{Key: r.options.Identity.Key, Server: server, Nonce: r.options.Nonce})
	return err
}

// again is the batch that was acknowledged last, sealed anew.
func (r *rogue) again() ([]byte, error) {
	r.agent.mu.Lock()
	messages := r.agent.last
	r.agent.mu.Unlock()
	if len(messages) == 0 {
		return nil, nil
	}
	var list []byte
	for _, m := range messages {
		list = protowire.AppendTag(list, 1, protowire.BytesType)
		list = protowire.AppendBytes(list, m)
	}
	return r.session.Seal(list)
}

// nonsense is bytes by chance, then sealed ones, then a packet without its end.
func (r *rogue) nonsense() ([]byte, error) {
	bytes := make([]byte, 1+rand.IntN(4096))
	for i := range bytes {
		bytes[i] = byte(rand.Uint32())
	}
	switch r.turn % 3 {
	case 0:
		return bytes, nil
	case 1:
		return r.session.SealPacked(r.turn%2 == 0, bytes)
	}
	packet, err := r.session.Seal(bytes)
	if err != nil {
		return nil, err
	}
	return packet[:len(packet)/2], nil
}

// forged are a row and the end of a flow that nobody asked this agent for: one that
// looks like a collection, or like a hunt's.
func (r *rogue) forged() []*wirepb.VeloMessage {
	flow := fmt.Sprintf("F.FORGED%07d", rand.IntN(10_000_000))
	if r.turn%2 == 0 {
		flow += ".H"
	}
	row := &wirepb.VQLResponse{
		Query: &wirepb.VQLRequest{Name: "Generic.Client.Info/BasicInformation"}, JsonlResponse: `{"Hostname":"forged","OS":"forged"}` + "\n",
		TotalRows: 1, Timestamp: uint64(time.Now().UnixMicro()),
	}
	end := &wirepb.FlowStats{
		FlowComplete: true,
		QueryStatus:  []*wirepb.VeloStatus{{Status: wirepb.VeloStatus_OK, ResultRows: 1, NamesWithResponse: []string{row.Query.Name}}},
	}
	return []*wirepb.VeloMessage{{SessionId: flow, VqlResponse: row}, {SessionId: flow, FlowStats: end}}
}

// errRefused is any answer but 200.
var errRefused = errors.New("the server refused it")

func (r *rogue) post(ctx context.Context, packet []byte, counted *atomic.Int64) error {
	e, err := r.options.Transport.Endpoint(r.url, wire.PathControl)
	if err != nil {
		return err
	}
	defer e.Close()
	ctx, stop := context.WithTimeout(ctx, r.agent.pool.options.Manners.Every+time.Minute)
	defer stop()
	counted.Add(1)
	answer, err := e.Exchange(ctx, wire.Request{Packet: packet})
	if err == nil && answer.Code != 200 {
		err = fmt.Errorf("%w: status %d %s", errRefused, answer.Code, answer.Text)
	}
	return err
}
