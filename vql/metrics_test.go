package vql_test

import (
	"context"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/vql"
)

// value reads one metric without dimensions.
func value(t *testing.T, reg *prometheus.Registry, name string) float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() == name {
			m := family.GetMetric()[0]
			return m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	t.Fatalf("no metric %s", name)
	return 0
}

func TestQueriesAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	counted := engine().Counted(vql.NewMetrics(reg))
	open := counted.NewScope(vql.SessionOptions{})
	defer open.Close()
	spilling := counted.NewScope(vql.SessionOptions{Limits: vql.Limits{SpillBytes: 100, TempDir: t.TempDir()}})
	for _, s := range []*vql.Scope{open, spilling} {
		if _, err := query(t, s, "SELECT len(list='ab') AS L, boom() AS B FROM range(end=50) WHERE _value >= 40 ORDER BY L"); err != nil {
			t.Fatal(err)
		}
	}
	spilling.Close() // what it did still counts
	for name, want := range map[string]float64{
		"raptorpack_vql_queries_total": 2, "raptorpack_vql_running_queries": 0, "raptorpack_vql_rows_total": 20,
		"raptorpack_vql_rows_scanned_total": 100, "raptorpack_vql_plugins_called_total": 2, "raptorpack_vql_panics_total": 20,
	} {
		if got := value(t, reg, name); got != want {
			t.Errorf("%s is %v, want %v", name, got, want)
		}
	}
	for _, name := range []string{
		"raptorpack_vql_functions_called_total", "raptorpack_vql_spilled_bytes_total", "raptorpack_vql_ops_total", "raptorpack_vql_cpu_seconds_total",
	} {
		if value(t, reg, name) == 0 {
			t.Errorf("%s is 0", name)
		}
	}
}

func TestARunningQueryShows(t *testing.T) {
	reg := prometheus.NewRegistry()
	scope := engine().Counted(vql.NewMetrics(reg)).NewScope(vql.SessionOptions{})
	defer scope.Close()
	p, err := vql.Parse("SELECT * FROM endless()")
	if err != nil {
		t.Fatal(err)
	}
	err = scope.RunProgram(context.Background(), p, func(*vql.Dict) error {
		if got := value(t, reg, "raptorpack_vql_running_queries"); got != 1 {
			t.Errorf("%v queries run, want 1", got)
		}
		if got := value(t, reg, "raptorpack_vql_rows_scanned_total"); got != 1 {
			t.Errorf("%v rows were scanned, want 1", got)
		}
		return vql.ErrStop
	})
	if err != nil {
		t.Fatal(err)
	}
}
