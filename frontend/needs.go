package frontend

import (
	"context"
	"crypto/rsa"
	"errors"
	"time"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

var (
	// ErrPinned is what Keys.Enrol returns when another key is pinned to the
	// client id for good. Trying again does not help.
	ErrPinned = errors.New("another key is pinned to this client id")

	// ErrRefused is what Keys.Enrol returns when the operator does not let this
	// client in. It is told to come again later.
	ErrRefused = errors.New("client may not enrol")
)

// Peer is the authenticated sender of messages.
type Peer struct {
	Org      ids.Org
	Client   ids.Client
	Address  string    // IP address; the client's own where a proxy tells it
	Received time.Time // UTC, this node's clock
}

// Proof says how sure an absence must be.
type Proof uint8

const (
	// Fresh is absence in a state that is at most 5 s behind the master.
	Fresh Proof = iota

	// Confirmed is absence that the master confirmed at an index obtained after
	// the call began.
	Confirmed
)

// Keys are the pinned public keys of clients.
type Keys interface {
	// Key returns the key pinned to a client as this node's state has it,
	// wire.ErrNoKey when the state holds none, any other error when it cannot
	// tell. It answers from memory.
	Key(ctx context.Context, org ids.Org, client ids.Client) (*rsa.PublicKey, error)

	// ConfirmAbsent returns nil when the client has no key, as sure as asked.
	// Any error means that this cannot be said now.
	ConfirmAbsent(ctx context.Context, org ids.Org, client ids.Client, proof Proof) error

	// Enrol pins a key; nil means that it is durable and known to this node,
	// also when the same key was pinned before. ErrPinned, ErrRefused; any
	// other error means try again.
	Enrol(ctx context.Context, e Enrolment) error
}

// Enrolment is a request that was checked: whoever made it holds the private half,
// and its id follows from the key. Whoever sends it now may have caught it.
type Enrolment struct {
	Peer
	Key *rsa.PublicKey
}

// Collections take what clients send and have what clients shall do.
type Collections interface {
	// Ingest returns when everything that the messages caused is durable:
	// check-ins, self-reports, rows, logs, uploads, ends. An error never lets a
	// client drop data. The messages are given away.
	Ingest(ctx context.Context, peer Peer, messages []*wirepb.VeloMessage) error

	// DeadLetter keeps what can never be decoded, with its bytes; it returns
	// when they are durable.
	DeadLetter(ctx context.Context, peer Peer, reason string, data []byte) error

	// Attach begins a connection that can deliver. It is on the notifier's board
	// already, and has left it when the attachment ends. Whoever gives the client
	// work afterwards wakes it through that board.
	Attach(org ids.Org, client ids.Client) Attachment
}

// Attachment is a connection's view of the work for its client.
type Attachment interface {
	// Next takes what the client shall do now; empty when there is nothing.
	Next() []*wirepb.VeloMessage

	// Close ends the connection; what was handed out and not delivered is the
	// collections' to settle.
	Close()
}

// Sightings take the soft state of clients.
type Sightings interface {
	// Touch notes that an authenticated packet came. It must not wait.
	Touch(org ids.Org, client ids.Client, address string, at time.Time)
}

// Tenants know the nonces of orgs, both ways, from memory.
type Tenants interface {
	Org(nonce string) (ids.Org, bool)
	Nonce(org ids.Org) (string, bool)
}
