package wire

import (
	"context"
	"crypto/rsa"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"github.com/maypok86/otter/v2"
	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// SealerOptions wire a Sealer. Identity and Nonce are required.
type SealerOptions struct {
	Identity *Identity

	// Nonce tells the nonce of an org; clients drop answers without theirs.
	Nonce func(ids.Org) (string, bool)

	Sessions int  // sessions remembered; zero is 60,000
	Compress bool // zlib; the stock server does not, clients take both
}

// Sealer makes packets for clients. Each client key has a session of its own,
// which costs one private-key operation when it is first used. Safe for
// concurrent use.
type Sealer struct {
	options  SealerOptions
	sessions *otter.Cache[fingerprint, *sealed] // by the client's public key
}

// Delivery is what one answer carries to one client.
type Delivery struct {
	Org      ids.Org
	Client   ids.Client
	Key      *rsa.PublicKey
	Messages []*wirepb.VeloMessage
}

// NewSealer makes a Sealer with an empty cache.
func NewSealer(o SealerOptions) (*Sealer, error) {
	if o.Identity == nil || o.Nonce == nil {
		return nil, errors.New("wire: a sealer needs an identity and nonces")
	}
	setDefault(&o.Sessions, 60_000)
	sessions, err := newCache[*sealed](o.Sessions)
	if err != nil {
		return nil, fmt.Errorf("session cache: %w", err)
	}
	return &Sealer{options: o, sessions: sessions}, nil
}

// Seal makes one packet of all messages. ErrBusy when a new session finds no
// capacity.
func (s *Sealer) Seal(ctx context.Context, d Delivery) ([]byte, error) {
	nonce, ok := s.options.Nonce(d.Org)
	if !ok {
		return nil, fmt.Errorf("seal for %s: org %q has no nonce", d.Client, d.Org)
	}
	session, err := s.session(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", d.Client, err)
	}
	element, err := proto.Marshal(&wirepb.MessageList{Job: d.Messages})
	if err != nil {
		return nil, fmt.Errorf("seal for %s: message list: %w", d.Client, err)
	}
	list := &wirepb.PackedMessageList{Nonce: nonce, Timestamp: uint64(time.Now().UnixMicro())}
	if s.options.Compress {
		element = Deflate(element)
		list.Compression = wirepb.PackedMessageList_ZLIB
	}
	list.MessageList = [][]byte{element}
	o, err := session.pack(list)
	if err != nil {
		return nil, fmt.Errorf("seal for %s: %w", d.Client, err)
	}
	return o.append(make([]byte, 0, o.size())), nil
}

// Forget drops the session of a client's key. Packets that were sealed with it stay
// good; the next one costs a private-key operation.
func (s *Sealer) Forget(key *rsa.PublicKey) { s.sessions.Invalidate(keyName(key)) }

func keyName(key *rsa.PublicKey) fingerprint { return sha256.Sum256(key.N.Bytes()) }

func (s *Sealer) session(ctx context.Context, d Delivery) (*sealed, error) {
	name := keyName(d.Key)
	if known, ok := s.sessions.GetIfPresent(name); ok {
		return known, nil
	}
	var made *sealed
	err := s.options.Identity.private(ctx, "sign session", s.options.Identity.sealing, func(key *rsa.PrivateKey) error {
		var err error
		made, err = newSealed(key, s.options.Identity.name, d.Key)
		return err
	})
	if err != nil {
		return nil, err
	}
	made, _ = s.sessions.SetIfAbsent(name, made)
	return made, nil
}
