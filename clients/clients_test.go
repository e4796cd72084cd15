package clients_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/rsa"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

var (
	keys []*rsa.PrivateKey
	noon = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
)

func TestMain(m *testing.M) {
	for range 4 {
		key, err := rsa.GenerateKey(rand.Reader, 2048)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		keys = append(keys, key)
	}
	goleak.VerifyTestMain(m)
}

func id(i int) ids.Client { return ids.ClientOfKey(&keys[i].PublicKey) }

// house is a room with a hand-fed ledger.
type house struct {
	*clients.Room
	t     *testing.T
	index uint64
	now   time.Time
}

func newHouse(t *testing.T) *house {
	return &house{Room: clients.New(nil), t: t, now: noon}
}

func (h *house) apply(m *buspb.Mutation, err error) error {
	h.t.Helper()
	if err != nil {
		h.t.Fatalf("plan: %v", err)
	}
	if m == nil {
		return nil
	}
	h.index++
	h.now = h.now.Add(time.Second)
	return h.Apply(&buspb.Entry{Index: h.index, Time: h.now.UnixMicro(), Mutation: m})
}

func (h *house) must(m *buspb.Mutation, err error) {
	h.t.Helper()
	if err := h.apply(m, err); err != nil {
		h.t.Fatalf("apply: %v", err)
	}
}

func (h *house) enrol(numbers ...int) {
	h.t.Helper()
	for _, i := range numbers {
		h.must(h.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: id(i), Key: &keys[i].PublicKey}))
	}
}

func (h *house) bytes() string {
	h.t.Helper()
	var out bytes.Buffer
	if _, err := h.View().WriteTo(&out); err != nil {
		h.t.Fatal(err)
	}
	return out.String()
}

func TestEnrolPinsTheKey(t *testing.T) {
	h := newHouse(t)
	h.enrol(0, 0)
	key, err := h.Key(ids.RootOrg, id(0))
	if err != nil || !key.Equal(&keys[0].PublicKey) {
		t.Fatalf("key %v, %v", key, err)
	}
	if h.Count(ids.RootOrg) != 1 {
		t.Errorf("%d clients after enrolling one twice", h.Count(ids.RootOrg))
	}
	if _, err := h.PlanEnrol(ids.RootOrg, clients.Enrolment{Client: id(0), Key: &keys[1].PublicKey}); !errors.Is(err, clients.ErrRefused) {
		t.Errorf("plan with another's key: %v", err)
	}
	if _, err := h.Key(ids.RootOrg, id(1)); !errors.Is(err, clients.ErrUnknownClient) {
		t.Errorf("key of a stranger: %v", err)
	}
}

func TestHostileEntriesAreRefusedAndChangeNothing(t *testing.T) {
	h := newHouse(t)
	h.enrol(0)
	before := h.bytes()
	for _, body := range [][]byte{
		[]byte("\xff\xff\xff"), {0x0a, 0x00}, {0x0a, 0x02, 0x0a, 0x00},
	} {
		if err := h.apply(&buspb.Mutation{Kind: clients.Kind, Body: body}, nil); err == nil {
			t.Errorf("body %x was accepted", body)
		}
	}
	if err := h.apply(&buspb.Mutation{Kind: clients.Kind, Org: "../x"}, nil); !errors.Is(err, clients.ErrRefused) {
		t.Errorf("org ../x: %v", err)
	}
	if after := h.bytes(); after != before {
		t.Errorf("state changed:\n%s", cmp.Diff(before, after))
	}
}

