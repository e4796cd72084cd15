package clients

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"unique"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// mostMemos is how many sets of labels are remembered: where clients have so many
// different ones, another is seldom met again.
const mostMemos = 64

// batch takes over the changes of one entry.
type batch struct {
	t       *table
	server  metadata // of the server itself
	now     int64    // the entry's time in microseconds
	events  []event
	refused []error

	// What was worked out for one client of the entry often holds for the next,
	// which then shares its memory.
	labels  map[string]string
	inquiry *inquiry
}

func (b *batch) apply(change *buspb.ClientChange) error {
	switch c := change.GetChange().(type) {
	case *buspb.ClientChange_Enrol:
		return b.enrol(c.Enrol)
	case *buspb.ClientChange_Add:
		return b.add(c.Add)
	case *buspb.ClientChange_Info:
		return b.change(c.Info.GetClient(), Informed, func(cell *cell) { b.inform(cell, c.Info) })
	case *buspb.ClientChange_Label:
		return b.label(c.Label)
	case *buspb.ClientChange_Metadata:
		if c.Metadata.GetClient() == ids.Server.String() {
			b.server = b.server.edited(c.Metadata)
			b.events = append(b.events, event{client: ids.Server, what: Described})
			return nil
		}
		return b.change(c.Metadata.GetClient(), Informed, func(cell *cell) { cell.setMetadata(c.Metadata) })
	case *buspb.ClientChange_Interrogated:
		return b.interrogated(c.Interrogated)
	case *buspb.ClientChange_Delete:
		return b.remove(c.Delete.GetClient())
	}
	return fmt.Errorf("change of an unknown kind: %w", ErrRefused)
}

func (b *batch) enrol(enrol *buspb.ClientEnrol) error {
	client, err := ids.ParseClient(enrol.GetClient())
	id, ok := numberOf(enrol.GetClient())
	if err != nil || !ok {
		return fmt.Errorf("enrol %.40q: %w", enrol.GetClient(), ErrRefused)
	}
	if ordinal, known := b.t.byID[id]; known {
		var scratch [512]byte
		m := &b.t.blocks[ordinal/blockSize].keys[ordinal%blockSize]
		if bytes.Equal(appendKey(scratch[:0], b.t.cell(ordinal), m), enrol.GetPublicKey()) {
			return nil // a CSR that came twice
		}
		return fmt.Errorf("enrol %s: %w", client, ErrKeyPinned)
	}
	key, err := x509.ParsePKCS1PublicKey(enrol.GetPublicKey())
	if err != nil || ids.ClientOfKey(key) != client {
		return fmt.Errorf("enrol %s: the key is not this client's: %w", client, ErrRefused)
	}
	modulus, odd := splitKey(enrol.GetPublicKey())
	ordinal := b.t.add(birth{id, b.now}, modulus, cell{text: (&facts{key: odd}).pack(), platform: unique.Make(platform{})})
	b.events = append(b.events, event{client: client, number: id, ordinal: ordinal, what: Enrolled})
	return nil
}

// noKey stands in the place of a client's key if no agent speaks for it. It is none, so
// that whoever asks for the key is refused, and no other can be pinned.
var noKey = []byte("no key")

// add makes a client that no agent speaks for.
func (b *batch) add(add *buspb.ClientAdd) error {
	client, err := ids.ParseClient(add.GetClient())
	id, ok := numberOf(add.GetClient())
	if err != nil || !ok {
		return fmt.Errorf("add %.40q: %w", add.GetClient(), ErrRefused)
	}
	if _, known := b.t.byID[id]; known {
		return nil
	}
	_, odd := splitKey(noKey)
	ordinal := b.t.add(birth{id, b.now}, nil, cell{text: (&facts{key: odd}).pack(), platform: unique.Make(platform{})})
	b.events = append(b.events, event{client: client, number: id, ordinal: ordinal, what: Enrolled})
	return nil
}

// find returns a known client by its id.
func (b *batch) find(doing, id string) (ids.Client, uint32, error) {
	client, err := ids.ParseClient(id)
	if err != nil {
		return client, 0, fmt.Errorf("%s client %.40q: %w", doing, id, errors.Join(err, ErrRefused))
	}
	ordinal, known := b.t.find(id)
	if !known {
		return client, 0, fmt.Errorf("%s client %s: %w", doing, client, ErrUnknownClient)
	}
	return client, ordinal, nil
}

