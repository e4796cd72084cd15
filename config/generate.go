package config

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"
	"strconv"
	"time"

	"go.yaml.in/yaml/v3"
)

// ErrExists means that the output file is there already. It is never replaced,
// since it may hold the only copy of a deployment's keys.
var ErrExists = errors.New("the file exists already")

// GenerateOptions say what a new deployment looks like.
type GenerateOptions struct {
	Datastore string // folder of the filestore; empty: the default
	Hostname  string // public name that agents dial; empty: localhost
	MergeJSON string // a partial file laid over the result
	Now       time.Time
}

// Generate makes a complete server file with keys of its own.
func Generate(o GenerateOptions) ([]byte, error) {
	file := &File{}
	ca, err := NewCA(o.Now)
	if err != nil {
		return nil, err
	}
	file.CA.PrivateKey = ca.PrivateKey
	file.Client.CACertificate = ca.Certificate
	file.Client.Nonce = secretText(8)
	file.ObfuscationNonce = secretText(8)
	file.Frontend.Hostname = o.Hostname
	if o.Datastore != "" {
		file.Datastore.Location = o.Datastore
	}
	file.Frontend.DefaultClientMonitoring = []string{"Generic.Client.Stats"}
	setDefaults(reflect.ValueOf(file).Elem())
	file.deriveDefaults()
	file.clientDefaults()
	if err := file.issueServerKeys(o.Now); err != nil {
		return nil, err
	}
	if err := file.addPackKeys(o.Now); err != nil {
		return nil, err
	}
	return render(file, o.MergeJSON)
}

func (f *File) clientDefaults() {
	c := &f.Client
	c.ServerURLs = []string{"https://" + f.Frontend.Hostname + ":" + strconv.Itoa(f.Frontend.BindPort) + "/"}
	c.UseSelfSignedSSL = true
	c.WritebackLinux = "/etc/raptorpack.writeback.yaml"
	c.WritebackDarwin = "/etc/raptorpack.writeback.yaml"
	c.WritebackWindows = `$ProgramFiles\Raptorpack\raptorpack.writeback.yaml`
	c.Level2Suffix = ".bak"
	c.NannyMaxConnectionSeconds = 600
	c.LocalBuffer.DiskBytes = 1 << 30
	c.LocalBuffer.FilenameLinux = "/var/tmp/raptorpack_buffer.bin"
	c.LocalBuffer.FilenameDarwin = "/var/tmp/raptorpack_buffer.bin"
	c.LocalBuffer.FilenameWindows = "$TEMP/raptorpack_buffer.bin"
}

func (f *File) caPair() Pair { return Pair{f.Client.CACertificate, f.CA.PrivateKey} }

func (f *File) issueServerKeys(now time.Time) error {
	server, err := NewServer(f.caPair(), f.Client.PinnedServerName, f.Security.CertificateValidityDays, now)
	if err != nil {
		return fmt.Errorf("make the server's certificate: %w", err)
	}
	f.Frontend.Certificate, f.Frontend.PrivateKey = server.Certificate, server.PrivateKey
	return nil
}

// addPackKeys adds what a stock file lacks: keys of the bus and of gossip.
func (f *File) addPackKeys(now time.Time) error {
	if f.Bus.Certificate == "" {
		node, err := NewNode(f.caPair(), f.Security.CertificateValidityDays, now)
		if err != nil {
			return fmt.Errorf("make the nodes' certificate: %w", err)
		}
		f.Bus.Certificate, f.Bus.PrivateKey = node.Certificate, node.PrivateKey
	}
	if f.Gossip.Key == "" {
		f.Gossip.Key = secretText(32)
	}
	return nil
}

// RotateKeys returns the file at path with a new server key (agents follow by
// themselves, since they fetch server.pem anew) and new bus and gossip keys.
func RotateKeys(path string, now time.Time) ([]byte, error) {
	return edit(path, func(f *File) error {
		if err := f.issueServerKeys(now); err != nil {
			return err
		}
		if f.Bus.Certificate == "" {
			return nil
		}
		f.Bus.Certificate, f.Gossip.Key = "", ""
		return f.addPackKeys(now)
	})
}

// Upgrade returns the file at path with the keys that a pack of several nodes
// needs; everything that is there stays as it is, comments included.
func Upgrade(path string, now time.Time) ([]byte, error) {
	return edit(path, func(f *File) error { return f.addPackKeys(now) })
}

// edit changes key fields of a file and leaves all of its other text alone. A key
// that the file only refers to is refused: its new value would not get to where it
// is kept, and would stand here in clear.
func edit(path string, change func(*File) error) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	loaded, err := Parse(path, raw, Options{})
	if err != nil {
		return nil, err
	}
	before, after := *loaded.File, loaded.File
	if err := change(after); err != nil {
		return nil, err
	}
	root, err := parseTree(path, raw)
	if err != nil {
		return nil, err
	}
	for _, k := range []struct{ section, key, before, after string }{
		{"Frontend", "certificate", before.Frontend.Certificate, after.Frontend.Certificate},
		{"Frontend", "private_key", before.Frontend.PrivateKey, after.Frontend.PrivateKey},
		{"Bus", "certificate", before.Bus.Certificate, after.Bus.Certificate},
		{"Bus", "private_key", before.Bus.PrivateKey, after.Bus.PrivateKey},
		{"Gossip", "key", before.Gossip.Key, after.Gossip.Key},
	} {
		if k.before == k.after {
			continue
		}
		if node := lookup(lookup(root, k.section), k.key); node != nil && refers(node.Value) {
			return nil, &Invalid{[]Problem{{
				File: path, Line: node.Line, Key: k.section + "." + k.key,
				Message: fmt.Sprintf("would be made anew, but is kept elsewhere, as %s: put the key itself here for the time of the change", node.Value),
			}}}
		}
		setText(root, k.after, k.section, k.key)
	}
	return encode(root)
}

