package clients

import (
	"errors"
	"slices"
	"strings"
	"time"

	"raptorpack/ids"
)

var (
	// ErrUnknownClient means that no client of that id is enrolled. Trying again
	// helps only if it is about to enrol.
	ErrUnknownClient = errors.New("unknown client")

	// ErrKeyPinned means that another public key is enrolled for that id. It never
	// goes away by itself: somebody forges, or the client must be deleted first.
	ErrKeyPinned = errors.New("another key is pinned to this client id")

	// ErrRefused means that a change is malformed. Trying again does not help.
	ErrRefused = errors.New("change refused")
)

// Bounds of what one client may make us keep.
const (
	maxTextBytes = 1 << 10
	maxLabels    = 200
	maxMACs      = 64
	maxUsers     = 256
	maxMetadata  = 200
)

// Record is what the pack agrees on about one client, as it stood when it was
// asked for. Nothing in it changes later; its slices and maps are the caller's.
type Record struct {
	Org     ids.Org
	Client  ids.Client
	Ordinal uint32 // dense number of this client within its org, never used again

	FirstSeen     time.Time
	Hostname      string
	FQDN          string
	System        string // windows, linux, darwin
	Release       string
	Architecture  string
	Version       string
	Name          string
	BuildTime     string
	BuildURL      string
	InstallTime   int64 // unix seconds
	MACs          []string
	Users         []string
	Labels        []string // as written by whoever set them, sorted, unique without regard to case
	LabelsChanged time.Time
	Metadata      map[string]string
	Interrogation ids.Flow // the newest flow that asked about the host
	Interrogated  time.Time
	Answered      ids.Flow // the interrogation that Interrogated speaks of
}

// HasLabel reports whether the client carries label; case is ignored.
func (r *Record) HasLabel(label string) bool {
	return slices.ContainsFunc(r.Labels, func(l string) bool { return strings.EqualFold(l, label) })
}