func TestLabelsIgnoreCaseAndKeepSpelling(t *testing.T) {
	h := newHouse(t)
	h.enrol(0, 1)
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(0), id(1)}, []string{"Prod", " web "}, nil))
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(0)}, []string{"PROD", "alpha"}, []string{"WEB"}))
	record, err := h.Lookup(ids.RootOrg, id(0))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"alpha", "Prod"}, record.Labels); diff != "" {
		t.Error(diff)
	}
	if !record.HasLabel("pROD") || record.HasLabel("web") {
		t.Error("HasLabel is wrong")
	}
	for _, bad := range []string{"", "  ", "a\nb", strings.Repeat("x", 65), "\xff"} {
		if _, err := h.PlanLabels(ids.RootOrg, []ids.Client{id(0)}, []string{bad}, nil); !errors.Is(err, clients.ErrRefused) {
			t.Errorf("label %q: %v", bad, err)
		}
	}
}

func TestInfoFromSelfReportAndInterrogation(t *testing.T) {
	h := newHouse(t)
	h.enrol(0)
	h.must(h.PlanInfo(ids.RootOrg, id(0), []byte(`{"hostname":"web-1","fqdn":"web-1.example","system":"linux","release":"debian 12","architecture":"amd64","client_version":"0.77.2","client_name":"velociraptor","build_time":"2026-01-01","install_time":1700000000,"labels":["lab"]}`), ids.Flow{}, nil))
	flow := ids.NewFlow(noon)
	h.must(h.PlanInfo(ids.RootOrg, id(0), []byte(`{"Name":"raptorpack","Version":{"version":"0.1.0"},"Hostname":"web-1","OS":"linux","Platform":"debian","PlatformVersion":"12.5","Fqdn":"web-1.example","MACAddresses":["b","a","b"],"Labels":["lab2"]}`), flow, []string{"root", "ada"}))
	r, err := h.Lookup(ids.RootOrg, id(0))
	if err != nil {
		t.Fatal(err)
	}
	got := []any{r.Hostname, r.FQDN, r.System, r.Release, r.Architecture, r.InstallTime, r.MACs, r.Users, r.Labels, r.Interrogated.IsZero()}
	want := []any{"web-1", "web-1.example", "linux", "debian 12.5", "amd64", int64(1700000000), []string{"a", "b"}, []string{"ada", "root"}, []string{"lab", "lab2"}, false}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	if m, err := h.PlanInfo(ids.RootOrg, id(0), []byte(`{"hostname":"web-1"}`), ids.Flow{}, nil); m != nil || err != nil {
		t.Errorf("a report without news gives %v, %v", m, err)
	}
	if _, err := h.PlanInfo(ids.RootOrg, id(0), []byte(`[1]`), ids.Flow{}, nil); !errors.Is(err, clients.ErrRefused) {
		t.Errorf("garbage: %v", err)
	}
}

func TestInfoIsCleanedAndCut(t *testing.T) {
	h := newHouse(t)
	h.enrol(0)
	h.must(h.PlanInfo(ids.RootOrg, id(0), []byte(`{"hostname":"a\u001b[31mb\n`+strings.Repeat("x", 5000)+`"}`), ids.Flow{}, nil))
	r, _ := h.Lookup(ids.RootOrg, id(0))
	if len(r.Hostname) != 1024 || strings.ContainsAny(r.Hostname, "\x1b\n") {
		t.Errorf("host name of %d bytes: %.20q", len(r.Hostname), r.Hostname)
	}
}

func TestSnapshotRestoresTheSameBytes(t *testing.T) {
	h := newHouse(t)
	h.enrol(0, 1, 2)
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(1)}, []string{"b", "a"}, nil))
	h.must(h.PlanMetadata(ids.RootOrg, id(1), map[string]string{"owner": "ops", "site": "x"}, nil))
	h.must(h.PlanDelete(ids.RootOrg, id(0)))
	h.must(h.PlanDelete(ids.RootOrg, id(2)))
	before := h.bytes()
	other := newHouse(t)
	if err := other.Restore(strings.NewReader(before)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, other.bytes()); diff != "" {
		t.Error(diff)
	}
	other.enrol(3)
	if r, err := other.Lookup(ids.RootOrg, id(3)); err != nil || r.Ordinal != 3 {
		t.Errorf("an ordinal was used again: %v, %v", r, err)
	}
}

