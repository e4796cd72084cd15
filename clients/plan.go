package clients

import (
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/proto"

	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// Enrolment is a client with the key that it wants pinned.
type Enrolment struct {
	Client ids.Client
	Key    *rsa.PublicKey
}

// PlanEnrol pins keys to client ids, many in one entry. A pinned id with another
// key is refused by Apply with ErrKeyPinned.
func (r *Room) PlanEnrol(org ids.Org, enrolments ...Enrolment) (*buspb.Mutation, error) {
	changes := make([]*buspb.ClientChange, len(enrolments))
	for i, e := range enrolments {
		if ids.ClientOfKey(e.Key) != e.Client {
			return nil, fmt.Errorf("enrol %s: the key is not this client's: %w", e.Client, ErrRefused)
		}
		changes[i] = &buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{
			Client: e.Client.String(), PublicKey: x509.MarshalPKCS1PublicKey(e.Key),
		}}}
	}
	return mutation(org, changes...)
}

// PlanAdd makes clients that no agent speaks for (see ids.ClientOfHost); those that are
// there already stay as they are.
func (r *Room) PlanAdd(org ids.Org, clients ...ids.Client) (*buspb.Mutation, error) {
	changes := make([]*buspb.ClientChange, len(clients))
	for i, client := range clients {
		changes[i] = &buspb.ClientChange{Change: &buspb.ClientChange_Add{Add: &buspb.ClientAdd{Client: client.String()}}}
	}
	return mutation(org, changes...)
}

// PlanLabels adds and removes labels of known clients. Labels are trimmed; an
// empty one, one over 64 characters or one with a control character is refused.
func (r *Room) PlanLabels(org ids.Org, clients []ids.Client, add, remove []string) (*buspb.Mutation, error) {
	label := &buspb.ClientLabel{}
	for _, client := range clients {
		if err := r.known(org, client); err != nil {
			return nil, fmt.Errorf("label: %w", err)
		}
		label.Clients = append(label.Clients, client.String())
	}
	var err error
	if label.Add, err = checkLabels(add); err != nil {
		return nil, err
	}
	if label.Remove, err = checkLabels(remove); err != nil {
		return nil, err
	}
	if len(label.Clients) == 0 || len(label.Add)+len(label.Remove) == 0 {
		return nil, fmt.Errorf("label: nothing to change: %w", ErrRefused)
	}
	return mutation(org, &buspb.ClientChange{Change: &buspb.ClientChange_Label{Label: label}})
}

func checkLabels(labels []string) ([]string, error) {
	out := make([]string, 0, len(labels))
	for _, label := range labels {
		label = strings.TrimSpace(label)
		bad := strings.IndexFunc(label, unicode.IsControl) >= 0 || !utf8.ValidString(label)
		if label == "" || utf8.RuneCountInString(label) > 64 || bad {
			return nil, fmt.Errorf("label %.80q: expected 1 to 64 printable characters: %w", label, ErrRefused)
		}
		out = append(out, label)
	}
	return out, nil
}

// PlanMetadata sets and removes keys of a client's metadata, or of the server's:
// ids.Server.
func (r *Room) PlanMetadata(org ids.Org, client ids.Client, set map[string]string, remove []string) (*buspb.Mutation, error) {
	if err := r.known(org, client); err != nil && client != ids.Server {
		return nil, fmt.Errorf("metadata: %w", err)
	}
	for _, key := range slices.Sorted(maps.Keys(set)) {
		if key == "" || len(key) > maxTextBytes || len(set[key]) > 16*maxTextBytes || !utf8.ValidString(key+set[key]) {
			return nil, fmt.Errorf("metadata %.40q: too long or not text: %w", key, ErrRefused)
		}
	}
	return mutation(org, &buspb.ClientChange{Change: &buspb.ClientChange_Metadata{Metadata: &buspb.ClientMetadata{
		Client: client.String(), Set: set, Remove: remove,
	}}})
}

// PlanDelete forgets a client; its id may enrol again later with any key.
func (r *Room) PlanDelete(org ids.Org, client ids.Client) (*buspb.Mutation, error) {
	if err := r.known(org, client); err != nil {
		return nil, fmt.Errorf("delete: %w", err)
	}
	return mutation(org, &buspb.ClientChange{Change: &buspb.ClientChange_Delete{Delete: &buspb.ClientDelete{Client: client.String()}}})
}

// PlanInterrogated remembers the flow that asks clients about their hosts.
func (r *Room) PlanInterrogated(org ids.Org, clients []ids.Client, flow ids.Flow) (*buspb.Mutation, error) {
	changes := make([]*buspb.ClientChange, len(clients))
	for i, client := range clients {
		changes[i] = &buspb.ClientChange{Change: &buspb.ClientChange_Interrogated{Interrogated: &buspb.ClientInterrogated{
			Client: client.String(), Flow: flow.String(),
		}}}
	}
	return mutation(org, changes...)
}

