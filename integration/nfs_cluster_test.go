//go:build nfslab

package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestMain lets the program be the checker inside a guest.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == integration.CheckWord {
		os.Exit(integration.CheckInside(os.Args[2]))
	}
	code := m.Run()
	integration.RemoveBinary()
	os.Exit(code)
}

const (
	numbersName = "Custom.Integration.Numbers"
	bigFileName = "Custom.Integration.BigFile"
)

// clusterStory is a pack on machines of its own, an agent that always has a flow at
// work, and an operator who writes through all nodes all the while.
type clusterStory struct {
	t        *testing.T
	lab      *integration.Cluster
	begun    time.Time
	rows     int64 // of each flow
	file     string
	hash     string // of the file
	agents   []*clusterAgent
	operator *integration.ClusterOperator
}

// clusterAgent is an agent with its flows, of which the last is at work. The first
// uploads the file too.
type clusterAgent struct {
	*integration.ClusterAgent
	s     *clusterStory
	flows []string
}

func newClusterStory(t *testing.T, binary string) *clusterStory {
	t.Helper()
	s := &clusterStory{t: t, lab: integration.LaunchCluster(t, t.Name(), binary), begun: time.Now(), rows: 50_000}
	size := int64(30 << 20)
	if *long {
		s.rows, size = 1_000_000, 500<<20
	}
	s.file = filepath.Join(t.TempDir(), "big.bin") // the guests see the host's files
	s.hash = randomFile(t, s.file, size)
	s.lab.StartAll()
	return s
}

// agent adds an agent of some nodes, none: all, and gives it work.
func (s *clusterStory) agent(nodes ...*integration.ClusterNode) *clusterAgent {
	s.t.Helper()
	a := &clusterAgent{ClusterAgent: s.lab.AddAgent(nodes...), s: s}
	if len(s.agents) == 0 {
		s.lab.SetArtifact(numbers)
		s.lab.SetArtifact(bigFile)
	}
	s.agents = append(s.agents, a)
	a.collect()
	return a
}

// operate has an operator write labels of a client that is away: what it would be
// told of each change must not keep the others' work waiting.
func (s *clusterStory) operate() {
	s.t.Helper()
	client := s.lab.AddAgent()
	client.Leave()
	s.operator = client.Operate()
}

func (a *clusterAgent) collect() {
	a.s.t.Helper()
	artifacts := map[string]map[string]string{numbersName: {"Rows": strconv.FormatInt(a.s.rows, 10)}}
	if len(a.flows) == 0 {
		artifacts[bigFileName] = map[string]string{"File": a.s.file}
	}
	a.flows = append(a.flows, a.Collect(artifacts))
}

func (a *clusterAgent) last() string { return a.flows[len(a.flows)-1] }

// progress returns once rows were acknowledged that were not before, of a flow that
// goes on.
func (a *clusterAgent) progress() {
	a.s.t.Helper()
	for !a.Progress(a.last()) {
		a.collect()
	}
}

// rowsSoFar compares what was acknowledged with the store as it is.
func (s *clusterStory) rowsSoFar(when string) {
	s.t.Helper()
	for _, a := range s.agents {
		if err := a.Check(a.acknowledgedOnly()...); err != nil {
			s.t.Errorf("after %s: %v", when, err)
		}
	}
}

// acknowledgedOnly looks for what was acknowledged of each flow, and no more.
func (a *clusterAgent) acknowledgedOnly() []integration.Check {
	var checks []integration.Check
	for _, flow := range a.flows {
		checks = append(checks, integration.Check{Flow: flow, Result: numbersName, Rows: -1})
	}
	return checks
}

func (s *clusterStory) tell(format string, values ...any) {
	s.t.Helper()
	s.t.Logf("%6.1f s: %s", time.Since(s.begun).Seconds(), fmt.Sprintf(format, values...))
}

// end waits for all flows and checks everything there is.
func (s *clusterStory) end() {
	s.t.Helper()
	uploads := map[*clusterAgent]string{}
	for _, a := range s.agents {
		for _, flow := range a.flows {
			f := a.Await(flow, 20*time.Minute)
			if f.State != "completed" || f.Rows < s.rows {
				s.t.Errorf("the flow is %+v, want %d rows", f, s.rows)
			}
		}
		uploads[a] = a.uploaded()
	}
	s.operator.End(s.t)
	for _, a := range s.agents {
		if err := a.Check(a.everything(uploads[a])...); err != nil {
			s.t.Error(err)
		}
	}
	s.verify()
}

// everything looks for all rows of each flow, and for the upload of the first.
func (a *clusterAgent) everything(upload string) []integration.Check {
	checks := a.acknowledgedOnly()
	for i := range checks {
		checks[i].Rows = a.s.rows
	}
	checks[0].Upload, checks[0].UploadSHA256 = upload, a.s.hash
	return checks
}

func (a *clusterAgent) uploaded() string {
	a.s.t.Helper()
	all := a.Uploads(a.flows[0])
	if len(all) != 1 {
		a.s.t.Fatalf("uploads: %+v", all)
	}
	if all[0].SHA256 != a.s.hash {
		a.s.t.Errorf("the server hashed the upload to %s, the original is %s", all[0].SHA256, a.s.hash)
	}
	return all[0].StoredPath
}

// verify has the program check the store itself.
func (s *clusterStory) verify() {
	s.t.Helper()
	report, err := s.lab.Verify()
	if err != nil {
		s.t.Errorf("the program's own check: %v", err)
	}
	flows := 0
	for _, a := range s.agents {
		flows += len(a.flows)
	}
	s.tell("%d flows of %d rows, ledger %+v, %d restarts by the supervisor", flows, s.rows, report, s.lab.Restarts())
}
