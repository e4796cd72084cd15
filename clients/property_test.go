package clients_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// town is a room whose clients live where segments and blocks meet, and whom the
// test knows.
type town struct {
	*clients.Room
	t       *rapid.T
	org     ids.Org
	clients []ids.Client
	entries uint64
}

// Few words make many meet.
var (
	hostWords = []string{
		"web", "db", "DESKTOP", "x", "ab", "prod-1", "10", "0", "42", "abc123", "7f", "MÜNCHEN", "straße", "a.b", ".", "-", "_", "web01", "c", "c.", "İ", "K", "e", "\n", "\x00", "~", "&", // the last two look the same to grams
	}
	domainWords = []string{"corp.example", "EXAMPLE.com", "x", "10.1", "é.org", "b"}
	labelWords  = []string{"prod", "PROD", "Prod ", "lab", "web", "7", "é", "İ", "i", "c", "a label", "10.1", "none", "x*y"}
	userWords   = []string{"root", "Administrator", "ada", "ada.turing", "u1", "u12", "é", "x", ""}
	macWords    = []string{"00:16:3e:00:00:01", "00:16:3e:ab:cd:ef", "AC:DE:48:00:11:22", "ac:de:48:00:11:22", "b", "00-16-3e-00-00-01", "0"}
	osWords     = []string{"linux", "windows", "darwin", ""}
	versions    = []string{"0.7", "0.7.1", "0.10.0", "rubbish", "", "1"}
	addresses   = []string{"10.1.2.3", "10.10.1.1", "1.1.1.1", "110.1.1.10", "0.0.0.0", "fe80::1%eth0", "::1", "2001:db8::7f", ""}
)

func some(t *rapid.T, label string, words []string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(words), 0, 3, rapid.ID).Draw(t, label)
}

func anyAddress(t *rapid.T) string {
	octet := rapid.OneOf(rapid.SampledFrom([]int{0, 1, 10, 11, 101, 110, 111, 255}), rapid.IntRange(0, 255))
	return fmt.Sprintf("%d.%d.%d.%d", octet.Draw(t, "a"), octet.Draw(t, "b"), octet.Draw(t, "c"), octet.Draw(t, "d"))
}

func hostName(t *rapid.T) string {
	return strings.Join(rapid.SliceOfN(rapid.SampledFrom(hostWords), 0, 4).Draw(t, "host"), rapid.SampledFrom([]string{"", "-", "."}).Draw(t, "between"))
}

func fqdn(t *rapid.T, host string) string {
	domain := rapid.SampledFrom(domainWords).Draw(t, "domain")
	switch rapid.IntRange(0, 6).Draw(t, "kind of fqdn") {
	case 0:
		return ""
	case 1:
		return host
	case 2:
		return strings.ToUpper(host)
	case 3:
		return strings.ToLower(host) + "." + domain
	case 4:
		return domain
	case 5:
		return host + domain
	}
	return host + "." + domain
}

// settle restores a room with clients in the first and the second segment.
func settle(t *rapid.T) *town {
	org := rapid.SampledFrom([]string{"", "O1"}).Draw(t, "org")
	parsed, err := ids.ParseOrg(org)
	if err != nil {
		t.Fatal(err)
	}
	w := &town{Room: clients.New(nil), t: t, org: parsed}
	if rapid.IntRange(0, 3).Draw(t, "meagre") > 0 {
		w.Meagre(rapid.IntRange(0, 12).Draw(t, "loose"))
	}
	var snapshot bytes.Buffer
	ordinal := rapid.SampledFrom([]int{0, 60, 16_370}).Draw(t, "first")
	for i := range rapid.IntRange(1, 40).Draw(t, "clients") {
		id := fmt.Sprintf("C.%08x%08x", uint32(i*0x9e3779b1), rapid.Uint32().Draw(t, "id"))
		client, err := ids.ParseClient(id)
		if err != nil {
			t.Fatal(err)
		}
		w.clients = append(w.clients, client)
		line := map[string]any{"org": org, "ordinal": ordinal, "client_id": id, "first_seen_us": i, "public_key": []byte{1}}
		w.describe(line)
		raw, err := json.Marshal(line)
		if err != nil {
			t.Fatal(err)
		}
		snapshot.Write(append(raw, '\n'))
		ordinal += rapid.SampledFrom([]int{1, 1, 1, 2, 70}).Draw(t, "step")
	}
	// The other org's clients are found by nobody here.
	fmt.Fprintf(&snapshot, `{"org":"O2","ordinal":3,"client_id":"C.0123456789abcdef","first_seen_us":1,"hostname":"web","labels":["prod"],"public_key":""}`+"\n")
	if err := w.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *town) describe(line map[string]any) {
	host := hostName(w.t)
	line["hostname"], line["fqdn"] = host, fqdn(w.t, host)
	line["os"], line["client_version"] = rapid.SampledFrom(osWords).Draw(w.t, "os"), rapid.SampledFrom(versions).Draw(w.t, "version")
	line["mac_addresses"], line["users"] = some(w.t, "macs", macWords), some(w.t, "users", userWords)
	labels := some(w.t, "labels", labelWords)
	for i, label := range labels { // unique without regard to case
		if slices.ContainsFunc(labels[:i], func(l string) bool { return strings.EqualFold(l, label) }) {
			labels[i] = fmt.Sprint(label, i)
		}
	}
	line["labels"] = labels
}

