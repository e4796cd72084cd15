package main

import (
	"fmt"
	"io"
	"text/tabwriter"
)

// figure is one line of the table. With a lower aim, less is better.
type figure struct {
	what     string
	measured float64
	unit     string
	aim      float64 // 0: none
	more     bool    // more is better
	samples  string
	load     string // load average when it was measured
}

func (f figure) misses() bool {
	switch {
	case f.aim == 0:
		return false
	case f.more:
		return f.measured < f.aim
	}
	return f.measured > f.aim
}

func (b *bench) add(f figure) {
	f.load = loadAverage()
	b.table = append(b.table, f)
	b.note("%s: %.4g %s (aim %.4g), %s", f.what, f.measured, f.unit, f.aim, f.samples)
}

func (b *bench) print(w io.Writer) {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "figure\taim\tmeasured\tunit\t\tsamples\tload average")
	for _, f := range b.table {
		aim, verdict := "-", ""
		if f.aim != 0 {
			aim, verdict = fmt.Sprintf("%.4g", f.aim), "ok"
		}
		if f.misses() {
			verdict = "MISSED"
		}
		fmt.Fprintf(t, "%s\t%s\t%.4g\t%s\t%s\t%s\t%s\n", f.what, aim, f.measured, f.unit, verdict, f.samples, f.load)
	}
	t.Flush() // a table that cannot be printed has no reader
}
