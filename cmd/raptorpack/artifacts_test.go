package main

import (
	"testing"

	"raptorpack/artifacts"
)

// Every definition that comes with the program calls what there is, where it runs.
func TestBuiltInArtifactsPassVerify(t *testing.T) {
	repository, err := artifacts.BuiltIn()
	if err != nil {
		t.Fatal(err)
	}
	v := &verifier{repository: repository}
	if v.endpoint, v.server, err = primitives(); err != nil {
		t.Fatal(err)
	}
	for _, d := range repository.List() {
		v.parsed = append(v.parsed, parsedFile{d.Name + ".yaml", d})
	}
	v.check()
	for _, p := range v.problems {
		t.Error(p)
	}
}
