package clients

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"time"

	"raptorpack/ids"
	"raptorpack/internal/micros"
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

// Record is what the pack agrees on about one client. It is immutable; slices
// and maps belong to it and must not be changed.
type Record struct {
	Org     ids.Org    `json:"-"`
	Client  ids.Client `json:"-"`
	Ordinal uint32     `json:"-"` // dense number of this client within its org, never used again

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

	key  []byte // PKCS#1 DER
	text string // lower-case: what a bare word is sought in
}

// HasLabel reports whether the client carries label; case is ignored.
func (r *Record) HasLabel(label string) bool {
	return slices.ContainsFunc(r.Labels, func(l string) bool { return strings.EqualFold(l, label) })
}

// line is a record in its snapshot file, one line each, keys in this order.
type line struct {
	Org           string            `json:"org,omitempty"`
	Ordinal       uint32            `json:"ordinal"`
	Client        string            `json:"client_id"`
	FirstSeen     int64             `json:"first_seen_us"`
	Hostname      string            `json:"hostname,omitempty"`
	FQDN          string            `json:"fqdn,omitempty"`
	System        string            `json:"os,omitempty"`
	Release       string            `json:"release,omitempty"`
	Architecture  string            `json:"architecture,omitempty"`
	Version       string            `json:"client_version,omitempty"`
	Name          string            `json:"client_name,omitempty"`
	BuildTime     string            `json:"build_time,omitempty"`
	BuildURL      string            `json:"build_url,omitempty"`
	InstallTime   int64             `json:"install_time,omitempty"`
	MACs          []string          `json:"mac_addresses,omitempty"`
	Users         []string          `json:"users,omitempty"`
	Labels        []string          `json:"labels,omitempty"`
	LabelsChanged int64             `json:"labels_us,omitempty"`
	Metadata      map[string]string `json:"metadata,omitempty"`
	Interrogation string            `json:"interrogation,omitempty"`
	Interrogated  int64             `json:"interrogated_us,omitempty"`
	Answered      string            `json:"answered,omitempty"`
	Key           []byte            `json:"public_key"`
}

func (r *Record) marshal() ([]byte, error) {
	return json.Marshal(line{
		Org: r.Org.String(), Ordinal: r.Ordinal, Client: r.Client.String(), FirstSeen: micros.Of(r.FirstSeen),
		Hostname: r.Hostname, FQDN: r.FQDN, System: r.System, Release: r.Release, Architecture: r.Architecture,
		Version: r.Version, Name: r.Name, BuildTime: r.BuildTime, BuildURL: r.BuildURL, InstallTime: r.InstallTime,
		MACs: r.MACs, Users: r.Users, Labels: r.Labels, LabelsChanged: micros.Of(r.LabelsChanged), Metadata: r.Metadata,
		Interrogation: r.Interrogation.String(), Interrogated: micros.Of(r.Interrogated), Answered: r.Answered.String(), Key: r.key,
	})
}

func unmarshal(raw []byte) (*Record, error) {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return nil, err
	}
	org, err := ids.ParseOrg(l.Org)
	if err != nil {
		return nil, err
	}
	client, err := ids.ParseClient(l.Client)
	if err != nil {
		return nil, err
	}
	asked, err := flowOrNone(l.Interrogation)
	if err != nil {
		return nil, err
	}
	answered, err := flowOrNone(l.Answered)
	if err != nil {
		return nil, err
	}
	if answered.IsZero() && l.Interrogated != 0 {
		answered = asked // earlier versions did not say which
	}
	r := &Record{
		Org: org, Ordinal: l.Ordinal, Client: client, FirstSeen: micros.Time(l.FirstSeen),
		Hostname: l.Hostname, FQDN: l.FQDN, System: l.System, Release: l.Release, Architecture: l.Architecture,
		Version: l.Version, Name: l.Name, BuildTime: l.BuildTime, BuildURL: l.BuildURL, InstallTime: l.InstallTime,
		MACs: l.MACs, Users: l.Users, Labels: l.Labels, LabelsChanged: micros.Time(l.LabelsChanged), Metadata: l.Metadata,
		Interrogation: asked, Interrogated: micros.Time(l.Interrogated), Answered: answered, key: l.Key,
	}
	r.index()
	return r, nil
}

func flowOrNone(text string) (ids.Flow, error) {
	if text == "" {
		return ids.Flow{}, nil
	}
	return ids.ParseFlow(text)
}

// index rebuilds the text that bare words are sought in.
func (r *Record) index() {
	parts := make([]string, 0, 3+len(r.Labels))
	parts = append(parts, strings.ToLower(r.Client.String()), strings.ToLower(r.Hostname))
	if !strings.EqualFold(r.FQDN, r.Hostname) {
		parts = append(parts, strings.ToLower(r.FQDN))
	}
	for _, label := range r.Labels {
		parts = append(parts, strings.ToLower(label))
	}
	r.text = strings.Join(parts, "\n")
}
