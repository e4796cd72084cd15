package cluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	"github.com/hashicorp/memberlist"

	"raptorpack/ids"
)

// metaFormat is raised only when an older node must not guess at the rest. A
// field that may be ignored is simply added: decoders skip what they do not know.
const metaFormat = 1

// maxClients bounds what a node may claim, and with it the size of meta.
const maxClients = math.MaxInt32

// errMeta means that a node's metadata cannot be read. It may be of a later
// version; asking again does not help.
var errMeta = errors.New("gossip metadata cannot be read")

// meta is what a node tells of itself besides its name and gossip address, as
// JSON of at most memberlist.MetaMaxSize bytes. The golden file in testdata is
// its contract.
type meta struct {
	Format    int    `json:"v"`
	BusPort   int    `json:"bus,omitempty"` // 0: no bus
	Candidate bool   `json:"candidate,omitempty"`
	Version   string `json:"version,omitempty"`
	Clients   int    `json:"clients,omitempty"`
}

func (m meta) encode() ([]byte, error) {
	text, err := json.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode gossip metadata: %w", err)
	}
	if len(text) > memberlist.MetaMaxSize {
		return nil, fmt.Errorf("gossip metadata has %d bytes, %d at most: the version is too long", len(text), memberlist.MetaMaxSize)
	}
	return text, nil
}

func decodeMeta(data []byte) (meta, error) {
	var m meta
	if len(data) > memberlist.MetaMaxSize {
		return meta{}, fmt.Errorf("%w: %d bytes", errMeta, len(data))
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return meta{}, fmt.Errorf("%w: %w", errMeta, err)
	}
	switch {
	case m.Format != metaFormat:
		return meta{}, fmt.Errorf("%w: format %d", errMeta, m.Format)
	case m.BusPort < 0 || m.BusPort > 65535:
		return meta{}, fmt.Errorf("%w: bus port %d", errMeta, m.BusPort)
	case m.Clients < 0 || m.Clients > maxClients:
		return meta{}, fmt.Errorf("%w: %d clients", errMeta, m.Clients)
	}
	return m, nil
}

// parseIncarnation splits "<node>-<n>".
func parseIncarnation(name string) (ids.Node, uint64, error) {
	at := strings.LastIndexByte(name, '-')
	if at < 0 {
		return ids.Node{}, 0, fmt.Errorf("incarnation %.90q has no number", name)
	}
	node, err := ids.ParseNode(name[:at])
	if err != nil {
		return ids.Node{}, 0, fmt.Errorf("incarnation %.90q: %w", name, err)
	}
	number, err := strconv.ParseUint(name[at+1:], 10, 64)
	if err != nil || strconv.FormatUint(number, 10) != name[at+1:] {
		return ids.Node{}, 0, fmt.Errorf("incarnation %.90q has no number", name)
	}
	return node, number, nil
}