func TestViewStandsStillWhileApplyGoesOn(t *testing.T) {
	h := newHouse(t)
	h.enrol(0)
	view, before := h.View(), h.bytes()
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(0)}, []string{"later"}, nil))
	h.enrol(1)
	var out bytes.Buffer
	if _, err := view.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, out.String()); diff != "" {
		t.Error(diff)
	}
}

func TestWatchIsToldOncePerChange(t *testing.T) {
	var told []string
	room := clients.New(func(_ ids.Org, c ids.Client, what clients.Change) {
		told = append(told, fmt.Sprint(c, " ", what))
	})
	h := &house{Room: room, t: t, now: noon}
	h.enrol(0, 0)
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(0)}, []string{"x"}, nil))
	want := []string{fmt.Sprint(id(0), " ", clients.Enrolled), fmt.Sprint(id(0), " ", clients.Labelled)}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
}

// Rooms that keep sets of ordinals learn which one a deleted client had, and find
// each client by its ordinal as long as it is there.
func TestFollowersLearnOrdinals(t *testing.T) {
	h := newHouse(t)
	var told []string
	h.Follow(func(e clients.Event) {
		now, known := h.Ordinal(e.Org, e.Client)
		if known != (e.What != clients.Deleted) || known && now != e.Ordinal || e.At.IsZero() {
			t.Errorf("told %+v, asked %d %v", e, now, known)
		}
		told = append(told, fmt.Sprint(e.Client, " ", e.Ordinal, " ", e.What))
	})
	h.enrol(0, 1)
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(1)}, []string{"x"}, nil))
	h.must(h.PlanDelete(ids.RootOrg, id(0)))
	h.enrol(0)
	want := []string{
		fmt.Sprint(id(0), " 0 ", clients.Enrolled), fmt.Sprint(id(1), " 1 ", clients.Enrolled),
		fmt.Sprint(id(1), " 1 ", clients.Labelled), fmt.Sprint(id(0), " 0 ", clients.Deleted),
		fmt.Sprint(id(0), " 2 ", clients.Enrolled),
	}
	if diff := cmp.Diff(want, told); diff != "" {
		t.Error(diff)
	}
	for ordinal, want := range []ids.Client{{}, id(1), id(0), {}} {
		if got, ok := h.ByOrdinal(ids.RootOrg, uint32(ordinal)); got != want || ok == want.IsZero() {
			t.Errorf("ordinal %d is %q, %v; want %q", ordinal, got, ok, want)
		}
	}
	other, err := ids.ParseOrg("O1")
	if err != nil {
		t.Fatal(err)
	}
	if _, ok := h.ByOrdinal(other, 1); ok {
		t.Error("an org without clients has one")
	}
	for _, who := range []ids.Client{ids.Server, id(3)} {
		if _, ok := h.Ordinal(ids.RootOrg, who); ok {
			t.Errorf("%s has an ordinal", who)
		}
	}
	if _, ok := h.Ordinal(other, id(1)); ok {
		t.Error("a client of another org is found")
	}
}

func searchHouse(t *testing.T) *house {
	h := newHouse(t)
	h.enrol(0, 1, 2, 3)
	for i, info := range []string{
		`{"hostname":"web-1","fqdn":"web-1.eu.example","system":"linux","client_version":"0.7.1","MACAddresses":["00:16:3e:01"]}`,
		`{"hostname":"web-2","fqdn":"web-2.us.example","system":"linux","client_version":"0.10.0"}`,
		`{"hostname":"LAPTOP","fqdn":"laptop.corp","system":"windows","client_version":"0.6.9"}`,
	} {
		h.must(h.PlanInfo(ids.RootOrg, id(i), []byte(info), ids.Flow{}, []string{"ada", fmt.Sprint("user", i)}))
	}
	h.must(h.PlanLabels(ids.RootOrg, []ids.Client{id(0), id(2)}, []string{"Prod"}, nil))
	h.Touch(ids.RootOrg, id(0), "10.1.2.3", noon.Add(-time.Minute))
	h.Touch(ids.RootOrg, id(1), "10.2.0.1", noon.Add(-3*time.Hour))
	h.SetOnline(ids.RootOrg, id(2), true)
	return h
}

