package users_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
	"raptorpack/users"
)

func ptr[T any](v T) *T { return &v }

func TestOptionsAreSetOneByOne(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "", "reader")
	links := []string{`{"text":"Wiki","url":"https://wiki.example/"}`}
	h.must(h.PlanOptions("ada", users.OptionsWish{Theme: ptr("dark"), Timezone: ptr("UTC"), Links: &links}))
	h.must(h.PlanOptions("ada", users.OptionsWish{Lang: ptr("pt-br"), Theme: ptr("light"), Timezone: ptr("")}))
	want := users.Options{Theme: "light", Lang: "pt-br", Links: []json.RawMessage{json.RawMessage(links[0])}}
	if diff := cmp.Diff(want, h.Options("ada")); diff != "" {
		t.Error(diff)
	}
	h.must(h.PlanSet("ada", []string{"analyst"}, nil, false))
	if h.Options("ada").Theme != "light" {
		t.Error("a change of roles lost the options")
	}
	long := make([]string, 33)
	for i := range long {
		long[i] = links[0]
	}
	for name, wish := range map[string]users.OptionsWish{
		"zone": {Timezone: ptr("Mars/Olympus")}, "theme": {Theme: ptr("a\nb")}, "long": {Org: ptr(strings.Repeat("x", 129))},
		"lang": {Lang: ptr("<b>")}, "script": {Links: &[]string{`{"text":"x","url":"javascript:alert(1)"}`}},
		"no url": {Links: &[]string{`{"text":"x"}`}}, "no object": {Links: &[]string{`[]`}}, "many": {Links: &long},
	} {
		if _, err := h.PlanOptions("ada", wish); !errors.Is(err, users.ErrRefused) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := h.PlanOptions("nobody", users.OptionsWish{}); !errors.Is(err, users.ErrUnknownUser) {
		t.Error(err)
	}
}

func TestTheNewestMessagesAreKept(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "", "reader")
	for i := range 60 {
		m, err := h.PlanMessage("ada", fmt.Sprintf(`{"n":%d}`, i))
		if m != nil {
			m.Principal = "bob"
		}
		h.must(m, err)
	}
	got := h.Messages("ada")
	if len(got) != 50 || string(got[0].JSON) != `{"n":10}` || string(got[49].JSON) != `{"n":59}` || got[49].From != "bob" || !got[49].Sent.Equal(h.now) {
		t.Errorf("%d messages, first %+v, last %+v", len(got), got[0], got[len(got)-1])
	}
	for _, bad := range []string{"", "[]", "null", "{", `{"a":"` + strings.Repeat("x", 5000) + `"}`} {
		if _, err := h.PlanMessage("ada", bad); !errors.Is(err, users.ErrRefused) {
			t.Errorf("%.20q: %v", bad, err)
		}
	}
	h.must(h.PlanDelete("ada"))
	h.add("ada", "", "reader")
	if got := h.Messages("ada"); len(got) != 0 {
		t.Errorf("a new account reads %d messages of an old one", len(got))
	}
}

func TestFavoritesAreReplacedForgottenAndBounded(t *testing.T) {
	h := newHouse(t)
	h.add("ada", "", "reader")
	save := func(kind, name, spec string) error {
		m, err := h.PlanFavorite("ada", users.Favorite{Type: kind, Name: name, Spec: json.RawMessage(spec)})
		if err != nil {
			return err
		}
		return h.Apply(&buspb.Entry{Mutation: m})
	}
	for _, one := range []struct{ kind, name, spec string }{{"CLIENT", "b", `[1]`}, {"CLIENT", "a", `[2]`}, {"SERVER", "a", `[3]`}, {"CLIENT", "b", `[4]`}} {
		if err := save(one.kind, one.name, one.spec); err != nil {
			t.Fatal(err)
		}
	}
	var got []string
	for _, f := range h.Favorites("ada") {
		got = append(got, f.Type+" "+f.Name+" "+string(f.Spec))
	}
	if diff := cmp.Diff([]string{"CLIENT a [2]", "CLIENT b [4]", "SERVER a [3]"}, got); diff != "" {
		t.Error(diff)
	}
	h.must(h.PlanUnfavorite("ada", "CLIENT", "a"))
	m, err := h.PlanUnfavorite("ada", "CLIENT", "b")
	h.must(m, err)
	if err := h.Apply(&buspb.Entry{Mutation: m}); !errors.Is(err, users.ErrUnknownFavorite) {
		t.Errorf("forgotten twice: %v", err)
	}
	if _, err := h.PlanUnfavorite("ada", "SERVER", "b"); !errors.Is(err, users.ErrUnknownFavorite) {
		t.Error(err)
	}
	for i := len(h.Favorites("ada")); i < 200; i++ {
		if err := save("CLIENT", fmt.Sprint(i), `{}`); err != nil {
			t.Fatal(err)
		}
	}
	for what, err := range map[string]error{
		"too many": save("CLIENT", "more", `{}`), "no name": save("CLIENT", "", `{}`), "no type": save("", "x", `{}`), "no JSON": save("CLIENT", "1", `{`),
		"too long": save("CLIENT", "1", `"`+strings.Repeat("x", 65<<10)+`"`),
	} {
		if !errors.Is(err, users.ErrRefused) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := save("CLIENT", "199", `[9]`); err != nil {
		t.Errorf("a full list takes no change: %v", err)
	}
}

// A snapshot of a release without profiles restores, and nothing is lost in one with.
func TestProfilesKeepTheStatesPromises(t *testing.T) {
	h := newHouse(t)
	var entries []*buspb.Entry
	step := func(m *buspb.Mutation, err error) {
		t.Helper()
		h.must(m, err)
		m.Principal = "bob"
		entries = append(entries, &buspb.Entry{Index: uint64(len(entries) + 1), Epoch: 1, Time: noon.Add(time.Duration(len(entries)) * time.Second).UnixMicro(), Mutation: m})
	}
	for _, name := range []string{"ada", "bob"} {
		step(h.PlanSet(name, []string{"reader"}, nil, false))
		step(h.PlanFavorite(name, users.Favorite{Type: "CLIENT", Name: "one", Description: "d", Spec: json.RawMessage(`{ "a<b": [1, 2] }`)}))
		step(h.PlanMessage(name, `{"text":"<hello>"}`))
		step(h.PlanOptions(name, users.OptionsWish{Lang: ptr("en"), Links: &[]string{`{"text":"a","url":"http://x"}`}}))
	}
	step(h.PlanUnfavorite("ada", "CLIENT", "one"))
	step(h.PlanDelete("bob"))
	statetest.Run(t, func() replication.State { return users.New() }, entries)

	old := users.New()
	if err := old.Restore(strings.NewReader(`{"user":"ada","roles":["reader"],"created_us":1}` + "\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := old.Account("ada"); err != nil || len(old.Favorites("ada")) != 0 {
		t.Errorf("restored: %v, %v", err, old.Favorites("ada"))
	}
}
