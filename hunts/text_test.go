package hunts_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"raptorpack/hunts"
)

func TestSetsAsText(t *testing.T) {
	for text, want := range map[string][]uint32{
		"": nil, "0": {0}, "7": {7}, "0+2,2": {0, 1, 2, 5}, "65535+1": {65535, 65536}, "67108863": {1<<26 - 1},
	} {
		got, err := hunts.SetOfText(text)
		if err != nil || !slices.Equal(got, want) || hunts.TextOf(want) != text {
			t.Errorf("%q is %v, %v; %v is %q", text, got, err, want, hunts.TextOf(want))
		}
	}
	for _, text := range []string{",", "1,", "x", "-1", "1+", "+1", "67108864", "0+67108864", "67108863,0", "99999999999999999999", "1 "} {
		if got, err := hunts.SetOfText(text); err == nil {
			t.Errorf("%q is %v", text, got)
		}
	}
}

func TestAnySetComesBack(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		set := rapid.SliceOf(rapid.OneOf(rapid.Uint32Range(0, 300), rapid.Uint32Range(0, 1<<26-1))).Draw(r, "set")
		slices.Sort(set)
		set = slices.Compact(set)
		got, err := hunts.SetOfText(hunts.TextOf(set))
		if err != nil || !slices.Equal(got, set) {
			r.Fatalf("%v came back as %v, %v", set, got, err)
		}
	})
}

// FuzzRestore feeds any snapshot: it never panics, and what it takes comes back.
func FuzzRestore(f *testing.F) {
	w := newWorld(f, 5)
	k := w.create(f)
	w.nominate(f, k, 0, 1, 2, 4)
	w.must(f)(admission(f, k, 0, 0, 1), nil)
	w.must(f)(facts(ended(k, 0, 0, endedOK, 2, 2), ended(k, 0, 1, endedBad, 0, 0)), nil)
	w.must(f)(w.PlanRerun(k, nil, "ada", noon))
	f.Add(dump(w.Room))
	w.must(f)(w.PlanStop(k, false, "ada", noon))
	f.Add([]byte(`{"kind":"deleted","hunt":"H.X","deleted":1,"index":2}`))
	f.Add([]byte(strings.Replace(string(dump(w.Room)), `"errored":"1"`, `"errored":"0+9"`, 1)))
	f.Fuzz(func(t *testing.T, text []byte) {
		n := hunts.New(hunts.Options{Clients: w.clients})
		if n.Restore(bytes.NewReader(text)) != nil {
			return
		}
		once := dump(n)
		if err := n.Restore(bytes.NewReader(once)); err != nil {
			t.Fatalf("%v: %s", err, once)
		}
		if again := dump(n); !bytes.Equal(once, again) {
			t.Errorf("came back as\n%s\nnot\n%s", again, once)
		}
		n.List(k.Org)
	})
}
