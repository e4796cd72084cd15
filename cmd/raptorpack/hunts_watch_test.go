package main

import (
	"strings"
	"testing"
	"time"

	"github.com/tidwall/gjson"
)

func TestWatchTellsWhoseProcessorTimeItIs(t *testing.T) {
	for what, tc := range map[string]struct {
		cpu, told int64
		want      string
	}{
		"none told":  {0, 0, "3 rows; "},
		"some told":  {1_234_567_890, 2, "3 rows, 1.23s CPU of 2; "},
		"all told":   {90 * int64(time.Second), 5, "3 rows, 1m30s CPU; "},
		"no cost":    {0, 5, "3 rows, 0s CPU; "},
		"some again": {2_345_678, 7, "3 rows, 2.35ms CPU; "}, // attempts are flows of their own
	} {
		h := &huntView{ID: "H.1", State: "running", Clients: map[string]int{"completed": 4, "errored": 1}, Rows: 3, CPU: tc.cpu, CPUTold: tc.told}
		if line := huntLine(h, 0, 0, time.Second); !strings.Contains(line, tc.want) {
			t.Errorf("%s: %s", what, line)
		}
	}
}

func TestTablesShowTimesAndLeaveTheUntoldEmpty(t *testing.T) {
	c := column{"CPU", "cpu_ns"}
	for object, want := range map[string]string{
		`{"cpu_ns":1500000000}`: "1.5s", `{"cpu_ns":0}`: "0s", `{}`: "", `{"cpu_ns":"x"}`: "x", `{"cpu_ns":61500000000}`: "1m2s", `{"cpu_ns":812}`: "812ns",
	} {
		if got := c.cell(gjson.Get(object, c.path)); got != want {
			t.Errorf("%s is shown as %q, want %q", object, got, want)
		}
	}
	if got := (column{"ROWS", "rows"}).cell(gjson.Get(`{"rows":5}`, "rows")); got != "5" {
		t.Errorf("rows are shown as %q", got)
	}
}
