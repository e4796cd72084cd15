package wire

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha1" // fixed by the protocol, section 4.2
	"crypto/sha256"
	"fmt"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

const (
	replySessions = 16        // nodes of a pack each bring their own cipher
	maxReply      = 128 << 20 // inflated bytes of one answer that an agent takes
)

// SessionOptions are what an agent needs to talk to one server identity.
type SessionOptions struct {
	Key    *rsa.PrivateKey // the agent's own
	Server *ServerIdentity // from CheckServer
	Nonce  string          // Client.nonce of the configuration

	// DisableCompression sends elements as they are (Client.disable_compression).
	DisableCompression bool
}

// Session is an agent's side of the message layer with one server identity. Its
// sealed cipher stays the same for its whole life; after each CheckServer a new
// Session is due. Safe for concurrent use.
type Session struct {
	options SessionOptions
	client  ids.Client
	out     sealed

	mu      sync.Mutex
	replies map[fingerprint]properties
}

// sealed is one direction's constant part: the secrets, and how the recipient
// learns them.
type sealed struct {
	properties
	cipher   []byte
	metadata []byte
}

// NewSession makes the secrets of a session and signs them: one private-key
// operation.
func NewSession(o SessionOptions) (*Session, error) {
	client := ids.ClientOfKey(&o.Key.PublicKey)
	out, err := newSealed(o.Key, client.String(), o.Server.Key)
	if err != nil {
		return nil, fmt.Errorf("session of %s with %s: %w", client, o.Server.Name, err)
	}
	return &Session{options: o, client: client, out: *out, replies: make(map[fingerprint]properties)}, nil
}

// newSealed makes new secrets, signed by the sender, sealed for the recipient.
func newSealed(sender *rsa.PrivateKey, source string, recipient *rsa.PublicKey) (*sealed, error) {
	s := &sealed{properties: newProperties()}
	plain, err := s.marshal()
	if err != nil {
		return nil, fmt.Errorf("cipher properties: %w", err)
	}
	digest := sha256.Sum256(plain)
	signature, err := rsa.SignPKCS1v15(rand.Reader, sender, crypto.SHA256, digest[:])
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	if s.cipher, err = rsa.EncryptOAEP(sha1.New(), rand.Reader, recipient, plain, nil); err != nil {
		return nil, fmt.Errorf("seal cipher: %w", err)
	}
	metadata, err := proto.Marshal(&wirepb.CipherMetadata{Source: source, Signature: signature})
	if err != nil {
		return nil, fmt.Errorf("cipher metadata: %w", err)
	}
	if s.metadata, err = s.encrypt(metadata, s.metadataIV[:]); err != nil {
		return nil, fmt.Errorf("cipher metadata: %w", err)
	}
	return s, nil
}

// pack encrypts one PackedMessageList.
func (s *sealed) pack(list *wirepb.PackedMessageList) (*outer, error) {
	plain, err := proto.Marshal(list)
	if err != nil {
		return nil, fmt.Errorf("message list: %w", err)
	}
	o := &outer{cipher: s.cipher, metadata: s.metadata, iv: make([]byte, keySize), version: APIVersion}
	rand.Read(o.iv)
	if o.encrypted, err = s.encrypt(plain, o.iv); err != nil {
		return nil, err
	}
	o.mac = s.mac(o)
	return o, nil
}

// Client is the identity that follows from the agent's key.
func (s *Session) Client() ids.Client { return s.client }

// Server is the identity this session speaks to.
func (s *Session) Server() *ServerIdentity { return s.options.Server }

// Seal packs serialized MessageLists (protocol section 4.5) into one packet.
// Several one-job lists may be concatenated to one element; keep an element
// below a quarter of max_upload_size. Lists are not kept and not changed.
func (s *Session) Seal(lists ...[]byte) ([]byte, error) {
	if s.options.DisableCompression {
		return s.SealPacked(false, lists...)
	}
	deflated := make([][]byte, len(lists))
	before, after := 0, 0
	for i, list := range lists {
		deflated[i] = Deflate(list)
		before, after = before+len(list), after+len(deflated[i])
	}
	if after > before-before/16 {
		// Uploads of what is compressed already: inflating it would cost the server
		// more than the few bytes that it saves.
		return s.SealPacked(false, lists...)
	}
	return s.SealPacked(true, deflated...)
}

