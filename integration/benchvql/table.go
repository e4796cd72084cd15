package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"
)

// table collects the figures of queries.
type table struct{ lines []string }

func (t *table) add(w workload, n int, ours, theirs cost) {
	ratio := float64(ours.cpu) / float64(theirs.cpu)
	verdict := "ok"
	if ratio > w.aim {
		verdict = "MISSED"
	}
	per := func(x float64) float64 { return x / float64(n) }
	line := fmt.Sprintf("%s\t%d\t%.0f\t%.0f\t%.1f\t%.1f\t%.2f\t%.2f\t%s", w.name, n,
		per(float64(ours.cpu)), per(float64(theirs.cpu)), per(float64(ours.allocs)), per(float64(theirs.allocs)), ratio, w.aim, verdict)
	t.lines = append(t.lines, line)
	fmt.Fprintln(os.Stderr, strings.ReplaceAll(line, "\t", "  "))
}

func (t *table) print(w io.Writer) {
	if len(t.lines) == 0 {
		return
	}
	out := tabwriter.NewWriter(w, 2, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(out, "workload\trows\thost ns\tbare ns\thost allocs\tbare allocs\tratio\taim\t\t")
	for _, line := range t.lines {
		fmt.Fprintln(out, line+"\t")
	}
	out.Flush() // a table that cannot be printed has no reader
	fmt.Fprintf(w, "processor time and allocations a row; load average %s\n", loadAverage())
}

func loadAverage() string {
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	return strings.Join(strings.Fields(string(text))[:3], " ")
}
