package client

import (
	"bytes"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"go.yaml.in/yaml/v3"
	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

// keyBits is the size of the agent's RSA key (client protocol 2.1).
const keyBits = 2048

// maxWriteback bounds what is read as a writeback; real ones have a few
// hundred kB at most (a large event table).
const maxWriteback = 64 << 20

// Keys of the writeback file.
const (
	keyInstall = "install_time"
	keyPrivate = "private_key"
	keyClient  = "client_id"
	keyServer  = "last_server_pem"
	keyEvents  = "event_queries"
)

// identityKeys are repeated in both files; the level-2 file has all others.
var identityKeys = []string{keyInstall, keyPrivate, keyClient}

// Identity is who an agent is.
type Identity struct {
	Key         *rsa.PrivateKey
	ID          ids.Client
	InstallTime time.Time // of the first start, whole seconds
}

// NewIdentity makes a new key pair.
func NewIdentity(now time.Time) (*Identity, error) {
	key, err := rsa.GenerateKey(rand.Reader, keyBits)
	if err != nil {
		return nil, fmt.Errorf("make client key: %w", err)
	}
	return &Identity{Key: key, ID: ids.ClientOfKey(&key.PublicKey), InstallTime: now.UTC().Truncate(time.Second)}, nil
}

// Writeback is the agent's state file: its identity, which is written once,
// and what it learned since (client protocol 14.1). Keys that it does not know
// are kept. Every change replaces the file as a whole, mode 0600.
//
// It is safe for concurrent use.
type Writeback struct {
	path, level2 string // level2 is empty: everything is in path

	turn chan struct{} // one slot: whoever holds it writes the files

	mu       sync.Mutex
	identity *Identity
	main     *document // the file at path
	volatile *document // the file with the volatile keys: main or level 2
	events   *wirepb.VQLEventTable
}

// OpenWriteback reads the writeback at path, or makes an identity and writes
// it if there is none. With a suffix (level2_writeback_suffix) the volatile
// state lives in path+suffix, which also repeats the identity, so that either
// file restores it. A file that exists and does not read is ErrWriteback.
func OpenWriteback(path, suffix string) (*Writeback, error) {
	w := &Writeback{path: path, turn: make(chan struct{}, 1)}
	if suffix != "" {
		w.level2 = path + suffix
	}
	main, mainErr := readDocument(path)
	second, secondErr := &document{}, error(fs.ErrNotExist)
	if w.level2 != "" {
		second, secondErr = readDocument(w.level2)
	}
	if err := w.choose(main, mainErr, second, secondErr); err != nil {
		return nil, err
	}
	return w, w.readEvents()
}

// choose finds the identity in what the two files hold and repairs the file
// that lacks it. Only when neither file exists is a new identity made.
func (w *Writeback) choose(main *document, mainErr error, second *document, secondErr error) error {
	w.main, w.volatile = main, main
	if w.level2 != "" {
		w.volatile = second
	}
	identity, err := main.identity(mainErr)
	if err == nil {
		w.identity = identity
		if w.level2 == "" {
			return nil
		}
		return w.repeatIdentity(secondErr)
	}
	other, otherErr := second.identity(secondErr)
	switch {
	case otherErr == nil:
		w.identity = other
		w.main = newDocument()
		w.main.setIdentity(other)
		return w.main.write(w.path)
	case errors.Is(err, fs.ErrNotExist) && errors.Is(otherErr, fs.ErrNotExist):
		return w.create()
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%s: %w", w.level2, otherErr)
	}
	return fmt.Errorf("%s: %w", w.path, err)
}

func (w *Writeback) create() error {
	identity, err := NewIdentity(time.Now())
	if err != nil {
		return err
	}
	w.identity, w.main = identity, newDocument()
	w.main.setIdentity(identity)
	w.volatile = w.main
	if err := w.main.write(w.path); err != nil {
		return err
	}
	if w.level2 == "" {
		return nil
	}
	return w.repeatIdentity(fs.ErrNotExist)
}

// renew replaces the identity, and forgets what belonged to the old one. The file that
// is read first is written last: until then the old identity is whole.
func (w *Writeback) renew() (*Identity, error) {
	identity, err := NewIdentity(time.Now())
	if err != nil {
		return nil, err
	}
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	next := newDocument()
	next.setIdentity(identity)
	if w.level2 != "" {
		if err := next.write(w.level2); err != nil {
			return nil, err
		}
	}
	return identity, next.write(w.path)
}

// repeatIdentity sees to it that the level-2 file carries this identity too. A
// level-2 file that cannot be read holds nothing that the server would not
// send again, so it begins afresh.
func (w *Writeback) repeatIdentity(readErr error) error {
	if readErr == nil {
		if known, err := w.volatile.identity(nil); err == nil && known.ID == w.identity.ID {
			return nil
		}
	}
	if readErr != nil {
		w.volatile = newDocument()
	}
	w.volatile.setIdentity(w.identity)
	return w.volatile.write(w.level2)
}

// Identity is who this agent is.
func (w *Writeback) Identity() *Identity { return w.identity }

// Events is the stored event table; version 0 and empty if there is none.
func (w *Writeback) Events() *wirepb.VQLEventTable {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.events
}

// readEvents decodes our own form of the table. The form of the stock agent is
// left alone and counts as none: the server sends its table again.
func (w *Writeback) readEvents() error {
	w.events = &wirepb.VQLEventTable{}
	text := w.volatile.nested(keyEvents, "table")
	if text == "" {
		return nil
	}
	data, err := base64.StdEncoding.DecodeString(text)
	if err == nil {
		err = proto.Unmarshal(data, w.events)
	}
	if err != nil {
		return fmt.Errorf("%s of %s: %w: %w", keyEvents, w.path, ErrWriteback, err)
	}
	return nil
}

// SetEvents stores an event table; when it returns nil, the table survives.
func (w *Writeback) SetEvents(table *wirepb.VQLEventTable) error {
	data, err := proto.Marshal(table)
	if err != nil {
		return fmt.Errorf("encode event table: %w", err)
	}
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	w.volatile.setMap(keyEvents, "version", strconv.FormatUint(table.GetVersion(), 10),
		"table", base64.StdEncoding.EncodeToString(data))
	if err := w.save(); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.events = table
	return nil
}

// SetServerPEM stores the last accepted server certificate.
func (w *Writeback) SetServerPEM(text []byte) error {
	w.turn <- struct{}{}
	defer func() { <-w.turn }()
	if w.volatile.text(keyServer) == string(text) {
		return nil
	}
	w.volatile.set(keyServer, string(text))
	return w.save()
}

func (w *Writeback) save() error {
	if w.level2 != "" {
		return w.volatile.write(w.level2)
	}
	return w.volatile.write(w.path)
}

// ReadIdentity decodes the identity out of a writeback's text. ErrWriteback if
// it is none.
func ReadIdentity(text []byte) (*Identity, error) {
	d, err := parseDocument(text)
	return d.identity(err)
}

// identity gives the identity in d; readErr is what reading d met.
func (d *document) identity(readErr error) (*Identity, error) {
	if readErr != nil {
		return nil, readErr
	}
	text := d.text(keyPrivate)
	if text == "" {
		return nil, fmt.Errorf("%w: no %s in it", ErrWriteback, keyPrivate)
	}
	key, err := parseKey([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrWriteback, keyPrivate, err)
	}
	seconds, _ := strconv.ParseInt(d.text(keyInstall), 10, 64) // absent in old files: 1970
	return &Identity{key, ids.ClientOfKey(&key.PublicKey), time.Unix(seconds, 0).UTC()}, nil
}

var errKey = errors.New("not an RSA private key in PEM")

func parseKey(text []byte) (*rsa.PrivateKey, error) {
	block, _ := pem.Decode(bytes.TrimSpace(text))
	if block == nil || block.Type != "RSA PRIVATE KEY" {
		return nil, errKey
	}
	key, err := x509.ParsePKCS1PrivateKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errKey, err)
	}
	return key, nil
}

