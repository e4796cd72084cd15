package clients_test

import (
	"bufio"
	"crypto/x509"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"testing"

	"raptorpack/ids"
)

// fleet invents clients as large companies have them. The same number gives the
// same client, whoever asks and in whatever order.
type fleet struct {
	size int
	seed uint64
}

var (
	sites      = strings.Fields("ber muc fra par lon nyc sfo tok syd sao mad mil waw vie zrh dub")
	domains    = strings.Fields("corp.example.com emea.corp.example.com apac.corp.example.com us.corp.example.com dmz.example.net lab.example.org plants.example.com shops.example.com")
	roles      = strings.Fields("web db app cache mail dns build queue proxy batch files print voip ldap mon log")
	given      = strings.Fields("ada alan barbara claude donald edsger frances grace hedy john katherine ken leslie margaret niklaus radia")
	family     = strings.Fields("lovelace turing liskov shannon knuth dijkstra allen hopper lamarr backus johnson thompson lamport hamilton wirth perlman")
	vendors    = strings.Fields("00:16:3e 00:50:56 3c:52:82 f4:8e:38 ac:de:48 b8:27:eb d4:be:d9 00:0c:29 a4:83:e7 8c:16:45")
	windows    = strings.Fields("10.0.19045 10.0.22621 10.0.22631 10.0.26100 10.0.17763 10.0.20348")
	agents     = strings.Fields("0.75.2 0.76.0 0.76.1 0.77.0 0.77.2 0.80.0")
	labelNames = func() (out []string) {
		for i := range 200 {
			out = append(out, fmt.Sprintf("%s-%s-%d", []string{"Prod", "stage", "Tier", "pci", "vip"}[i%5], sites[i%len(sites)], i))
		}
		return out
	}()
)

func (f fleet) rand(i int) *rand.Rand { return rand.New(rand.NewPCG(f.seed, uint64(i))) }

func (f fleet) id(i int) string { return fmt.Sprintf("C.%016x", f.rand(i).Uint64()) }