// selfReport is what agents call their facts, both in their own report
// (Server.Internal.ClientInfo) and in Generic.Client.Info/BasicInformation.
type selfReport struct {
	Hostname      string `json:"hostname"`
	FQDN          string `json:"fqdn"`
	System        string `json:"system"`
	OS            string `json:"OS"`
	Release       string `json:"release"`
	Platform      string
	PlatformV     string `json:"PlatformVersion"`
	Architecture  string `json:"architecture"`
	ClientVersion string `json:"client_version"`
	Version       any
	ClientName    string `json:"client_name"`
	Name          string
	BuildTime     any         `json:"build_time"`
	BuildTime2    any         `json:"BuildTime"`
	BuildURL      string      `json:"build_url"`
	InstallTime   json.Number `json:"install_time"`
	Labels        []string
	MACAddresses  []string
}

// PlanInfo reads an agent's own words about its host: one row of its self-report
// or of the interrogation's BasicInformation. Everything in it is foreign: texts
// are cut to a kilobyte and cleaned of control characters. flow is the
// interrogation it comes from, or none; users are the host's accounts, if known.
func (r *Room) PlanInfo(org ids.Org, client ids.Client, row []byte, flow ids.Flow, users []string) (*buspb.Mutation, error) {
	info, err := readInfo(client, row, flow, users)
	if err != nil {
		return nil, err
	}
	if known, err := r.look(org, client); err == nil && !known.news(info) {
		return nil, nil
	}
	return mutation(org, infoChange(info))
}

func infoChange(info *buspb.ClientInfo) *buspb.ClientChange {
	return &buspb.ClientChange{Change: &buspb.ClientChange_Info{Info: info}}
}

func readInfo(client ids.Client, row []byte, flow ids.Flow, users []string) (*buspb.ClientInfo, error) {
	var report selfReport
	if err := json.Unmarshal(row, &report); err != nil {
		return nil, fmt.Errorf("client info of %s: %w", client, ErrRefused)
	}
	system := report.System
	if report.OS != "" {
		system = report.OS
	}
	release := strings.TrimSpace(report.Platform + " " + report.PlatformV)
	if release == "" {
		release = report.Release
	}
	installed, _ := report.InstallTime.Int64() // not a number: not known
	return &buspb.ClientInfo{
		Client: client.String(), Hostname: clean(report.Hostname), Fqdn: clean(report.FQDN), System: strings.ToLower(clean(system)),
		Release: clean(release), Architecture: clean(report.Architecture),
		ClientVersion: firstText(report.ClientVersion, report.Version), ClientName: firstText(report.ClientName, report.Name),
		BuildTime: firstText(report.BuildTime, report.BuildTime2), BuildUrl: clean(report.BuildURL), InstallTime: installed,
		MacAddresses: cleanAll(report.MACAddresses, maxMACs), Labels: cleanAll(report.Labels, maxLabels),
		Users: cleanAll(users, maxUsers), Interrogation: flow.String(),
	}, nil
}

// news reports whether info would change what is kept: agents repeat themselves
// daily, and what changes nothing needs no entry.
func (c *cell) news(info *buspb.ClientInfo) bool {
	edited, b := *c, batch{}
	b.inform(&edited, info)
	return edited.text != c.text || edited.platform != c.platform || edited.labels != c.labels ||
		info.GetInterrogation() != "" && info.GetInterrogation() != c.inquired().answered.String()
}

func firstText(candidates ...any) string {
	for _, c := range candidates {
		switch v := c.(type) {
		case string:
			if v != "" {
				return clean(v)
			}
		case map[string]any: // Version of the stock agent is an object with these keys
			if text, ok := v["version"].(string); ok {
				return clean(text)
			}
		}
	}
	return ""
}

func clean(text string) string {
	text = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) || r == utf8.RuneError {
			return -1
		}
		return r
	}, text)
	if len(text) > maxTextBytes {
		text = strings.ToValidUTF8(text[:maxTextBytes], "")
	}
	return text
}

func cleanAll(texts []string, most int) []string {
	out := make([]string, 0, min(len(texts), most))
	for _, text := range texts {
		if text = clean(text); text != "" && len(out) < most {
			out = append(out, text)
		}
	}
	return out
}

func mutation(org ids.Org, changes ...*buspb.ClientChange) (*buspb.Mutation, error) {
	body, err := proto.MarshalOptions{Deterministic: true}.Marshal(&buspb.ClientChanges{Changes: changes})
	if err != nil {
		return nil, fmt.Errorf("encode client changes: %w", err)
	}
	return &buspb.Mutation{Kind: Kind, Org: org.String(), Body: body}, nil
}
