package clients_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"raptorpack/clients"
	"raptorpack/ids"
)

// sky is presence as the test keeps it: by client, in plain maps.
type sky struct {
	online map[string]map[ids.Client]bool // by node
	seen   map[ids.Client]clients.Seen
}

func (s *sky) setOnline(node string, client ids.Client, online bool) {
	if s.online[node] == nil {
		s.online[node] = map[ids.Client]bool{}
	}
	s.online[node][client] = online
}

func (s *sky) saw(client ids.Client, address string, at time.Time) {
	before := s.seen[client]
	if at.Before(before.At) {
		return
	}
	if address == "" {
		address = before.Address
	}
	s.seen[client] = clients.Seen{At: at, Address: address}
}

func (s *sky) forget(client ids.Client) {
	delete(s.seen, client)
	for _, online := range s.online {
		delete(online, client)
	}
}

func (s *sky) look(client ids.Client) clients.Seen {
	seen := s.seen[client]
	for _, online := range s.online {
		seen.Online = seen.Online || online[client]
	}
	return seen
}

// Presence is what nodes told of it, whether a client is known here already,
// comes later, goes, or the whole state is restored in between.
func TestPresenceIsWhatNodesTold(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &town{Room: clients.New(nil), t: t}
		model := &sky{online: map[string]map[ids.Client]bool{}, seen: map[ids.Client]clients.Seen{}}
		var all []ids.Client
		enrolled := map[ids.Client]bool{}
		for i := range 8 {
			_, client := madeUpKey(uint64(i))
			all = append(all, client)
		}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			n := rapid.IntRange(0, len(all)-1).Draw(t, "client")
			client, node := all[n], rapid.SampledFrom([]string{"b-1", "b-2", "c-1"}).Draw(t, "node")
			at := noon.Add(-time.Duration(rapid.IntRange(0, 10).Draw(t, "ago")) * time.Minute)
			address := rapid.SampledFrom(addresses).Draw(t, "address")
			switch rapid.IntRange(0, 8).Draw(t, "what") {
			case 0:
				if !enrolled[client] {
					w.enrol(uint64(n))
					enrolled[client] = true
				}
			case 1:
				if enrolled[client] {
					w.delete(client)
					model.forget(client)
					enrolled[client] = false
				}
			case 2:
				online := rapid.Bool().Draw(t, "online")
				w.SetOnline(ids.RootOrg, client, online)
				model.setOnline("", client, online)
			case 3, 4:
				on, off := rapid.SliceOfN(rapid.SampledFrom(all), 0, 4).Draw(t, "on"), rapid.SliceOfN(rapid.SampledFrom(all), 0, 2).Draw(t, "off")
				w.RemoteOnline(node, ids.RootOrg, on, off)
				for _, c := range on {
					model.setOnline(node, c, true)
				}
				for _, c := range off {
					model.setOnline(node, c, false)
				}
			case 5:
				w.RemoteGone(node)
				delete(model.online, node)
			case 6:
				w.RemoteSeen(node, ids.RootOrg, []clients.Sighting{{Client: client, At: at, Address: address}})
				model.saw(client, address, at)
			case 7:
				w.Touch(ids.RootOrg, client, address, at)
				model.saw(client, address, at)
			case 8:
				w.reload(rapid.Bool().Draw(t, "through nothing"))
			}
			for _, c := range all {
				if diff := cmp.Diff(model.look(c), w.Seen(ids.RootOrg, c)); diff != "" {
					t.Fatalf("%s, enrolled %v:\n%s", c, enrolled[c], diff)
				}
			}
		}
	})
}

// reload restores what the room has, as a node does that lost its way.
func (w *town) reload(throughNothing bool) {
	var snapshot bytes.Buffer
	if _, err := w.View().WriteTo(&snapshot); err != nil {
		w.t.Fatal(err)
	}
	if throughNothing {
		if err := w.Restore(bytes.NewReader(nil)); err != nil {
			w.t.Fatal(err)
		}
	}
	if err := w.Restore(&snapshot); err != nil {
		w.t.Fatal(err)
	}
}

func TestPresenceIsFound(t *testing.T) {
	h := searchHouse(t)
	h.RemoteOnline("b-1", ids.RootOrg, []ids.Client{id(1), id(3)}, nil)
	h.RemoteOnline("c-1", ids.RootOrg, []ids.Client{id(3)}, []ids.Client{id(1)})
	h.RemoteSeen("c-1", ids.RootOrg, []clients.Sighting{{id(3), noon.Add(-2 * time.Hour), "10.9.9.9"}})
	find := func(query string, want ...int) {
		t.Helper()
		page, err := h.Search(ids.RootOrg, query, 0, 100, noon)
		if err != nil {
			t.Fatal(err)
		}
		var got []int
		for _, m := range page.Matches {
			got = append(got, slices.Index([]ids.Client{id(0), id(1), id(2), id(3)}, m.Client))
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s:\n%s", query, diff)
		}
	}
	find("online", 1, 2, 3)
	find("10.9", 3)
	h.RemoteGone("b-1")
	find("online", 2, 3)
	h.RemoteGone("c-1")
	find("online", 2)
	find("ip:10.9.*", 3) // what a node saw stays seen
}

// A node's connections are its own to close.
func TestRemoteCannotCloseWhatIsOpenHere(t *testing.T) {
	h := newHouse(t)
	h.enrol(0)
	h.SetOnline(ids.RootOrg, id(0), true)
	h.RemoteOnline("b-1", ids.RootOrg, nil, []ids.Client{id(0)})
	h.RemoteGone("b-1")
	if !h.Seen(ids.RootOrg, id(0)).Online {
		t.Error("offline, because another node said so")
	}
}

// Whatever part of an address is sought, it is found in those that have it: also
// where the part begins like itself, and across octets.
func TestPartsOfAddressesAreFound(t *testing.T) {
	c := found(t, fleet{81, 1})
	octets := []string{"1", "11", "112"}
	var addresses []string
	parts := map[string]bool{}
	for i := range 81 {
		address := strings.Join([]string{octets[i%3], octets[i/3%3], octets[i/9%3], octets[i/27]}, ".")
		c.Touch(ids.RootOrg, c.fleet.client(t, i), address, noon)
		addresses = append(addresses, address)
		for begin := range address {
			parts[address[begin:]], parts[address[:len(address)-begin]] = true, true
		}
	}
	c.Meagre(0)
	c.Merge(t.Context())
	for part := range parts {
		want := 0
		for _, address := range addresses {
			if strings.Contains(address, part) {
				want++
			}
		}
		if page, err := c.Search(ids.RootOrg, "ip:"+part, 0, 1, noon); err != nil || page.Total != want {
			t.Errorf("%s: %v, %v; want %d", part, page, err, want)
		}
	}
}
