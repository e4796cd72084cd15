package jsonlines_test

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"raptorpack/internal/jsonlines"
)

type pair struct {
	Name string
	N    int
}

func TestOneLineEach(t *testing.T) {
	var out bytes.Buffer
	n, err := jsonlines.Write(&out, slices.Values([]pair{{"<a>&", 1}, {"two\nlines", 2}}))
	want := "{\"Name\":\"<a>&\",\"N\":1}\n{\"Name\":\"two\\nlines\",\"N\":2}\n"
	if err != nil || out.String() != want || n != int64(len(want)) {
		t.Errorf("%d bytes, %v: %q", n, err, out.String())
	}
}

var errFull = errors.New("full")

// narrow takes some bytes, then none.
type narrow struct{ left int }

func (n *narrow) Write(p []byte) (int, error) {
	taken := min(n.left, len(p))
	n.left -= taken
	if taken < len(p) {
		return taken, errFull
	}
	return taken, nil
}

func TestWhatWasWrittenIsCountedWhenItFails(t *testing.T) {
	for _, values := range [][]string{{"short"}, {strings.Repeat("long", 100_000), "more"}} {
		if n, err := jsonlines.Write(&narrow{3}, slices.Values(values)); n != 3 || !errors.Is(err, errFull) {
			t.Errorf("%d bytes, %v", n, err)
		}
	}
	if n, err := jsonlines.Write(io.Discard, slices.Values([]any{1, func() {}})); err == nil {
		t.Errorf("wrote a function, %d bytes", n)
	}
}
