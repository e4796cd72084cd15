package hunts_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"raptorpack/hunts"
)

func (w *world) wantCPU(t *testing.T, k hunts.Key, used time.Duration, told int64) {
	t.Helper()
	h := w.hunt(t, k)
	if h.Sums.CPU != used || h.Sums.CPUTold != told {
		t.Errorf("%d ns of %d flows, want %d of %d", h.Sums.CPU, h.Sums.CPUTold, used, told)
	}
	if ns := h.Sums.CPUNanoseconds(); (ns == nil) != (told == 0) || ns != nil && *ns != int64(used) {
		t.Errorf("%v ns told, want %d of %d flows", ns, used, told)
	}
}

// Each end counts once, whichever attempt, however often it is told and in a snapshot
// too; a flow that is deleted takes its time along, and a stock agent tells none.
func TestHuntSumsProcessorTimeOfThoseThatTell(t *testing.T) {
	w := newWorld(t, 4)
	k := w.create(t)
	w.nominate(t, k, 0, 1, 2, 3)
	w.must(t)(admission(t, k, 0, 0, 1, 2, 3), nil)
	w.wantCPU(t, k, 0, 0)
	w.must(t)(facts(ended(k, 0, 3, endedOK, 1, 1)), nil)
	w.wantCPU(t, k, 0, 0)
	for range 2 {
		w.must(t)(facts(costly(ended(k, 0, 0, endedOK, 3, 3), 100), costly(ended(k, 0, 1, endedBad, 0, 0), 20)), nil)
		w.wantCPU(t, k, 120, 2)
	}
	w.must(t)(facts(costly(ended(k, 0, 2, endedOK, 1, 2), 0)), nil) // waits for a row
	w.wantCPU(t, k, 120, 3)
	w.must(t)(w.PlanRerun(k, nil, "ada", noon))
	w.must(t)(admission(t, k, 1, 1), nil)
	w.must(t)(facts(costly(ended(k, 1, 1, endedOK, 0, 0), 7)), nil)
	w.wantCPU(t, k, 127, 4)
	again, err := w.restored()
	if err != nil {
		t.Fatal(err)
	}
	if h, err := again.Hunt(k); err != nil || h.Sums != w.hunt(t, k).Sums {
		t.Errorf("restored: %+v, %v", h, err)
	}
	w.must(t)(facts(deletes(k, 0, 0)), nil)
	w.wantCPU(t, k, 27, 3)
}

// The zip of a hunt tells each client's time, left out where its agent told none, and
// what was imported keeps it.
func TestProcessorTimeTravelsInAZip(t *testing.T) {
	g := newRig(t, 3)
	g.must(t)(facts(costly(ended(g.key, 0, 0, endedOK, 0, 0), 40), ended(g.key, 0, 1, endedOK, 0, 0)), nil)
	g.wantCPU(t, g.key, 40, 1)
	data, _ := g.zip(hunts.ZipOptions{})
	other, _ := abroad(t, data)
	other.wantCPU(t, other.key, 40, 1)
	lines, _, err := other.results.ClientsThere(context.Background(), other.key, "", 10)
	g.check(err)
	told := map[string]*int64{}
	for _, l := range lines {
		told[l.ClientID] = l.CPU
	}
	if one := told[id(0).String()]; one == nil || *one != 40 || told[id(1).String()] != nil {
		text, _ := json.Marshal(lines) // for the message only
		t.Errorf("clients %s", text)
	}
	again, _ := other.zip(hunts.ZipOptions{})
	if text := members(t, again)["clients.csv"]; !strings.Contains(text, ",40,") {
		t.Errorf("clients.csv: %s", text)
	}
}
