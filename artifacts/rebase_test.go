package artifacts_test

import (
	"testing"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// What a folder has by now takes the place of what it had; stored definitions stay.
func TestARoomTakesOnWhatItsFolderHasByNow(t *testing.T) {
	room := artifacts.NewRoom(builtIn(t))
	m, _, err := room.PlanSet(ids.RootOrg, "name: Custom.Stored\nsources: [{query: SELECT 1 FROM scope()}]\n", "ada")
	if err == nil {
		err = room.Apply(&buspb.Entry{Index: 1, Mutation: m})
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := room.Repository(ids.RootOrg).Lookup("Folder.New"); err == nil {
		t.Fatal("it is there before")
	}
	fresh := builtIn(t)
	if err := fresh.Add(parse(t, "name: Folder.New\nsources: [{query: SELECT 1 FROM scope()}]\n")); err != nil {
		t.Fatal(err)
	}
	room.Rebase(fresh)
	for _, name := range []string{"Folder.New", "Custom.Stored"} {
		if _, err := room.Repository(ids.RootOrg).Lookup(name); err != nil {
			t.Error(name, err)
		}
	}
}
