package clients

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strconv"
	"unique"

	"raptorpack/ids"
)

// line is a client in its snapshot file, one line each, keys in this order.
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
	Deleted       bool              `json:"deleted,omitempty"` // nothing else but org and ordinal

	// Server is the metadata of the server itself: a line of its own, with the org.
	Server map[string]string `json:"server_metadata,omitempty"`
}

// entry is a line that was read.
type entry struct {
	org     ids.Org
	ordinal uint32
	deleted bool
	server  metadata // not nil: nothing else but org
	born    birth
	cell    cell
	modulus modulus // or the key is among the facts
}

// parse reads any line that says what ours say, however it is written.
func (e *entry) parse(raw []byte) error {
	var l line
	if err := json.Unmarshal(raw, &l); err != nil {
		return err
	}
	org, err := ids.ParseOrg(l.Org)
	if err != nil {
		return err
	}
	*e = entry{org: org, ordinal: l.Ordinal, deleted: l.Deleted, server: l.Server}
	if l.Deleted || l.Server != nil {
		return nil
	}
	var ok bool
	if e.born.id, ok = numberOf(l.Client); !ok {
		return fmt.Errorf("client id %.40q: %w", l.Client, ids.ErrInvalid)
	}
	e.born.firstSeen = l.FirstSeen
	q, err := parseInquiry(l.Interrogation, l.Answered, l.Interrogated)
	if err != nil {
		return err
	}
	f := facts{hostname: l.Hostname, fqdn: l.FQDN, users: l.Users, macs: l.MACs, installTime: l.InstallTime, metadata: l.Metadata}
	modulus, odd := splitKey(l.Key)
	copy(e.modulus[:], modulus)
	f.key = odd
	e.cell = cell{
		text: f.pack(), labels: packLabels(l.Labels), labelsChanged: l.LabelsChanged, inquiry: q, interrogated: l.Interrogated,
		platform: unique.Make(platform{l.System, l.Release, l.Architecture, l.Version, l.Name, l.BuildTime, l.BuildURL}),
	}
	return nil
}

// parseInquiry returns nil for a client that was never asked.
func parseInquiry(asked, answered string, at int64) (*inquiry, error) {
	if answered == "" && at != 0 {
		answered = asked // earlier versions did not say which
	}
	if asked == "" && answered == "" {
		return nil, nil
	}
	q := &inquiry{}
	var err error
	if q.asked, err = flowOrNone(asked); err != nil {
		return nil, err
	}
	if q.answered = q.asked; answered != asked {
		q.answered, err = flowOrNone(answered)
	}
	return q, err
}

func flowOrNone(text string) (ids.Flow, error) {
	if text == "" {
		return ids.Flow{}, nil
	}
	return ids.ParseFlow(text)
}

// appendLine writes what json.Marshal makes of a line, in a tenth of the time.
func appendLine(out []byte, org ids.Org, ordinal uint32, born birth, c *cell, m *modulus) ([]byte, error) {
	f, p, q := unpack(c.text), c.platform.Value(), c.inquired()
	w := objectWriter{out: append(out, '{')}
	w.text(`"org":`, org.String())
	w.number(`"ordinal":`, int64(ordinal))
	w.key(`"client_id":`)
	w.out = append(born.id.appendTo(append(w.out, '"')), '"')
	w.number(`"first_seen_us":`, born.firstSeen)
	w.text(`"hostname":`, f.hostname)
	w.text(`"fqdn":`, f.fqdn)
	w.text(`"os":`, p.system)
	w.text(`"release":`, p.release)
	w.text(`"architecture":`, p.architecture)
	w.text(`"client_version":`, p.version)
	w.text(`"client_name":`, p.name)
	w.text(`"build_time":`, p.buildTime)
	w.text(`"build_url":`, p.buildURL)
	w.unlessZero(`"install_time":`, f.installTime)
	w.texts(`"mac_addresses":`, f.macs)
	w.texts(`"users":`, f.users)
	w.texts(`"labels":`, unpackLabels(c.labels))
	w.unlessZero(`"labels_us":`, c.labelsChanged)
	if len(f.metadata) > 0 {
		w.key(`"metadata":`)
		w.marshal(f.metadata)
	}
	w.text(`"interrogation":`, q.asked.String())
	w.unlessZero(`"interrogated_us":`, c.interrogated)
	w.text(`"answered":`, q.answered.String())
	w.key(`"public_key":"`)
	w.base64(c, m)
	return append(w.out, '"', '}'), w.err
}

// objectWriter writes an object's members as encoding/json does.
type objectWriter struct {
	out []byte
	err error
}

// key begins a member; the text has the quotation marks and the colon.
func (w *objectWriter) key(text string) {
	if w.out[len(w.out)-1] != '{' {
		w.out = append(w.out, ',')
	}
	w.out = append(w.out, text...)
}

func (w *objectWriter) number(key string, n int64) {
	w.key(key)
	w.out = strconv.AppendInt(w.out, n, 10)
}

func (w *objectWriter) unlessZero(key string, n int64) {
	if n != 0 {
		w.number(key, n)
	}
}

// text leaves out what is empty.
func (w *objectWriter) text(key, text string) {
	if text != "" {
		w.key(key)
		w.quote(text)
	}
}

func (w *objectWriter) texts(key string, texts []string) {
	if len(texts) == 0 {
		return
	}
	w.key(key)
	for i, text := range texts {
		w.out = append(w.out, "[,"[min(i, 1)])
		w.quote(text)
	}
	w.out = append(w.out, ']')
}

func (w *objectWriter) quote(text string) {
	for i := range len(text) {
		if !asItIs[text[i]] {
			w.marshal(text)
			return
		}
	}
	w.out = append(append(append(w.out, '"'), text...), '"')
}

// asItIs are the bytes that JSON text of ours has as they are.
var asItIs = func() (is [256]bool) {
	for c := byte(' '); c < 0x7f; c++ {
		is[c] = c != '"' && c != '\\' && c != '<' && c != '>' && c != '&'
	}
	return is
}()

func (w *objectWriter) marshal(v any) {
	raw, err := json.Marshal(v)
	if err != nil {
		w.err = err
	}
	w.out = append(w.out, raw...)
}

func (w *objectWriter) base64(c *cell, m *modulus) {
	var scratch [512]byte
	w.out = base64.StdEncoding.AppendEncode(w.out, appendKey(scratch[:0], c, m))
}