// change edits what is kept of one client.
func (b *batch) change(id string, what Change, edit func(*cell)) error {
	client, ordinal, err := b.find("change", id)
	if err != nil {
		return err
	}
	edit(b.t.edit(ordinal))
	b.events = append(b.events, event{client: client, ordinal: ordinal, what: what})
	return nil
}

func (b *batch) label(label *buspb.ClientLabel) error {
	var refused []error
	add, remove := label.GetAdd(), label.GetRemove()
	b.labels = nil
	if len(label.GetClients()) > 1 {
		b.labels = map[string]string{}
		b.events = slices.Grow(b.events, len(label.GetClients()))
	}
	for _, id := range label.GetClients() {
		err := b.change(id, Labelled, func(c *cell) { b.relabel(c, add, remove) })
		if err != nil {
			refused = append(refused, err)
		}
	}
	return errors.Join(refused...)
}

func (b *batch) relabel(c *cell, add, remove []string) {
	edited, known := b.labels[c.labels]
	if !known {
		edited = editLabels(c.labels, add, remove)
		if b.labels != nil && len(b.labels) < mostMemos {
			b.labels[c.labels] = edited
		}
	}
	if edited != c.labels {
		c.labels, c.labelsChanged = edited, b.now
	}
}

func (b *batch) interrogated(change *buspb.ClientInterrogated) error {
	flow, err := ids.ParseFlow(change.GetFlow())
	if err != nil {
		return fmt.Errorf("interrogation of %s: %w", change.GetClient(), errors.Join(err, ErrRefused))
	}
	return b.change(change.GetClient(), Informed, func(c *cell) {
		b.inquire(c, inquiry{asked: flow, answered: c.inquired().answered})
	})
}

// inquire notes how it stands with a client's inquiry.
func (b *batch) inquire(c *cell, q inquiry) {
	if b.inquiry == nil || *b.inquiry != q {
		b.inquiry = &inquiry{q.asked, q.answered}
	}
	c.inquiry = b.inquiry
}

func (b *batch) remove(id string) error {
	client, ordinal, err := b.find("delete", id)
	if err != nil {
		return err
	}
	delete(b.t.byID, b.t.birth(ordinal).id)
	*b.t.edit(ordinal) = cell{}
	b.events = append(b.events, event{client: client, ordinal: ordinal, what: Deleted})
	return nil
}

func (b *batch) inform(c *cell, info *buspb.ClientInfo) {
	f, p := unpack(c.text), c.platform.Value()
	for _, said := range []struct {
		into *string
		text string
	}{
		{&f.hostname, info.GetHostname()},
		{&f.fqdn, info.GetFqdn()},
		{&p.system, info.GetSystem()},
		{&p.release, info.GetRelease()},
		{&p.architecture, info.GetArchitecture()},
		{&p.version, info.GetClientVersion()},
		{&p.name, info.GetClientName()},
		{&p.buildTime, info.GetBuildTime()},
		{&p.buildURL, info.GetBuildUrl()},
	} {
		if said.text != "" {
			*said.into = said.text
		}
	}
	if info.GetInstallTime() != 0 {
		f.installTime = info.GetInstallTime()
	}
	if len(info.GetMacAddresses()) > 0 {
		f.macs = sortedSet(info.GetMacAddresses())
	}
	if len(info.GetUsers()) > 0 {
		f.users = sortedSet(info.GetUsers())
	}
	c.keep(&f)
	if p != c.platform.Value() {
		c.platform = unique.Make(p)
	}
	if len(info.GetLabels()) > 0 {
		b.labels = nil
		b.relabel(c, info.GetLabels(), nil)
	}
	if flow, err := ids.ParseFlow(info.GetInterrogation()); err == nil {
		b.inquire(c, inquiry{asked: c.inquired().asked, answered: flow})
		c.interrogated = b.now
	}
}

// keep takes over facts; what did not change keeps its memory.
func (c *cell) keep(f *facts) {
	if text := f.pack(); text != c.text {
		c.text = text
	}
}

func (c *cell) setMetadata(change *buspb.ClientMetadata) {
	f := unpack(c.text)
	f.metadata = metadata(f.metadata).edited(change)
	c.keep(&f)
}

func sortedSet(texts []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(texts)))
}
