package config

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"

	"go.yaml.in/yaml/v3"
)

// ErrInvalid means that a file has problems that keep a process from starting.
// Trying again does not help; Problems of the error's Invalid say where.
var ErrInvalid = errors.New("invalid configuration")

// Invalid is the error of Load for a file with errors.
type Invalid struct{ Problems []Problem }

// Error prints one line for each problem.
func (e *Invalid) Error() string {
	var text bytes.Buffer
	for i, p := range e.Problems {
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(p.String())
	}
	return text.String()
}

// Unwrap makes errors.Is(err, ErrInvalid) true.
func (e *Invalid) Unwrap() error { return ErrInvalid }

// Options say how a file is read.
type Options struct {
	// Node names the section Nodes.NAME, or the ExtraFrontends entry
	// <hostname>-<bind_port>, that is merged over the file. Empty: none.
	Node string

	// PortOffset is added to every port of the file, for packs on one host.
	PortOffset int

	// ClientOnly reads the Client section alone, as an agent does.
	ClientOnly bool

	// MergeJSON is a partial file, in YAML or JSON, merged over everything else.
	MergeJSON string
}

// Loaded is a file with what was noticed while reading it.
type Loaded struct {
	*File
	Path     string
	Warnings []Problem
	// Inert lists keys that are known and have no effect here, as dotted paths.
	Inert []string
	// Origin gives the line that each present key stands at.
	Origin map[string]int
}

// Load reads, merges, decodes and checks the file at path.
func Load(path string, o Options) (*Loaded, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	loaded, err := Parse(path, raw, o)
	if err != nil {
		return nil, err
	}
	if info, err := os.Stat(path); err == nil && info.Mode().Perm()&0o004 != 0 && loaded.hasSecrets() {
		loaded.Warnings = append(loaded.Warnings, Problem{
			File: path, Warning: true,
			Message: fmt.Sprintf("mode %04o lets everybody read private keys; chmod 0600", info.Mode().Perm()),
		})
	}
	loaded.Warnings = append(loaded.Warnings, readableKeyFiles(path, loaded.File)...)
	return loaded, nil
}

// Parse is Load for a text that is in memory; path only names it.
func Parse(path string, raw []byte, o Options) (*Loaded, error) {
	root, err := parseTree(path, raw)
	if err != nil {
		return nil, err
	}
	if o.Node != "" {
		if err := mergeNode(path, root, o.Node); err != nil {
			return nil, err
		}
	}
	if o.MergeJSON != "" {
		over, err := parseTree("merged text", []byte(o.MergeJSON))
		if err != nil {
			return nil, err
		}
		overlay(root, over)
	}
	d := &decoder{file: path, origin: map[string]int{}}
	file := &File{}
	d.value(root, reflect.ValueOf(file).Elem(), "")
	d.resolveSecrets(reflect.ValueOf(file).Elem(), "")
	setDefaults(reflect.ValueOf(file).Elem())
	file.deriveDefaults()
	if o.PortOffset != 0 {
		file.shiftPorts(o.PortOffset)
	}
	d.check(file, o.ClientOnly)
	loaded := &Loaded{File: file, Path: path, Inert: d.inert, Origin: d.origin}
	var failures []Problem
	for _, p := range d.problems {
		if p.Warning {
			loaded.Warnings = append(loaded.Warnings, p)
		} else {
			failures = append(failures, p)
		}
	}
	if failures != nil {
		return nil, &Invalid{failures}
	}
	return loaded, nil
}

func parseTree(path string, raw []byte) (*yaml.Node, error) {
	var document yaml.Node
	if err := yaml.Unmarshal(raw, &document); err != nil {
		return nil, &Invalid{[]Problem{{File: path, Message: err.Error()}}}
	}
	if len(document.Content) == 0 {
		return nil, &Invalid{[]Problem{{File: path, Message: "the file is empty"}}}
	}
	return document.Content[0], nil
}

// mergeNode lays the named node's section over the rest of the file.
func mergeNode(path string, root *yaml.Node, name string) error {
	if nodes := lookup(root, "Nodes"); nodes != nil {
		if section := lookup(nodes, name); section != nil {
			overlay(root, section)
			return nil
		}
	}
	if extras := lookup(root, "ExtraFrontends"); extras != nil {
		for _, extra := range extras.Content {
			host, port := lookup(extra, "hostname"), lookup(extra, "bind_port")
			if host != nil && port != nil && host.Value+"-"+port.Value == name {
				overlay(lookup(root, "Frontend"), extra)
				return nil
			}
		}
	}
	// A node without a section of its own runs with the file as it is: adding
	// capacity needs no edit of anybody's file.
	return nil
}

func lookup(node *yaml.Node, key string) *yaml.Node {
	if node == nil || node.Kind != yaml.MappingNode {
		return nil
	}
	for i := 0; i+1 < len(node.Content); i += 2 {
		if node.Content[i].Value == key {
			return node.Content[i+1]
		}
	}
	return nil
}

// overlay lays over on base: sections are merged, everything else replaced.
func overlay(base, over *yaml.Node) {
	if base == nil || over == nil || base.Kind != yaml.MappingNode || over.Kind != yaml.MappingNode {
		return
	}
	for i := 0; i+1 < len(over.Content); i += 2 {
		key, value := over.Content[i], over.Content[i+1]
		existing := lookup(base, key.Value)
		switch {
		case existing == nil:
			base.Content = append(base.Content, key, value)
		case existing.Kind == yaml.MappingNode && value.Kind == yaml.MappingNode:
			overlay(existing, value)
		default:
			*existing = *value
		}
	}
}

func (f *File) deriveDefaults() {
	if f.Datastore.FilestoreDirectory == "" {
		f.Datastore.FilestoreDirectory = f.Datastore.Location
	}
	f.Datastore.FilestoreDirectory = filepath.Clean(f.Datastore.FilestoreDirectory)
}

func (f *File) shiftPorts(by int) {
	ports := []*int{&f.Frontend.BindPort, &f.API.BindPort, &f.GUI.BindPort, &f.Monitoring.BindPort, &f.Bus.BindPort, &f.Gossip.BindPort}
	for _, port := range ports {
		*port += by
	}
}

func (l *Loaded) hasSecrets() bool {
	return l.CA.PrivateKey != "" || l.Frontend.PrivateKey != "" || l.Bus.PrivateKey != "" || l.Gossip.Key != ""
}

// readableKeyFiles warns of TLS key files that everybody may read.
func readableKeyFiles(path string, f *File) []Problem {
	name := f.Frontend.TLSPrivateKeyFilename
	if name == "" {
		return nil
	}
	info, err := os.Stat(name)
	if err != nil || info.Mode().Perm()&0o004 == 0 {
		return nil
	}
	return []Problem{{
		File: path, Key: "Frontend.tls_private_key_filename", Warning: true,
		Message: name + " has mode 0" + strconv.FormatUint(uint64(info.Mode().Perm()), 8) + ": everybody may read the key",
	}}
}