func (f fleet) client(t testing.TB, i int) ids.Client {
	client, err := ids.ParseClient(f.id(i))
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// line is a client as a snapshot has it: keys and order of the storage format.
func (f fleet) line(i int) []byte {
	r := f.rand(i)
	var l struct {
		Ordinal       int      `json:"ordinal"`
		Client        string   `json:"client_id"`
		FirstSeen     int64    `json:"first_seen_us"`
		Hostname      string   `json:"hostname,omitempty"`
		FQDN          string   `json:"fqdn,omitempty"`
		System        string   `json:"os,omitempty"`
		Release       string   `json:"release,omitempty"`
		Architecture  string   `json:"architecture,omitempty"`
		Version       string   `json:"client_version,omitempty"`
		Name          string   `json:"client_name,omitempty"`
		BuildTime     string   `json:"build_time,omitempty"`
		BuildURL      string   `json:"build_url,omitempty"`
		InstallTime   int64    `json:"install_time,omitempty"`
		MACs          []string `json:"mac_addresses,omitempty"`
		Users         []string `json:"users,omitempty"`
		Labels        []string `json:"labels,omitempty"`
		LabelsChanged int64    `json:"labels_us,omitempty"`
		Interrogation string   `json:"interrogation,omitempty"`
		Interrogated  int64    `json:"interrogated_us,omitempty"`
		Answered      string   `json:"answered,omitempty"`
		Key           []byte   `json:"public_key"`
	}
	l.Ordinal, l.Client = i, fmt.Sprintf("C.%016x", r.Uint64())
	l.FirstSeen = 1_780_000_000_000_000 + int64(i)*1000
	site, person := sites[r.IntN(len(sites))], given[r.IntN(16)]+"."+family[r.IntN(16)]
	l.Architecture = "amd64"
	switch kind := r.IntN(10); {
	case kind < 4:
		const digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
		l.System, l.Hostname = "windows", "DESKTOP-"
		for n := i; len(l.Hostname) < 15; n /= 36 { // distinct, and looks random
			l.Hostname += string(digits[(n*7+len(l.Hostname)*11)%36])
		}
		l.Release = "Microsoft Windows 11 Enterprise " + windows[r.IntN(len(windows))]
		l.Users = []string{"Administrator", person}
	case kind < 6:
		l.System, l.Hostname = "windows", fmt.Sprintf("lt-%s-%07d", site, i)
		l.Release = "Microsoft Windows 10 Pro " + windows[r.IntN(len(windows))]
		l.Users = []string{"Administrator", fmt.Sprintf("u%06d", i%300_000), person}
	case kind < 9:
		l.System, l.Hostname = "linux", fmt.Sprintf("%s-%s-%07d", roles[r.IntN(len(roles))], site, i)
		l.Release = []string{"debian 12.5", "ubuntu 24.04", "rhel 9.4", "amazon 2023"}[r.IntN(4)]
		l.Users = []string{"root", person}[:1+r.IntN(2)]
	default:
		l.System, l.Hostname = "darwin", fmt.Sprintf("%ss-macbook-pro-%d", given[r.IntN(16)], i)
		l.Release, l.Architecture = fmt.Sprintf("darwin 15.%d", r.IntN(6)), "arm64"
		l.Users = []string{person}
	}
	l.FQDN = l.Hostname + "." + domains[r.IntN(len(domains))]
	l.Version, l.Name, l.BuildTime = agents[r.IntN(len(agents))], "velociraptor", "2026-05-01T10:00:00Z"
	l.InstallTime = 1_700_000_000 + int64(r.IntN(50_000_000))
	for range 1 + r.IntN(2) {
		l.MACs = append(l.MACs, fmt.Sprintf("%s:%02x:%02x:%02x", vendors[r.IntN(len(vendors))], r.IntN(256), r.IntN(256), r.IntN(256)))
	}
	for _, n := range r.Perm(200)[:r.IntN(4)] {
		l.Labels = append(l.Labels, labelNames[n])
		l.LabelsChanged = l.FirstSeen + 5
	}
	l.Labels = byLower(l.Labels)
	flow := fmt.Sprintf("F.D%012X", 0x5000000+i/500)
	l.Interrogation, l.Answered, l.Interrogated = flow, flow, l.FirstSeen+int64(9_000_000)
	l.Key = f.key(i)
	raw, err := json.Marshal(l)
	if err != nil {
		panic(err)
	}
	return raw
}

// key is a PKCS#1 key of 2048 bits with the exponent that all agents use.
func (f fleet) key(i int) []byte {
	r := rand.New(rand.NewPCG(f.seed^1, uint64(i)))
	key := append(make([]byte, 0, 270), 0x30, 0x82, 0x01, 0x0a, 0x02, 0x82, 0x01, 0x01, 0x00)
	for range 32 {
		key = binary.BigEndian.AppendUint64(key, r.Uint64()|1<<63)
	}
	return append(key, 0x02, 0x03, 0x01, 0x00, 0x01)
}

// write writes the fleet as a snapshot.
func (f fleet) write(w io.Writer) {
	out := bufio.NewWriterSize(w, 1<<20)
	for i := range f.size {
		if _, err := out.Write(append(f.line(i), '\n')); err != nil {
			panic(err)
		}
	}
	if err := out.Flush(); err != nil {
		panic(err)
	}
}

func byLower(labels []string) []string {
	for i := range labels {
		for j := i; j > 0 && strings.ToLower(labels[j]) < strings.ToLower(labels[j-1]); j-- {
			labels[j], labels[j-1] = labels[j-1], labels[j]
		}
	}
	return labels
}

// madeUpKey is a public key that has no private one, and the id of its client.
func madeUpKey(seed uint64) ([]byte, ids.Client) {
	der := fleet{seed: seed}.key(0)
	return der, idOfDER(der)
}

func idOfDER(der []byte) ids.Client {
	key, err := x509.ParsePKCS1PublicKey(der)
	if err != nil {
		panic(err)
	}
	return ids.ClientOfKey(key)
}
