package integration_test

import (
	"fmt"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestHuntOutlivesItsMasterAndAMinion kills the master when a third of the clients is
// through, and the minion when two thirds are. Every client takes part once, every row
// is there once, and the counts of all nodes are those of a recount. What the
// clients spent is summed once for each, and all nodes have the same sum.
func TestHuntOutlivesItsMasterAndAMinion(t *testing.T) {
	clients, rows := 60, int64(500)
	if *long {
		clients, rows = 500, 2000
	}
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	pack.AddSwarm(clients)
	pack.SetArtifact(numbers)
	var made struct {
		Hunt string `json:"hunt_id"`
	}
	pack.Post("/hunts", map[string]any{
		"artifacts": []any{map[string]any{"name": "Custom.Integration.Numbers", "parameters": map[string]string{"Rows": fmt.Sprint(rows)}}},
		"start":     true, "clients_per_minute": 6 * clients, // ten seconds
	}, &made)
	begin := time.Now()
	through := func(share int) {
		t.Helper()
		defer func() { t.Logf("%d %% after %v", share, time.Since(begin).Round(time.Millisecond)) }()
		pack.WaitFor(fmt.Sprintf("%d %% of the clients", share), func() (bool, string) {
			for _, n := range pack.Nodes() {
				if h, err := n.Hunt(made.Hunt); err == nil {
					return 100*h.Clients["completed"] >= share*clients, fmt.Sprint(h)
				}
			}
			return false, "no node answers"
		})
	}
	through(33)
	master := pack.Master()
	master.Kill()
	through(66)
	minion := pack.Nodes()[2]
	minion.Kill()
	minion.Start()
	master.Start()
	through(100)
	cpu := int64(0)
	for _, n := range pack.Nodes() {
		n.WaitReady()
		pack.WaitFor("the node to know of all", func() (bool, string) {
			h, err := n.Hunt(made.Hunt)
			return err == nil && h.Clients["completed"] == clients, fmt.Sprint(h, err)
		})
		h, err := n.Hunt(made.Hunt)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]int{"pending": 0, "running": 0, "completed": clients, "errored": 0, "declined": 0, "removed": 0, "with_results": clients}
		if fmt.Sprint(h.Clients) != fmt.Sprint(want) || h.Rows != int64(clients)*rows {
			t.Errorf("%v counts %+v, want %v and %d rows", n, h, want, int64(clients)*rows)
		}
		if cpu = max(cpu, h.CPU); h.CPUTold != clients || h.CPU <= 0 || h.CPU != cpu {
			t.Errorf("%v has %d ns of %d clients; others have %d", n, h.CPU, h.CPUTold, cpu)
		}
	}
	for _, n := range pack.Nodes() {
		n.Stop()
	}
	check := integration.HuntCheck{Store: pack.Store(), Hunt: made.Hunt, Result: "Custom.Integration.Numbers", Clients: clients, Rows: rows}
	if err := check.Run(t.Context()); err != nil {
		t.Error(err)
	}
}
