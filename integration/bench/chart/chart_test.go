package chart_test

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/integration/bench/chart"
)

var update = flag.Bool("update", false, "write the golden file")

func draw(t *testing.T, p *chart.Page) string {
	t.Helper()
	var out bytes.Buffer
	if n, err := p.WriteTo(&out); err != nil || n == 0 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	return out.String()
}

// wellFormed reads a drawing as XML and fails on numbers that are none.
func wellFormed(t *testing.T, text string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(text))
	for {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("%v in %s", err, text)
		}
	}
	if strings.Contains(text, "NaN") || strings.Contains(text, "Inf") {
		t.Errorf("not a number in %s", text)
	}
}

func TestDrawingIsAsOnFile(t *testing.T) {
	got := draw(t, &chart.Page{
		Title: `hunt of <one> row & "more"`,
		Panels: []chart.Panel{
			{Title: "clients", Curves: []chart.Curve{
				{Name: "online", Points: []chart.Point{{0, 100}, {1, 100}, {2, math.NaN()}, {3, 80}, {4, 100}}},
				{Name: "completed", Points: []chart.Point{{0, 0}, {1, 10}, {2, 60}, {3, 97}, {4, 100}}},
			}},
			{Title: "CPU, % of a core", Curves: []chart.Curve{{Name: "n0", Points: []chart.Point{{0, 3.5}, {4, 180}}}}},
		},
		Marks: []chart.Mark{{2.5, "master killed"}},
	})
	wellFormed(t, got)
	path := filepath.Join("testdata", "page.svg")
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil || got != string(want) {
		t.Errorf("%s is stale (%v): go test ./integration/bench/chart -update", path, err)
	}
}

func TestAnythingCanBeDrawn(t *testing.T) {
	for name, curves := range map[string][]chart.Curve{
		"nothing":     nil,
		"no point":    {{Name: "empty"}},
		"one point":   {{Points: []chart.Point{{5, 5}}}},
		"no number":   {{Points: []chart.Point{{1, math.NaN()}, {math.NaN(), 1}, {math.Inf(1), 1}, {1, math.Inf(-1)}}}},
		"negative":    {{Points: []chart.Point{{-10, -1e-9}, {-5, -1e9}}}},
		"huge":        {{Points: []chart.Point{{0, 1e300}, {1e300, 0}}}},
		"many curves": make([]chart.Curve, 30),
	} {
		t.Run(name, func(t *testing.T) {
			wellFormed(t, draw(t, &chart.Page{Panels: []chart.Panel{{Curves: curves}, {}}}))
		})
	}
}