func (d *document) setIdentity(i *Identity) {
	block := &pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(i.Key)}
	values := []string{strconv.FormatInt(i.InstallTime.Unix(), 10), string(pem.EncodeToMemory(block)), i.ID.String()}
	for n, key := range identityKeys {
		d.set(key, values[n])
	}
}

// readDocument reads a file; fs.ErrNotExist and other errors of the disk come
// as they are, so that a disk that does not answer is never taken for "new".
func readDocument(path string) (*document, error) {
	info, err := os.Stat(path)
	if err != nil {
		return &document{}, fmt.Errorf("read writeback: %w", err)
	}
	if info.Size() > maxWriteback || !info.Mode().IsRegular() {
		return &document{}, fmt.Errorf("%w: %d bytes, mode %s", ErrWriteback, info.Size(), info.Mode())
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return &document{}, fmt.Errorf("read writeback: %w", err)
	}
	return parseDocument(text)
}

// document is a YAML mapping whose unknown keys survive a rewrite.
type document struct{ root yaml.Node }

func newDocument() *document {
	return &document{yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}}
}

func parseDocument(text []byte) (*document, error) {
	var d document
	if err := yaml.Unmarshal(text, &d.root); err != nil {
		return &document{}, fmt.Errorf("%w: %w", ErrWriteback, err)
	}
	if d.root.Kind != yaml.DocumentNode || len(d.root.Content) != 1 || d.root.Content[0].Kind != yaml.MappingNode {
		return &document{}, fmt.Errorf("%w: not a YAML mapping", ErrWriteback)
	}
	return &document{*d.root.Content[0]}, nil
}

func child(mapping *yaml.Node, key string) *yaml.Node {
	for i := 0; i+1 < len(mapping.Content); i += 2 {
		if mapping.Content[i].Value == key {
			return mapping.Content[i+1]
		}
	}
	return nil
}

func (d *document) text(key string) string {
	if n := child(&d.root, key); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func (d *document) nested(key, inner string) string {
	n := child(&d.root, key)
	if n == nil || n.Kind != yaml.MappingNode {
		return ""
	}
	if n = child(n, inner); n != nil && n.Kind == yaml.ScalarNode {
		return n.Value
	}
	return ""
}

func scalar(value string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Value: value}
	if _, err := strconv.ParseUint(value, 10, 64); err == nil {
		n.Tag = "!!int"
		return n
	}
	n.Tag = "!!str"
	if strings.Contains(value, "\n") {
		n.Style = yaml.LiteralStyle
	}
	return n
}

func (d *document) set(key, value string) { d.put(key, scalar(value)) }

// setMap puts a mapping of keys and values in turn.
func (d *document) setMap(key string, pairs ...string) {
	n := &yaml.Node{Kind: yaml.MappingNode, Tag: "!!map"}
	for i := 0; i < len(pairs); i += 2 {
		n.Content = append(n.Content, scalar(pairs[i]), scalar(pairs[i+1]))
	}
	d.put(key, n)
}

func (d *document) put(key string, value *yaml.Node) {
	if n := child(&d.root, key); n != nil {
		*n = *value
		return
	}
	d.root.Content = append(d.root.Content, scalar(key), value)
}

func (d *document) write(path string) error {
	text, err := yaml.Marshal(&d.root)
	if err != nil {
		return fmt.Errorf("encode writeback: %w", err)
	}
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("write writeback: %w", err)
	}
	return nil
}
