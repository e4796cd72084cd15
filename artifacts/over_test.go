package artifacts_test

import (
	"testing"

	"raptorpack/artifacts"
)

func TestDefinitionsOverOthersAreStronger(t *testing.T) {
	below := repository(t, "name: A\ndescription: below\nsources:\n- query: SELECT 1 FROM scope()\n", "name: B\nsources:\n- query: SELECT 1 FROM scope()\n")
	d, err := artifacts.Parse("a", []byte("name: A\ndescription: over\nsources:\n- query: SELECT 1 FROM scope()\n"))
	if err != nil {
		t.Fatal(err)
	}
	if err := artifacts.NewRepository(below).Add(d); err == nil {
		t.Error("an ordinary repository took a name of its parent")
	}
	over := artifacts.Over(below)
	if err := over.Add(d); err != nil {
		t.Fatal(err)
	}
	if got, err := over.Lookup("A"); err != nil || got.Description != "over" {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := below.Lookup("A"); err != nil || got.Description != "below" {
		t.Errorf("the parent has changed: %+v, %v", got, err)
	}
	if list := over.List(); len(list) != 2 || list[0].Description != "over" || list[1].Name != "B" {
		t.Errorf("%d listed, the first says %q", len(list), list[0].Description)
	}
}
