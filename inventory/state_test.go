package inventory_test

import (
	"strings"
	"testing"
	"time"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

func received(digit, path string) inventory.Received {
	return inventory.Received{Org: ids.RootOrg, Hash: strings.Repeat(digit, 64), Size: 7, Path: strings.Repeat(path, 32)}
}

// story is one of each kind of mutation, and refusals.
func story(t *testing.T) []*buspb.Entry {
	t.Helper()
	room := inventory.New(inventory.Options{Declared: func(ids.Org) []artifacts.DeclaredTool {
		return []artifacts.DeclaredTool{declare("A", artifacts.Tool{Name: "net", URL: "https://x.example/net.exe"})}
	}})
	var entries []*buspb.Entry
	do := func(m *buspb.Mutation, err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		e := &buspb.Entry{Index: uint64(len(entries)) + 1, Epoch: 1, Time: 1_700_000_000_000_000 + int64(len(entries)), Mutation: m}
		entries = append(entries, e)
		_ = room.Apply(e) // refusals are part of the story
	}
	upload := func(name string, f inventory.Received) {
		m, _, err := room.PlanUpload(ids.RootOrg, inventory.Upload{Name: name, Filename: name + ".exe", File: f, Setter: "ann"})
		do(m, err)
	}
	do(room.PlanSet(ids.RootOrg, artifacts.Tool{Name: "a", Version: "1", URL: "https://x.example/a"}, "ann"))
	do(room.PlanWant(ids.RootOrg, "a", "", "bob"))
	do(room.PlanWant(ids.RootOrg, "net", "", "bob"))
	do(inventory.PlanFailed(inventory.Wanted{Tool: artifacts.Tool{Name: "net"}, Index: 99}, "never asked for", "")) // refused
	do(inventory.PlanFailed(room.Wanted()[1], "404 <gone>", strings.Repeat("e", 64)))
	m, _, err := room.PlanFetched(room.Wanted()[0], received("1", "1"), "a.exe")
	do(m, err)
	do(m, nil) // refused: not wanted any more
	upload("b", received("2", "2"))
	upload("b", received("3", "3"))                           // replaces
	upload("c", received("3", "4"))                           // shares
	do(room.PlanDelete(ids.RootOrg, "b", "", "ann"))          // c keeps the file
	do(room.PlanDelete(ids.RootOrg, "c", "", "ann"))          // now it is unused
	do(inventory.PlanSwept(ids.RootOrg, []string{"x", "33"})) // none of them
	do(inventory.PlanSwept(ids.RootOrg, []string{strings.Repeat("3", 32)}))
	do(room.PlanSet(ids.RootOrg, artifacts.Tool{Name: "a", Version: "1", URL: "https://x.example/other"}, "ann"))
	do(room.PlanWant(ids.RootOrg, "a", "1", "bob"))
	do(&buspb.Mutation{Kind: inventory.Kind, Body: []byte{0xff}}, nil)
	do(&buspb.Mutation{Kind: inventory.Kind, Org: "?", Body: nil}, nil)
	return entries
}

func TestStateKeepsItsPromises(t *testing.T) {
	statetest.Run(t, func() replication.State { return inventory.New(inventory.Options{}) }, story(t))
}

func TestWhatCountsOfATool(t *testing.T) {
	w := newWorld(
		t, declare("First", artifacts.Tool{Name: "net"}),
		declare("Second", artifacts.Tool{Name: "net", URL: "https://x.example/net.exe"}),
		declare("Third", artifacts.Tool{Name: "net", URL: "https://y.example/other.exe"}),
		declare("Fourth", artifacts.Tool{Name: "v", Version: "1.9", URL: "https://x.example/v9"}),
		declare("Fifth", artifacts.Tool{Name: "v", Version: "1.10", URL: "https://x.example/v10"}),
	)
	if got := w.lookup("net"); got.URL != "https://x.example/net.exe" || got.Artifact != "Second" {
		t.Errorf("the first with a source should count: %+v", got)
	}
	if got := w.lookup("v"); got.Version != "1.10" {
		t.Errorf("the highest version should count: %+v", got)
	}
	if got, err := w.room.Lookup(ids.RootOrg, "v", "1.9"); err != nil || got.Artifact != "Fourth" {
		t.Errorf("a version that was asked for: %+v, %v", got, err)
	}
	w.do(w.room.PlanSet(ids.RootOrg, artifacts.Tool{Name: "net", URL: "https://mirror.example/n", ServeLocally: true}, "ann"))
	w.declared = append(w.declared, declare("Sixth", artifacts.Tool{Name: "net", URL: "https://z.example/z"}))
	if got := w.lookup("net"); !got.Override || got.URL != "https://mirror.example/n" || got.Setter != "ann" {
		t.Errorf("an operator's definition should count: %+v", got)
	}
	w.do(w.room.PlanDelete(ids.RootOrg, "net", "", "ann"))
	if got := w.lookup("net"); got.Override || got.Artifact != "Second" {
		t.Errorf("what artifacts say should count again: %+v", got)
	}
	_, err := w.room.PlanDelete(ids.RootOrg, "net", "", "ann")
	wantErr(t, err, inventory.ErrUnknown, "Second")
	_, err = w.room.Lookup(ids.RootOrg, "nothing", "")
	wantErr(t, err, inventory.ErrUnknown, "nothing")
	if names := len(w.room.Tools(ids.RootOrg)); names != 3 {
		t.Errorf("%d tools listed, want 3", names)
	}
}

func TestUploadIsStoredOnceAndReplaced(t *testing.T) {
	w := newWorld(t, declare("A", artifacts.Tool{Name: "x", URL: "https://x.example/x", ExpectedHash: strings.Repeat("a", 64)}))
	w.upload("x", "one")
	first := w.lookup("x").File
	w.upload("y", "one")
	if second := w.lookup("y").File; second.Path != first.Path || w.listed() != 1 {
		t.Errorf("the same bytes lie twice: %+v %+v, %d files", first, second, w.listed())
	}
	values := w.variables(w.lookup("x"))
	for name, want := range map[string]string{
		"Tool_x_HASH": first.Hash, "Tool_x_FILENAME": "x.bin", "Tool_x_VERSION": "",
		"Tool_x_URL":  "https://pack.example:8000/public/" + first.Path,
		"Tool_x_URLs": `["https://pack.example:8000/public/` + first.Path + `","http://second.example/sub/public/` + first.Path + `"]`,
	} {
		if values[name] != want {
			t.Errorf("%s is %q, want %q", name, values[name], want)
		}
	}
	if w.read(first.Path) != "one" {
		t.Errorf("the file says %q", w.read(first.Path))
	}
	w.upload("x", "two")
	w.upload("y", "three")
	if _, _, known := w.room.Public(first.Path); !known {
		t.Error("a file that was replaced is not served any more to tasks that name it")
	}
	if due := w.room.Unused(time.Now()); len(due[ids.RootOrg]) != 0 {
		t.Errorf("files %v are to go at once", due)
	}
	if due := w.room.Unused(time.Now().Add(inventory.KeepReplaced + time.Hour)); len(due[ids.RootOrg]) != 1 {
		t.Errorf("files %v are to go after a week, want one", due)
	}
	gone := w.lookup("x").File.Path
	w.do(w.room.PlanDelete(ids.RootOrg, "x", "", "ann"))
	if _, _, known := w.room.Public(gone); known {
		t.Error("a deleted file is still served")
	}
	if due := w.room.Unused(time.Now()); len(due[ids.RootOrg]) != 1 {
		t.Errorf("files %v are to go at once, want the deleted one", due)
	}
}

func TestBadToolsAreRefused(t *testing.T) {
	w := newWorld(t)
	long := strings.Repeat("x", 300)
	for _, bad := range []artifacts.Tool{
		{},
		{Name: "a/b"},
		{Name: long},
		{Name: "a\n"},
		{Name: "a", Version: "1/2"},
		{Name: "a", ExpectedHash: "abc"},
		{Name: "a", URL: "ftp://x.example/a"},
		{Name: "a", URL: "https:///a"},
		{Name: "a", URL: "https://x.example/" + strings.Repeat("y", 5000)},
		{Name: "a", Filename: "../a"},
		{Name: "a", Filename: ".."},
		{Name: "a", Filename: `c:\a`},
		{Name: "a", GithubProject: "only"},
		{Name: "a", GithubProject: "o/p", GithubAssetRegex: "("},
	} {
		_, err := w.room.PlanSet(ids.RootOrg, bad, "ann")
		wantErr(t, err, inventory.ErrInvalid, "")
	}
}

func TestToolWithoutAFileSaysWhy(t *testing.T) {
	w := newWorld(
		t, declare("A", artifacts.Tool{Name: "none"}),
		declare("A", artifacts.Tool{Name: "far", URL: "https://x.example/f", ExpectedHash: strings.Repeat("A", 64)}),
		declare("A", artifacts.Tool{Name: "near", URL: "https://x.example/n", ServeLocally: true, ExpectedHash: strings.Repeat("a", 64)}),
	)
	_, err := w.lookup("none").Variables([]string{"https://x/"})
	wantErr(t, err, inventory.ErrMissing, "upload")
	_, err = w.room.PlanWant(ids.RootOrg, "none", "", "ann")
	wantErr(t, err, inventory.ErrMissing, "upload")
	_, err = w.lookup("near").Variables([]string{"https://x/"})
	wantErr(t, err, inventory.ErrMissing, "not fetched yet")
	w.do(w.room.PlanWant(ids.RootOrg, "near", "", "ann"))
	_, err = w.lookup("near").Variables([]string{"https://x/"})
	wantErr(t, err, inventory.ErrFetching, "near")
	if got := w.variables(w.lookup("far")); got["Tool_far_URL"] != "https://x.example/f" || got["Tool_far_HASH"] != strings.Repeat("a", 64) || got["Tool_far_FILENAME"] != "f" {
		t.Errorf("a tool that agents fetch themselves: %v", got)
	}
	w.upload("none", "x")
	_, err = w.lookup("none").Variables(nil)
	wantErr(t, err, inventory.ErrMissing, "server URL")
}

func TestVersionsAreComparedAsNumbers(t *testing.T) {
	order := []string{"", "0.9", "1.9", "1.10", "v1.11", "2", "2.0.1", "2.beta", "2.rc"}
	for i := range order[1:] {
		if inventory.CompareVersions(order[i], order[i+1]) >= 0 || inventory.CompareVersions(order[i+1], order[i]) <= 0 {
			t.Errorf("%q should be below %q", order[i], order[i+1])
		}
	}
	if inventory.CompareVersions("1.0", "1") != 0 {
		t.Error("1.0 and 1 are not the same")
	}
}
