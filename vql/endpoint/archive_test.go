package endpoint

import (
	"archive/zip"
	"bytes"
	"errors"
	"strconv"
	"strings"
	"testing"
)

func TestArchivesHaveBoundedTrees(t *testing.T) {
	a := &archive{root: &zipNode{}, room: 1000}
	member := func(name string) *zip.File { return &zip.File{FileHeader: zip.FileHeader{Name: name}} }
	if a.add(member(strings.Repeat("a/", 30_000))) || a.room != 1000 {
		t.Errorf("a name of 30000 folders was taken, room %d", a.room)
	}
	if !a.add(member(strings.Repeat("a/", maxZipDepth))) {
		t.Error("a deep name was refused")
	}
	taken := 0
	for i := range 1000 {
		if a.add(member("b" + strconv.Itoa(i))) {
			taken++
		}
	}
	if taken != 1000-maxZipDepth || len(a.root.children) != taken+1 {
		t.Errorf("%d members were taken, %d are there", taken, len(a.root.children))
	}
	if !a.add(member("b1")) {
		t.Error("a member that needs no room was refused")
	}
}

func TestUnpackingIsBounded(t *testing.T) {
	var out bytes.Buffer
	w := &bounded{to: &out, left: 10}
	if _, err := w.Write(make([]byte, 10)); err != nil {
		t.Error(err)
	}
	if _, err := w.Write(make([]byte, 1)); !errors.Is(err, errUnpacked) || out.Len() != 10 {
		t.Errorf("error %v, %d bytes", err, out.Len())
	}
}