// SealPacked is Seal for elements that are all Deflate's output already, or all
// plain.
func (s *Session) SealPacked(deflated bool, elements ...[]byte) ([]byte, error) {
	list := &wirepb.PackedMessageList{
		MessageList: elements, Nonce: s.options.Nonce, Timestamp: uint64(time.Now().UnixMicro()),
	}
	if deflated {
		list.Compression = wirepb.PackedMessageList_ZLIB
	}
	o, err := s.out.pack(list)
	if err != nil {
		return nil, fmt.Errorf("seal: %w", err)
	}
	return o.appendHeadFirst(make([]byte, 0, o.size())), nil
}

// SealMessages serializes messages as one element and seals it.
func (s *Session) SealMessages(messages ...*wirepb.VeloMessage) ([]byte, error) {
	list, err := proto.Marshal(&wirepb.MessageList{Job: messages})
	if err != nil {
		return nil, fmt.Errorf("message list: %w", err)
	}
	return s.Seal(list)
}

// Open returns the jobs in a server's answer: none for an empty body and for
// pads. It changes body. ErrMalformed, ErrForged (MAC, nonce, source or
// signature) or ErrTooLarge otherwise; nothing of such an answer may be run.
func (s *Session) Open(_ context.Context, body []byte) ([]*wirepb.VeloMessage, error) {
	o, err := scanOuter(body)
	if err != nil {
		return nil, err
	}
	if o.empty() {
		return nil, nil
	}
	p, err := s.reply(&o)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", s.options.Server.Name, err)
	}
	plain, err := p.decrypt(o.encrypted, o.iv)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", s.options.Server.Name, err)
	}
	list, err := scanPacked(plain)
	if err != nil {
		return nil, fmt.Errorf("answer of %s: %w", s.options.Server.Name, err)
	}
	if string(list.nonce) != s.options.Nonce {
		return nil, fmt.Errorf("answer of %s: nonce: %w", s.options.Server.Name, ErrForged)
	}
	return list.decode(limits{element: maxReply, packet: maxReply}, nil)
}

// reply returns the secrets of an answer after checking that they are the
// server's, and the answer's MAC.
func (s *Session) reply(o *outer) (properties, error) {
	name := fingerprintOf(o.cipher)
	s.mu.Lock()
	p, known := s.replies[name]
	s.mu.Unlock()
	if known {
		return p, p.checkMAC(o)
	}
	c, err := openCipher(s.options.Key, o)
	if err != nil {
		return properties{}, err
	}
	if c.source != s.options.Server.Name {
		return properties{}, fmt.Errorf("source %.80q: %w", c.source, ErrForged)
	}
	if err := c.verify(s.options.Server.Key); err != nil {
		return properties{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.replies) >= replySessions {
		clear(s.replies)
	}
	s.replies[name] = c.properties
	return c.properties, nil
}

// opened is a cipher after the private-key operation: its secrets and who
// claims to have made them.
type opened struct {
	properties
	source    string
	signature []byte
	digest    [sha256.Size]byte // of the exact CipherProperties bytes
}

// openCipher does OAEP, MAC and metadata, in this order (protocol section 4.7).
func openCipher(key *rsa.PrivateKey, o *outer) (*opened, error) {
	plain, err := rsa.DecryptOAEP(sha1.New(), nil, key, o.cipher, nil)
	if err != nil {
		return nil, fmt.Errorf("sealed cipher of %d bytes: %w", len(o.cipher), ErrForged)
	}
	c := &opened{digest: sha256.Sum256(plain)}
	if c.properties, err = parseProperties(plain); err != nil {
		return nil, err
	}
	if err := c.checkMAC(o); err != nil {
		return nil, err
	}
	sealedMetadata := append([]byte(nil), o.metadata...) // the MAC of a caller's retry still covers it
	metadata, err := c.decrypt(sealedMetadata, c.metadataIV[:])
	if err != nil {
		return nil, fmt.Errorf("cipher metadata: %w", err)
	}
	var m wirepb.CipherMetadata
	if err := proto.Unmarshal(metadata, &m); err != nil {
		return nil, fmt.Errorf("cipher metadata: %w", ErrMalformed)
	}
	c.source, c.signature = m.Source, m.Signature
	return c, nil
}

// verify checks the signature with the sender's key.
func (c *opened) verify(sender *rsa.PublicKey) error {
	if err := rsa.VerifyPKCS1v15(sender, crypto.SHA256, c.digest[:], c.signature); err != nil {
		return fmt.Errorf("signature of %.80q: %w", c.source, ErrForged)
	}
	return nil
}
