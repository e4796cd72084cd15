package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"syscall"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// Swarm is one process of simulated agents.
type Swarm struct {
	pack    *Pack
	process *process
}

// AddSwarm starts simulated agents that reach any node, and returns when all are
// connected.
func (p *Pack) AddSwarm(agents int) *Swarm {
	p.t.Helper()
	s := &Swarm{p, p.start("swarm", "pool", "--config", p.path("client.yaml"), "--clients", strconv.Itoa(agents), "--ramp", "50/s", "--min-back-off", "200ms")}
	p.t.Cleanup(func() { s.process.kill(syscall.SIGKILL) })
	p.wait("the swarm to be connected", func() (bool, string) {
		var found struct{ Total int }
		err := p.Get("/clients?q=online&limit=1", &found)
		return err == nil && found.Total >= agents, fmt.Sprintf("%d of %d, %v", found.Total, agents, err)
	})
	return s
}

// Hunt is what tests read of one.
type Hunt struct {
	State   string
	Clients map[string]int
	Rows    int64
	CPU     int64 `json:"cpu_ns"`
	CPUTold int   `json:"cpu_told"`
}

// Hunt asks the node.
func (n *Node) Hunt(id string) (Hunt, error) {
	var h Hunt
	answer, err := n.pack.http.Get(n.url("/hunts/" + id))
	if err != nil {
		return h, err
	}
	return h, decode(answer, &h)
}

// HuntCheck compares the rows of a hunt in a store with what its clients must have
// produced. It reads the store by itself: the pack may be gone.
type HuntCheck struct {
	Store   string // folder of the filestore
	Hunt    string
	Result  string
	Clients int
	Rows    int64 // numbered rows {"N":0} ... of each client
}

// Run returns everything that is wrong: clients that are missing, rows that are
// missing, doubled or out of order.
func (c HuntCheck) Run(ctx context.Context) error {
	store, err := filestore.Open(c.Store, filestore.Options{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return err
	}
	defer store.Close(context.WithoutCancel(ctx))
	reader, err := NewReader(ctx, store)
	if err != nil {
		return err
	}
	hunt, err := ids.ParseHunt(c.Hunt)
	if err != nil {
		return err
	}
	var lines bytes.Buffer
	report, err := reader.Export(ctx, filestore.HuntResults(ids.RootOrg, hunt, c.Result), filestore.RowsFilter{}, &lines)
	if err != nil {
		return fmt.Errorf("export rows: %w", err)
	}
	var errs []error
	if !report.Whole() {
		errs = append(errs, fmt.Errorf("not whole: %+v", report))
	}
	next := map[string]int64{}
	for line := range bytes.Lines(lines.Bytes()) {
		var row struct {
			ClientID string `json:"ClientId"`
			N        int64
		}
		if err := json.Unmarshal(line, &row); err != nil {
			return fmt.Errorf("row %q: %w", line, err)
		}
		if row.N != next[row.ClientID] {
			errs = append(errs, fmt.Errorf("%s: row %d where %d is next", row.ClientID, row.N, next[row.ClientID]))
		}
		next[row.ClientID] = row.N + 1
	}
	if len(next) != c.Clients {
		errs = append(errs, fmt.Errorf("rows of %d clients, want %d", len(next), c.Clients))
	}
	for client, n := range next {
		if n != c.Rows {
			errs = append(errs, fmt.Errorf("%s has %d rows, want %d", client, n, c.Rows))
		}
	}
	return errors.Join(errs...)
}