func (w *town) one() ids.Client { return rapid.SampledFrom(w.clients).Draw(w.t, "client") }

func (w *town) apply(changes ...*buspb.ClientChange) {
	m, err := clients.Mutation(w.org, changes...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.entries++
	if err := w.Apply(&buspb.Entry{Index: w.entries, Time: int64(w.entries), Mutation: m}); err != nil {
		w.t.Fatal(err)
	}
}

// happen lets something happen.
func (w *town) happen() {
	client := w.one()
	switch rapid.IntRange(0, 9).Draw(w.t, "what") {
	case 0, 1, 2:
		w.apply(&buspb.ClientChange{Change: &buspb.ClientChange_Label{Label: &buspb.ClientLabel{
			Clients: []string{client.String(), w.one().String()}, Add: some(w.t, "add", labelWords), Remove: some(w.t, "remove", labelWords),
		}}})
	case 3, 4:
		host := hostName(w.t)
		w.apply(&buspb.ClientChange{Change: &buspb.ClientChange_Info{Info: &buspb.ClientInfo{
			Client: client.String(), Hostname: host, Fqdn: fqdn(w.t, host), System: rapid.SampledFrom(osWords).Draw(w.t, "os"),
			Users: some(w.t, "users", userWords), MacAddresses: some(w.t, "macs", macWords), Labels: some(w.t, "labels", labelWords),
		}}})
	case 5:
		if len(w.clients) > 1 {
			w.delete(client)
			w.clients = slices.DeleteFunc(w.clients, func(c ids.Client) bool { return c == client })
		}
	case 6:
		id := w.enrol(rapid.Uint64().Draw(w.t, "key"))
		if !slices.Contains(w.clients, id) {
			w.clients = append(w.clients, id)
		}
	case 7:
		w.SetOnline(w.org, client, rapid.Bool().Draw(w.t, "online"))
	case 8:
		ago := rapid.SampledFrom([]time.Duration{time.Minute, 30 * time.Minute, time.Hour, 3 * time.Hour}).Draw(w.t, "ago")
		address := rapid.OneOf(rapid.SampledFrom(addresses), rapid.Custom(anyAddress)).Draw(w.t, "address")
		w.Touch(w.org, client, address, noon.Add(-ago))
	case 9:
		w.RemoteOnline("b", w.org, []ids.Client{client}, []ids.Client{w.one()})
	}
}

func (w *town) enrol(seed uint64) ids.Client {
	key, client := madeUpKey(seed)
	w.apply(&buspb.ClientChange{Change: &buspb.ClientChange_Enrol{Enrol: &buspb.ClientEnrol{Client: client.String(), PublicKey: key}}})
	return client
}

func (w *town) delete(client ids.Client) {
	w.apply(&buspb.ClientChange{Change: &buspb.ClientChange_Delete{Delete: &buspb.ClientDelete{Client: client.String()}}})
}

// query makes words of what there is, whole or in part.
func (w *town) query() []string {
	return rapid.SliceOfN(rapid.Custom(w.word), 0, 3).Draw(w.t, "words")
}

func (w *town) word(t *rapid.T) string {
	key := rapid.SampledFrom([]string{"", "", "", "host:", "label:", "user:", "mac:", "id:", "ip:", "os:", "*"}).Draw(t, "key")
	word := key + w.value(t, key)
	if key == "*" {
		word = rapid.SampledFrom([]string{
			"online", "recent", "all", "label:none", "seen:<1h", "seen:>=30m", "seen:>2h", "version:<0.7.1", "version:>=0.7", "version:=1", "version:0.1",
		}).Draw(t, "other")
	}
	if rapid.IntRange(0, 4).Draw(t, "negated") == 0 {
		word = "-" + word
	}
	return word
}

func (w *town) value(t *rapid.T, key string) string {
	record, err := w.Lookup(w.org, rapid.SampledFrom(w.clients).Draw(t, "whose"))
	if err != nil {
		t.Fatal(err)
	}
	names := []string{record.Hostname, record.FQDN, record.Client.String()}
	seen := append([]string{w.Seen(w.org, record.Client).Address, "11.1"}, addresses...)
	from := map[string][]string{
		"": append(names, append(record.Labels, seen...)...), "host:": names, "label:": labelWords, "user:": userWords,
		"mac:": macWords, "id:": {record.Client.String()}, "ip:": seen, "os:": osWords, "*": {"x"},
	}[key]
	text := []rune(rapid.SampledFrom(from).Draw(t, "text"))
	begin := rapid.IntRange(0, len(text)).Draw(t, "begin")
	text = text[begin:rapid.IntRange(begin, len(text)).Draw(t, "end")]
	for range rapid.IntRange(0, 2).Draw(t, "wild") {
		if len(text) > 0 && key != "" {
			text[rapid.IntRange(0, len(text)-1).Draw(t, "at")] = rapid.SampledFrom([]rune("**?")).Draw(t, "card")
		}
	}
	value := strings.ReplaceAll(strings.TrimLeft(string(text), "-"), `"`, "")
	if value == "" || key == "" && strings.Contains(value, ":") {
		return "e"
	}
	return value
}

// check compares a search with what is found by looking at everybody, page by
// page.
func (w *town) check(words []string) {
	var want []uint32
	byID := slices.SortedFunc(slices.Values(w.records()), func(a, b *clients.Record) int { return int(a.Ordinal) - int(b.Ordinal) })
	for _, r := range byID {
		if finds(words, lowered(r), w.Seen(w.org, r.Client), noon) {
			want = append(want, r.Ordinal)
		}
	}
	text := `"` + strings.Join(words, `" "`) + `"`
	if len(words) == 0 {
		text = ""
	}
	var got []uint32
	limit := rapid.IntRange(1, 50).Draw(w.t, "limit")
	for after := uint32(0); ; {
		page, err := w.Search(w.org, text, after, limit, noon)
		if err != nil {
			w.t.Fatalf("%s: %v", text, err)
		}
		if page.Total != len(want) {
			w.t.Fatalf("%q: total %d, want %d", text, page.Total, len(want))
		}
		for _, m := range page.Matches {
			got = append(got, m.Ordinal)
			if diff := cmp.Diff(w.Seen(w.org, m.Client), m.Seen); diff != "" {
				w.t.Fatal(diff)
			}
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		w.t.Fatalf("%q:\n%s", text, diff)
	}
}

func (w *town) records() (out []*clients.Record) {
	for _, client := range w.clients {
		r, err := w.Lookup(w.org, client)
		if err != nil {
			w.t.Fatal(err)
		}
		out = append(out, r)
	}
	return out
}

// Whatever happened, and whether the index knows of it or not, a search finds what
// looking at each client finds.
func TestSearchFindsWhatLookingAtEachFinds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := settle(t)
		for range rapid.IntRange(1, 4).Draw(t, "rounds") {
			for range rapid.IntRange(0, 8).Draw(t, "happenings") {
				w.happen()
			}
			switch rapid.IntRange(0, 2).Draw(t, "merge") {
			case 0:
				w.Merge(t.Context())
			case 1:
				w.GiveUpMerge(t.Context())
			}
			for range 4 {
				w.check(w.query())
			}
		}
	})
}