func setText(root *yaml.Node, text, section, key string) {
	over := &yaml.Node{}
	// Encoding two levels of plain text maps cannot go wrong.
	_ = over.Encode(map[string]map[string]string{section: {key: text}})
	overlay(root, over)
}

// ClientFile returns the file that agents are given: the Client section alone.
func (f *File) ClientFile() ([]byte, error) {
	return render(&File{Client: f.Client}, "")
}

// APIClient is the file that a program is given to reach the gRPC door. Keys are
// those of the Velociraptor API client file.
type APIClient struct {
	CACertificate    string `yaml:"ca_certificate"`
	ClientCert       string `yaml:"client_cert"`
	ClientPrivateKey string `yaml:"client_private_key"`
	ConnectionString string `yaml:"api_connection_string"`
	Name             string `yaml:"name"`
	PinnedServerName string `yaml:"pinned_server_name,omitempty"`
	MaxGRPCRecvSize  int    `yaml:"max_grpc_recv_size,omitempty"`
}

// NewAPIClient signs a certificate for user and wraps it into a file.
func (f *File) NewAPIClient(user string, now time.Time) (*APIClient, error) {
	pair, err := NewCaller(f.caPair(), user, f.Security.CertificateValidityDays, now)
	if err != nil {
		return nil, fmt.Errorf("make a certificate for %s: %w", user, err)
	}
	client := &APIClient{
		CACertificate: f.Client.CACertificate, ClientCert: pair.Certificate, ClientPrivateKey: pair.PrivateKey,
		ConnectionString: f.API.Hostname + ":" + strconv.Itoa(f.API.BindPort), Name: user,
	}
	if f.Client.PinnedServerName != defaultPinnedName {
		client.PinnedServerName = f.Client.PinnedServerName
	}
	return client, nil
}

const defaultPinnedName = "VelociraptorServer"

// LoadAPIClient reads an API client file.
func LoadAPIClient(path string) (*APIClient, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read API client file: %w", err)
	}
	client := &APIClient{}
	if err := yaml.Unmarshal(raw, client); err != nil {
		return nil, &Invalid{[]Problem{{File: path, Message: err.Error()}}}
	}
	if client.PinnedServerName == "" {
		client.PinnedServerName = defaultPinnedName
	}
	return client, nil
}

// Marshal returns the file's text.
func (c *APIClient) Marshal() ([]byte, error) { return yaml.Marshal(c) }

// LocalCaller signs a short-lived identity for a command on the server's host.
func (f *File) LocalCaller(user string, now time.Time) (Pair, error) {
	return NewLocalCaller(f.caPair(), user, now)
}

// Show returns the effective file with every secret replaced.
func (f *File) Show() ([]byte, error) {
	shown := *f
	hideSecrets(reflect.ValueOf(&shown).Elem())
	hidden := Ignored{&yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: "<hidden>"}}
	for _, part := range []*Ignored{&shown.Nodes, &shown.ExtraFrontends, &shown.APIConfig, &shown.GUI.Authenticator, &shown.GUI.InitialUsers, &shown.GUI.InitialOrgs, &shown.Frontend.DynDNS, &shown.Remappings, &shown.Autoexec} {
		if !part.IsZero() {
			*part = hidden // may hold keys of its own
		}
	}
	return render(&shown, "")
}

func hideSecrets(v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if field.Type.Kind() == reflect.Struct && field.Type != reflect.TypeFor[Ignored]() {
			hideSecrets(v.Field(i))
			continue
		}
		if field.Tag.Get("secret") != "" && v.Field(i).String() != "" {
			v.Field(i).SetString("<hidden>")
		}
	}
}

// WriteNew writes a file that must not exist yet, readable by its owner only.
func WriteNew(path string, text []byte) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("write %s: %w", path, ErrExists)
	}
	if err != nil {
		return fmt.Errorf("write configuration: %w", err)
	}
	_, err = file.Write(text)
	return errors.Join(err, file.Sync(), file.Close())
}

// Replace replaces a file in one step. Owner, group and mode stay what they are;
// where they cannot, nothing is changed.
func Replace(path string, text []byte) error {
	if err := replaceFile(path, text); err != nil {
		return fmt.Errorf("replace configuration: %w", err)
	}
	return nil
}

func render(file *File, merge string) ([]byte, error) {
	root := &yaml.Node{}
	if err := root.Encode(file); err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	if merge != "" {
		over, err := parseTree("merged text", []byte(merge))
		if err != nil {
			return nil, err
		}
		overlay(root, over)
	}
	return encode(root)
}

func encode(root *yaml.Node) ([]byte, error) {
	var out bytes.Buffer
	encoder := yaml.NewEncoder(&out)
	encoder.SetIndent(2)
	if err := encoder.Encode(root); err != nil {
		return nil, fmt.Errorf("encode configuration: %w", err)
	}
	return out.Bytes(), nil
}
