package clients_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/internal/testkit"
	"raptorpack/proto/buspb"
)

// city is a room with a fleet.
type city struct {
	*clients.Room
	fleet fleet
	t     testing.TB
	n     uint64
}

func found(t testing.TB, f fleet) *city {
	var snapshot bytes.Buffer
	f.write(&snapshot)
	c := &city{Room: clients.New(nil), fleet: f, t: t}
	if err := c.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	return c
}

func (c *city) apply(m *buspb.Mutation, err error) {
	if err == nil {
		c.n++
		err = c.Apply(&buspb.Entry{Index: c.n, Time: int64(c.n), Mutation: m})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

// live changes a share of all clients in every way.
func (c *city) live(r *rand.Rand) {
	for range c.fleet.size / 20 {
		i := r.IntN(c.fleet.size)
		client := c.fleet.client(c.t, i)
		if _, err := c.Lookup(ids.RootOrg, client); err != nil {
			continue // deleted
		}
		switch r.IntN(8) {
		case 0:
			c.apply(c.PlanDelete(ids.RootOrg, client))
		case 1, 2:
			row := fmt.Sprintf(`{"hostname":"RENAMED-%d","fqdn":"renamed-%d.corp.example.com","client_version":"0.99.%d"}`, i%50, i%50, i%7)
			c.apply(c.PlanInfo(ids.RootOrg, client, []byte(row), ids.Flow{}, []string{"root", "new.user"}))
		case 3:
			c.SetOnline(ids.RootOrg, client, true)
			c.Touch(ids.RootOrg, client, fmt.Sprintf("10.%d.%d.7", i%3, i%200), noon.Add(-time.Duration(i%200)*time.Minute))
		default:
			c.apply(c.PlanLabels(ids.RootOrg, []ids.Client{client}, []string{labelNames[r.IntN(200)], "everybody"}, []string{labelNames[r.IntN(200)]}))
		}
	}
}

// check compares searches with what looking at each client finds.
func (c *city) check(queries ...string) {
	c.t.Helper()
	var records []*clients.Record
	var seen []clients.Seen
	for i := range c.fleet.size {
		if record, err := c.Lookup(ids.RootOrg, c.fleet.client(c.t, i)); err == nil {
			records = append(records, lowered(record))
			seen = append(seen, c.Seen(ids.RootOrg, record.Client))
		}
	}
	for _, query := range queries {
		var want []uint32
		words := strings.Fields(query)
		for i, r := range records {
			if finds(words, r, seen[i], noon) {
				want = append(want, r.Ordinal)
			}
		}
		page, err := c.Search(ids.RootOrg, query, 0, c.fleet.size, noon)
		if err != nil {
			c.t.Fatal(err)
		}
		var got []uint32
		for _, m := range page.Matches {
			got = append(got, m.Ordinal)
		}
		if !slices.Equal(want, got) || page.Total != len(want) {
			c.t.Errorf("%q: total %d, want %d\n%.2000s", query, page.Total, len(want), cmp.Diff(want, got))
		}
	}
}

// queries are as people type them, and as they do not.
var queries = strings.Fields(`desktop DESKTOP-7 we b 0 . t- example .com corp.e 7.corp web-ber lt-ber-00 macbook renamed renamed-4
	abc abc5 c. c.0 .0f 10.1 10.2. prod Prod-ber-0 tier everybody host:web* host:*.corp.example.com host:*-ber-* host:lt-???-00000* host:renamed*
	host:*example* label:prod-ber-0 label:tier* label:none -label:none os:windows os:*n* user:root user:ro user:administrator user:ada.turing user:*.turing
	user:new mac:00:16:* mac:3e mac:3c:5 mac:*:7f mac:00:16:3e:* mac:*3e:* mac:?0:50:* mac:*1*2* mac:*:16:*:0? mac:8c:16:45:??:??:?? mac:ff:* mac:*:ff mac:: mac:* 07.corp z9.us 9.e host:*7.corp* host:*7.corp ip:10.1.* ip:10 version:<0.77 version:0.99 online recent seen:<1h seen:>2h -online id:C.0* id:c.*ff id:7f`)

// The index says the same as looking at each client does, in a fleet of more than
// one segment: before there is one, when it is new, when it is behind, and when it
// has caught up.
func TestIndexFindsTheSameInAFleet(t *testing.T) {
	c := found(t, fleet{17_000, 5})
	c.check(queries[:4]...)
	c.Merge(t.Context())
	c.check(queries...)
	c.live(rand.New(rand.NewPCG(1, 2)))
	c.check("renamed web-ber", "label:everybody -online", "os:windows ber -label:none", "mac:00:16:* renamed", "desktop -mac:*3e* 7.corp")
	c.Merge(t.Context())
	c.check(queries...)
}

// Those who got other names since the grams were made are found by the new ones
// only, whatever many others have in common.
func TestRenamedAreFoundByTheirNewNames(t *testing.T) {
	h := newHouse(t)
	h.Meagre(0)
	h.enrol(0, 1, 2, 3)
	for i := range 4 {
		h.must(h.PlanInfo(ids.RootOrg, id(i), fmt.Appendf(nil, `{"hostname":"web-%d","fqdn":"web-%d.old"}`, i, i), ids.Flow{}, []string{"root"}))
	}
	h.Merge(t.Context())
	h.Meagre(100)
	h.must(h.PlanInfo(ids.RootOrg, id(1), []byte(`{"hostname":"zz~1","fqdn":"zz&1.new"}`), ids.Flow{}, []string{"ada"}))
	h.Merge(t.Context())
	for query, want := range map[string]int{
		"web": 3, "old": 3, "host:web*": 3, "host:*.old": 3, "user:root": 3, "user:ro*": 3, "zz": 1, "new": 1, "host:*.new": 1, "user:ada": 1, "zz~1": 1,
	} {
		if page, err := h.Search(ids.RootOrg, query, 0, 10, noon); err != nil || page.Total != want {
			t.Errorf("%q: %v, %v; want %d", query, page, err, want)
		}
	}
	h.Meagre(0)
	h.must(h.PlanInfo(ids.RootOrg, id(2), []byte(`{"hostname":"z&1"}`), ids.Flow{}, nil))
	h.Merge(t.Context())
	for query, want := range map[string]int{"z~1": 1, "z&1": 2, "~": 1, "&": 2, "host:?~1": 0, "host:z?~1": 1} {
		if page, err := h.Search(ids.RootOrg, query, 0, 10, noon); err != nil || page.Total != want {
			t.Errorf("%q: %v, %v; want %d", query, page, err, want)
		}
	}
}

// A segment forgets platforms that nobody has any more.
func TestAgentsThatChangePlatformsKeepNoneAlive(t *testing.T) {
	h := newHouse(t)
	h.Meagre(0)
	h.enrol(0)
	for i := range 4200 { // more than are remembered
		h.must(h.PlanInfo(ids.RootOrg, id(0), fmt.Appendf(nil, `{"release":"r%d"}`, i), ids.Flow{}, nil))
		h.Merge(t.Context())
	}
	h.must(h.PlanInfo(ids.RootOrg, id(0), []byte(`{"system":"plan9"}`), ids.Flow{}, nil))
	h.Merge(t.Context())
	if page, err := h.Search(ids.RootOrg, "os:plan9", 0, 10, noon); err != nil || page.Total != 1 {
		t.Errorf("%v, %v", page, err)
	}
}

// Run follows what Apply does, while others search and take views; it ends when it
// is told to.
func TestRunKeepsTheIndexWhileAllGoesOn(t *testing.T) {
	c := found(t, fleet{3000, 9})
	c.Meagre(100)
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := c.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	ended := make(chan struct{})
	for range 2 {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-ended:
					return
				default:
				}
				query := queries[i%len(queries)]
				page, err := c.Search(ids.RootOrg, query, 0, 50, noon)
				if err != nil || page.Total > c.fleet.size {
					t.Errorf("%q: %v, %v", query, page, err)
				}
				if i%10 == 0 {
					if _, err := c.View().WriteTo(&bytes.Buffer{}); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(3, 4))
	for range 5 {
		c.live(r)
	}
	close(ended)
	c.waitIndexed()
	stop()
	wg.Wait()
	c.check(queries...)
}

// waitIndexed waits until Run has nothing to do.
func (c *city) waitIndexed() {
	c.t.Helper()
	testkit.Eventually(c.t, "the index catches up", func() (any, bool) { return "", c.Indexed() })
}

func TestWildcardsAreThoseOfPathMatch(t *testing.T) {
	for _, pair := range [][2]string{{"*a*a*", "a"}, {"a*a", "a"}, {"*ab*b*", "ab"}, {"*ab*b*", "abb"}, {"*a*b", "ba"}, {"?", "é"}, {"", ""}, {"*", ""}} {
		if got, want := clients.Matches(pair[0], pair[1]), wildcards(pair[0], pair[1]); got != want {
			t.Errorf("%q matches %q: %v, want %v", pair[0], pair[1], got, want)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		cards := rapid.SampledFrom([]string{"ab*", "aabé**?"}).Draw(t, "cards")
		wild := rapid.StringOfN(rapid.SampledFrom([]rune(cards)), 0, 6, -1).Draw(t, "wild")
		text := rapid.StringOfN(rapid.SampledFrom([]rune("aabé")), 0, 6, -1).Draw(t, "text")
		if got, want := clients.Matches(wild, text), wildcards(wild, text); got != want {
			t.Fatalf("%q matches %q: %v, want %v", wild, text, got, want)
		}
	})
}
