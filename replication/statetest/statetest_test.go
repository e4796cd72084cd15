package statetest_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"raptorpack/proto/buspb"
	"raptorpack/replication"
	"raptorpack/replication/statetest"
)

// words is a state that counts words; "no" is refused. flaw breaks a promise.
type words struct {
	mu     sync.Mutex // only for the flaw "view"
	counts map[string]int
	flaw   string
}

var errNo = errors.New("the word is no")

func (w *words) Kind() string { return "words" }

func (w *words) Apply(e *buspb.Entry) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	word := string(e.Mutation.Body)
	if word == "no" {
		if w.flaw == "refusal" {
			w.counts["half done"]++
		}
		return errNo
	}
	if w.flaw == "entry" {
		e.Mutation.Org = "mine"
	}
	w.counts[word]++
	return nil
}

func (w *words) View() io.WriterTo {
	if w.flaw == "view" {
		return liveView{w}
	}
	return view{maps.Clone(w.counts), w.flaw}
}

// liveView shows the state as it is when it is written.
type liveView struct{ w *words }

func (v liveView) WriteTo(w io.Writer) (int64, error) {
	v.w.mu.Lock()
	defer v.w.mu.Unlock()
	return view{v.w.counts, ""}.WriteTo(w)
}

type view struct {
	counts map[string]int
	flaw   string
}

func (v view) WriteTo(w io.Writer) (int64, error) {
	keys := slices.Collect(maps.Keys(v.counts))
	if v.flaw != "order" {
		slices.Sort(keys)
	}
	var b bytes.Buffer
	for _, k := range keys {
		line, _ := json.Marshal(map[string]int{k: v.counts[k]})
		if v.flaw == "json" {
			line = line[1:]
		}
		b.Write(append(line, '\n'))
	}
	return b.WriteTo(w)
}

func (w *words) Restore(r io.Reader) error {
	if w.flaw != "replace" {
		w.counts = map[string]int{}
	}
	data, err := io.ReadAll(r)
	if err != nil && w.flaw != "read" {
		return fmt.Errorf("restore words: %w", err)
	}
	for line := range bytes.Lines(data) {
		if err := json.Unmarshal(line, &w.counts); err != nil {
			return fmt.Errorf("restore words: %w", err)
		}
	}
	return nil
}

func fresh(flaw string) func() replication.State {
	return func() replication.State { return &words{counts: map[string]int{}, flaw: flaw} }
}

func entries() []*buspb.Entry {
	var all []*buspb.Entry
	for _, word := range strings.Fields("a no b a c d e f g h no a b") {
		all = append(all, &buspb.Entry{Mutation: &buspb.Mutation{Kind: "words", Body: []byte(word)}})
	}
	return all
}

func TestSoundStatePasses(t *testing.T) {
	statetest.Run(t, fresh(""), entries())
}

func TestEachFlawIsFound(t *testing.T) {
	for flaw, check := range map[string]string{
		"order":   "GivesSameBytesForSameEntries",
		"json":    "WritesJSONLines",
		"refusal": "RefusalChangesNothing",
		"entry":   "ApplyLeavesTheEntryAlone",
		"replace": "RestoreReplacesEverything",
		"read":    "RestoreTellsReadErrors",
		"view":    "ViewStandsStillWhileApplyGoesOn",
	} {
		t.Run(flaw, func(t *testing.T) {
			for _, c := range statetest.Checks(fresh(flaw), entries()) {
				if c.Name == check && c.Run() == nil {
					t.Errorf("%s did not find it", check)
				}
			}
		})
	}
}
