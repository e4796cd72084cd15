package clients

import (
	"bufio"
	"bytes"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Kind is the kind of this room's mutations and of its snapshot file.
const Kind = "clients"

// Room is the state of all clients of all orgs. Safe for concurrent use.
type Room struct {
	mu   sync.RWMutex
	orgs map[ids.Org]*table

	soft softState

	// watch is told of clients whose record changed, after the lock is released.
	watch func(org ids.Org, client ids.Client, what Change)
}

// Change says what Apply did to a client.
type Change int

// What can happen to a client.
const (
	Enrolled Change = iota
	Informed
	Labelled
	Deleted
)

// table is one org's clients, by id and by ordinal. Ordinals are dense and never
// reused: a deleted client leaves a nil.
type table struct {
	byID      map[ids.Client]*Record
	byOrdinal []*Record
}

// New makes an empty room. watch may be nil; it is called from Apply's goroutine
// with no lock held and must not block.
func New(watch func(org ids.Org, client ids.Client, what Change)) *Room {
	if watch == nil {
		watch = func(ids.Org, ids.Client, Change) {}
	}
	r := &Room{orgs: map[ids.Org]*table{}, watch: watch}
	r.soft.init()
	return r
}

// Kind implements replication.State.
func (r *Room) Kind() string { return Kind }

type event struct {
	client ids.Client
	what   Change
}

// Apply implements replication.State: the only writer. A change that is refused
// leaves its client as it was; the others of the batch are taken.
func (r *Room) Apply(e *buspb.Entry) error {
	org, err := ids.ParseOrg(e.GetMutation().GetOrg())
	if err != nil {
		return fmt.Errorf("apply clients: %w", errors.Join(err, ErrRefused))
	}
	var changes buspb.ClientChanges
	if err := proto.Unmarshal(e.GetMutation().GetBody(), &changes); err != nil {
		return fmt.Errorf("apply clients: %w", ErrRefused)
	}
	now := time.UnixMicro(e.GetTime()).UTC()
	var refused []error
	var events []event
	r.mu.Lock()
	t := r.orgs[org]
	if t == nil {
		t = &table{byID: map[ids.Client]*Record{}}
		r.orgs[org] = t
	}
	for _, change := range changes.GetChanges() {
		did, err := t.apply(org, change, now)
		if err != nil {
			refused = append(refused, err)
		}
		events = append(events, did...)
	}
	r.mu.Unlock()
	for _, ev := range events {
		if ev.what == Deleted {
			r.soft.forget(org, ev.client)
		}
		r.watch(org, ev.client, ev.what)
	}
	return errors.Join(refused...)
}

func (t *table) apply(org ids.Org, change *buspb.ClientChange, now time.Time) ([]event, error) {
	switch c := change.GetChange().(type) {
	case *buspb.ClientChange_Enrol:
		return t.enrol(org, c.Enrol, now)
	case *buspb.ClientChange_Info:
		return t.change(c.Info.GetClient(), Informed, func(r *Record) { r.inform(c.Info, now) })
	case *buspb.ClientChange_Label:
		return t.label(c.Label, now)
	case *buspb.ClientChange_Metadata:
		return t.change(c.Metadata.GetClient(), Informed, func(r *Record) { r.setMetadata(c.Metadata) })
	case *buspb.ClientChange_Interrogated:
		flow, err := ids.ParseFlow(c.Interrogated.GetFlow())
		if err != nil {
			return nil, fmt.Errorf("interrogation of %s: %w", c.Interrogated.GetClient(), errors.Join(err, ErrRefused))
		}
		return t.change(c.Interrogated.GetClient(), Informed, func(r *Record) { r.Interrogation = flow })
	case *buspb.ClientChange_Delete:
		return t.remove(c.Delete.GetClient())
	}
	return nil, fmt.Errorf("change of an unknown kind: %w", ErrRefused)
}

func (t *table) enrol(org ids.Org, enrol *buspb.ClientEnrol, now time.Time) ([]event, error) {
	client, err := ids.ParseClient(enrol.GetClient())
	if err != nil || client == ids.Server {
		return nil, fmt.Errorf("enrol %.40q: %w", enrol.GetClient(), ErrRefused)
	}
	if known := t.byID[client]; known != nil {
		if bytes.Equal(known.key, enrol.GetPublicKey()) {
			return nil, nil // a CSR that came twice
		}
		return nil, fmt.Errorf("enrol %s: %w", client, ErrKeyPinned)
	}
	key, err := x509.ParsePKCS1PublicKey(enrol.GetPublicKey())
	if err != nil || ids.ClientOfKey(key) != client {
		return nil, fmt.Errorf("enrol %s: the key is not this client's: %w", client, ErrRefused)
	}
	r := &Record{Org: org, Client: client, Ordinal: uint32(len(t.byOrdinal)), FirstSeen: now, key: enrol.GetPublicKey()}
	r.index()
	t.byOrdinal = append(t.byOrdinal, r)
	t.byID[client] = r
	return []event{{client, Enrolled}}, nil
}

// change replaces one client's record by an edited copy.
func (t *table) change(id string, what Change, edit func(*Record)) ([]event, error) {
	client, err := ids.ParseClient(id)
	if err != nil {
		return nil, fmt.Errorf("change client %.40q: %w", id, errors.Join(err, ErrRefused))
	}
	known := t.byID[client]
	if known == nil {
		return nil, fmt.Errorf("change client %s: %w", client, ErrUnknownClient)
	}
	edited := *known
	edit(&edited)
	edited.index()
	t.byID[client], t.byOrdinal[known.Ordinal] = &edited, &edited
	return []event{{client, what}}, nil
}

func (t *table) label(label *buspb.ClientLabel, now time.Time) ([]event, error) {
	var events []event
	var refused []error
	for _, id := range label.GetClients() {
		did, err := t.change(id, Labelled, func(r *Record) {
			labels := editLabels(r.Labels, label.GetAdd(), label.GetRemove())
			if !slices.Equal(labels, r.Labels) {
				r.Labels, r.LabelsChanged = labels, now
			}
		})
		if err != nil {
			refused = append(refused, err)
		}
		events = append(events, did...)
	}
	return events, errors.Join(refused...)
}

func (t *table) remove(id string) ([]event, error) {
	client, err := ids.ParseClient(id)
	if err != nil {
		return nil, fmt.Errorf("delete client %.40q: %w", id, errors.Join(err, ErrRefused))
	}
	known := t.byID[client]
	if known == nil {
		return nil, fmt.Errorf("delete client %s: %w", client, ErrUnknownClient)
	}
	delete(t.byID, client)
	t.byOrdinal[known.Ordinal] = nil
	return []event{{client, Deleted}}, nil
}

// editLabels returns a new sorted set; case is ignored when comparing, the first
// spelling stays.
func editLabels(labels, add, remove []string) []string {
	out := slices.DeleteFunc(slices.Clone(labels), func(have string) bool {
		return slices.ContainsFunc(remove, func(gone string) bool { return strings.EqualFold(have, gone) })
	})
	for _, label := range add {
		known := slices.ContainsFunc(out, func(have string) bool { return strings.EqualFold(have, label) })
		if !known && len(out) < maxLabels {
			out = append(out, label)
		}
	}
	slices.SortFunc(out, func(a, b string) int { return strings.Compare(strings.ToLower(a), strings.ToLower(b)) })
	return out
}

func (r *Record) inform(info *buspb.ClientInfo, now time.Time) {
	for _, f := range []struct {
		into *string
		text string
	}{
		{&r.Hostname, info.GetHostname()},
		{&r.FQDN, info.GetFqdn()},
		{&r.System, info.GetSystem()},
		{&r.Release, info.GetRelease()},
		{&r.Architecture, info.GetArchitecture()},
		{&r.Version, info.GetClientVersion()},
		{&r.Name, info.GetClientName()},
		{&r.BuildTime, info.GetBuildTime()},
		{&r.BuildURL, info.GetBuildUrl()},
	} {
		if f.text != "" {
			*f.into = f.text
		}
	}
	if info.GetInstallTime() != 0 {
		r.InstallTime = info.GetInstallTime()
	}
	if len(info.GetMacAddresses()) > 0 {
		r.MACs = sortedSet(info.GetMacAddresses())
	}
	if len(info.GetUsers()) > 0 {
		r.Users = sortedSet(info.GetUsers())
	}
	if labels := editLabels(r.Labels, info.GetLabels(), nil); !slices.Equal(labels, r.Labels) {
		r.Labels, r.LabelsChanged = labels, now
	}
	if flow, err := ids.ParseFlow(info.GetInterrogation()); err == nil {
		r.Interrogated, r.Answered = now, flow
	}
}

func (r *Record) setMetadata(change *buspb.ClientMetadata) {
	metadata := maps.Clone(r.Metadata)
	if metadata == nil {
		metadata = map[string]string{}
	}
	for _, key := range change.GetRemove() {
		delete(metadata, key)
	}
	// In order of keys, so that every node stops at the same one when it is full.
	for _, key := range slices.Sorted(maps.Keys(change.GetSet())) {
		if _, known := metadata[key]; known || len(metadata) < maxMetadata {
			metadata[key] = change.GetSet()[key]
		}
	}
	r.Metadata = metadata
}

func sortedSet(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}

// View implements replication.State. Records are immutable, so a copy of the
// pointers is a view.
func (r *Room) View() io.WriterTo {
	r.mu.RLock()
	defer r.mu.RUnlock()
	v := view{}
	for _, org := range slices.SortedFunc(maps.Keys(r.orgs), func(a, b ids.Org) int { return strings.Compare(a.String(), b.String()) }) {
		v = append(v, orgView{org, slices.Clone(r.orgs[org].byOrdinal)})
	}
	return v
}

type (
	view    []orgView
	orgView struct {
		org     ids.Org
		records []*Record
	}
)

// WriteTo writes one JSON line per client, by org and ordinal. A deleted client
// at the end leaves a line with its ordinal alone, so that it is not used again.
func (v view) WriteTo(w io.Writer) (int64, error) {
	out := bufio.NewWriterSize(w, 1<<16)
	var written int64
	emit := func(raw []byte) error {
		n, err := out.Write(append(raw, '\n'))
		written += int64(n)
		return err
	}
	for _, o := range v {
		for i, record := range o.records {
			if record == nil {
				if i < len(o.records)-1 {
					continue
				}
				if err := emit(fmt.Appendf(nil, `{"org":%q,"ordinal":%d,"deleted":true}`, o.org.String(), i)); err != nil {
					return written, err
				}
				continue
			}
			raw, err := record.marshal()
			if err != nil {
				return written, fmt.Errorf("write client %s: %w", record.Client, err)
			}
			if err := emit(raw); err != nil {
				return written, err
			}
		}
	}
	return written, out.Flush()
}

// Restore implements replication.State.
func (r *Room) Restore(from io.Reader) error {
	orgs := map[ids.Org]*table{}
	lines := bufio.NewScanner(from)
	lines.Buffer(nil, 1<<24)
	for n := 1; lines.Scan(); n++ {
		if err := restoreLine(orgs, lines.Bytes()); err != nil {
			return fmt.Errorf("restore clients: line %d: %w", n, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("restore clients: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.orgs = orgs
	return nil
}

func restoreLine(orgs map[ids.Org]*table, raw []byte) error {
	org, ordinal, deleted, err := placeOf(raw)
	if err != nil {
		return err
	}
	t := orgs[org]
	if t == nil {
		t = &table{byID: map[ids.Client]*Record{}}
		orgs[org] = t
	}
	if int(ordinal) < len(t.byOrdinal) || int(ordinal) > len(t.byOrdinal)+1<<24 {
		return fmt.Errorf("ordinal %d after %d lines: %w", ordinal, len(t.byOrdinal), ErrRefused)
	}
	t.byOrdinal = append(t.byOrdinal, make([]*Record, int(ordinal)+1-len(t.byOrdinal))...)
	if deleted {
		return nil
	}
	record, err := unmarshal(raw)
	if err != nil {
		return err
	}
	t.byOrdinal[ordinal], t.byID[record.Client] = record, record
	return nil
}

// Key returns the public key pinned to a client.
func (r *Room) Key(org ids.Org, client ids.Client) (*rsa.PublicKey, error) {
	record, err := r.Lookup(org, client)
	if err != nil {
		return nil, err
	}
	key, err := x509.ParsePKCS1PublicKey(record.key)
	if err != nil {
		return nil, fmt.Errorf("key of %s: %w", client, err)
	}
	return key, nil
}

// Lookup returns a client's record, or ErrUnknownClient.
func (r *Room) Lookup(org ids.Org, client ids.Client) (*Record, error) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.orgs[org]; t != nil {
		if record := t.byID[client]; record != nil {
			return record, nil
		}
	}
	return nil, fmt.Errorf("client %s: %w", client, ErrUnknownClient)
}

// Count returns how many clients an org has.
func (r *Room) Count(org ids.Org) int {
	r.mu.RLock()
	defer r.mu.RUnlock()
	if t := r.orgs[org]; t != nil {
		return len(t.byID)
	}
	return 0
}

// Orgs lists the orgs that ever had a client, sorted.
func (r *Room) Orgs() []ids.Org {
	r.mu.RLock()
	defer r.mu.RUnlock()
	return slices.SortedFunc(maps.Keys(r.orgs), func(a, b ids.Org) int { return strings.Compare(a.String(), b.String()) })
}

// All returns the records of an org by ordinal, as they stand now.
func (r *Room) All(org ids.Org) []*Record {
	r.mu.RLock()
	defer r.mu.RUnlock()
	t := r.orgs[org]
	if t == nil {
		return nil
	}
	out := make([]*Record, 0, len(t.byID))
	for _, record := range t.byOrdinal {
		if record != nil {
			out = append(out, record)
		}
	}
	return out
}