func TestSearchGrammar(t *testing.T) {
	h := searchHouse(t)
	cases := map[string][]int{
		"":                   {0, 1, 2, 3},
		"all":                {0, 1, 2, 3},
		"web":                {0, 1},
		"WEB eu":             {0},
		"host:web*":          {0, 1},
		"host:*.corp":        {2},
		"host:eb":            {0, 1},
		"label:prod":         {0, 2},
		"label:pro":          nil,
		"label:pr*":          {0, 2},
		"label:none":         {1, 3},
		"-label:prod web":    {1},
		"prod":               {0, 2},
		"os:windows":         {2},
		"ip:10.1.*":          {0},
		"10.1":               {0},
		"-10.1":              {1, 2, 3},
		"mac:00:16:*":        {0},
		"user:user1":         {1},
		"user:ada -os:linux": {2},
		"version:<0.7":       {2},
		"version:>=0.7.1":    {0, 1},
		"version:0.10":       {1},
		"seen:<2h":           {0, 2},
		"seen:>2h":           {1, 3},
		"online":             {2},
		"recent":             {0, 2},
		"-online":            {0, 1, 3},
		id(3).String():       {3},
		id(3).String() + " " + strings.ToLower(id(3).String()): {3},
		id(3).String() + " " + id(1).String():                  nil,
		"X" + id(3).String()[1:]:                               nil,
		"id:" + id(3).String()[:8] + "*":                       {3},
		`"web-2"`:                                              {1},
	}
	for query, want := range cases {
		page, err := h.Search(ids.RootOrg, query, 0, 100, noon)
		if err != nil {
			t.Errorf("%q: %v", query, err)
			continue
		}
		var got []int
		for _, m := range page.Matches {
			got = append(got, int(m.Ordinal))
		}
		if diff := cmp.Diff(want, got); diff != "" || page.Total != len(want) {
			t.Errorf("%q: total %d\n%s", query, page.Total, diff)
		}
	}
}

func TestSearchRefusesWithAReason(t *testing.T) {
	h := searchHouse(t)
	for _, query := range []string{"host:", "seen:x", "seen:=1h", "version:<x", `"open`, "-"} {
		if _, err := h.Search(ids.RootOrg, query, 0, 10, noon); !errors.Is(err, clients.ErrQuery) {
			t.Errorf("%q: %v", query, err)
		}
	}
}

func TestSearchPages(t *testing.T) {
	h := searchHouse(t)
	var got []uint32
	for after := uint32(0); ; {
		page, err := h.Search(ids.RootOrg, "", after, 3, noon)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range page.Matches {
			got = append(got, m.Ordinal)
		}
		if after = page.Next; after == 0 {
			break
		}
	}
	if diff := cmp.Diff([]uint32{0, 1, 2, 3}, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseQuery(f *testing.F) {
	for _, seed := range []string{"host:web*", `"a b" -c`, "seen:<1d", "version:>=1..2", "ip:[", "-"} {
		f.Add(seed)
	}
	c := found(f, fleet{50, 1})
	c.Meagre(0)
	c.Merge(context.Background())
	f.Fuzz(func(t *testing.T, text string) {
		if _, err := c.Search(ids.RootOrg, text, 0, 1, noon); err != nil && !errors.Is(err, clients.ErrQuery) {
			t.Errorf("%q: %v", text, err)
		}
	})
}

func FuzzRestore(f *testing.F) {
	f.Add([]byte(`{"ordinal":0,"client_id":"C.7a840418cf635f31","first_seen_us":1,"public_key":""}`))
	f.Add([]byte(`{"ordinal":3,"deleted":true}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if err := clients.New(nil).Restore(bytes.NewReader(raw)); err == nil {
			return
		}
	})
}
