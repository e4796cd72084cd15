package yara_test

import (
	"context"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/vql/yara"
)

func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		m := f.GetMetric()[0]
		out[strings.TrimPrefix(f.GetName(), "raptorpack_yara_")] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
	}
	return out
}

// unreadable is a target whose bytes do not come.
type unreadable struct{ strings.Reader }

func (unreadable) ReadAt([]byte, int64) (int, error) { return 0, context.DeadlineExceeded }

func TestScansAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	engine.Register(reg)
	before := gathered(t, reg)
	rules, err := engine.Compile(t.Context(), yara.Source{Text: `rule A { strings: $a = "needle" condition: $a }`})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if _, err := rules.Scan(t.Context(), whole("a needle in here"), yara.ScanOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	target := whole("0123456789")
	target.Reader = unreadable{}
	if _, err := rules.Scan(t.Context(), target, yara.ScanOptions{}); err == nil {
		t.Fatal("nothing was wrong with a target that cannot be read")
	}
	kept := gathered(t, reg)
	for name, want := range map[string]float64{"compiled_total": 1, "scans_total": 4, "failed_scans_total": 1, "scanned_bytes_total": 48, "working_instances": 0} {
		if got := kept[name] - before[name]; got != want {
			t.Errorf("%s grew by %v, want %v", name, got, want)
		}
	}
	if err := rules.Close(context.WithoutCancel(t.Context())); err != nil {
		t.Fatal(err)
	}
	if after := gathered(t, reg); after["instances"] != kept["instances"]-1 || kept["instances"] < 1 {
		t.Errorf("%v instances while one is kept, %v after it was closed", kept["instances"], after["instances"])
	}
}
