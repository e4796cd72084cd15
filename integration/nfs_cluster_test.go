//go:build nfslab

package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"raptorpack/integration"
)

// TestMain lets the program be the checker inside a guest.
func TestMain(m *testing.M) {
	if len(os.Args) == 3 && os.Args[1] == integration.CheckWord {
		os.Exit(integration.CheckInside(os.Args[2]))
	}
	os.Exit(m.Run())
}

// clusterStory is one collection between machines that lose their power.
type clusterStory struct {
	t    *testing.T
	lab  *integration.Cluster
	rows int64
	cuts int
	hash string
	flow string
}

func beginCluster(t *testing.T, binary string) *clusterStory {
	t.Helper()
	s := &clusterStory{t: t, lab: integration.LaunchCluster(t, t.Name(), binary), rows: 150_000, cuts: 5}
	size := int64(60 << 20)
	if *long {
		s.rows, s.cuts, size = 1_000_000, 20, 500<<20
	}
	file := filepath.Join(t.TempDir(), "big.bin") // the guests see the host's files
	s.hash = randomFile(t, file, size)
	s.lab.StartServer()
	s.lab.AddAgent()
	s.lab.SetArtifact(numbers)
	s.lab.SetArtifact(bigFile)
	s.flow = s.lab.Collect([]string{"Custom.Integration.Numbers", "Custom.Integration.BigFile"},
		fmt.Sprintf("Custom.Integration.Numbers.Rows=%d", s.rows), "Custom.Integration.BigFile.File="+file)
	return s
}

// soFar compares what was acknowledged with the store as it is.
func (s *clusterStory) soFar() error {
	return s.lab.Check(integration.Check{Flow: s.flow, Result: "Custom.Integration.Numbers", Rows: -1})
}

// cutNode cuts the power of the node's machine, looks at the store that it leaves
// behind, and goes on.
func (s *clusterStory) cutNode() {
	s.lab.CutNode()
	if err := s.soFar(); err != nil {
		s.t.Errorf("after a power cut of the node: %v", err)
	}
	s.lab.PowerOnNode()
}

// cutNFS cuts the power of the NFS server for so long that every lease lapses,
// while the node lives on. Nothing may be acknowledged without power. As nobody has
// buried it meanwhile the node goes on under its name: no restart.
func (s *clusterStory) cutNFS() {
	s.lab.NodeSays(0, leads)
	mark, restarts := s.lab.NodeLog(), s.lab.Restarts
	s.lab.CutNFS()
	s.lab.NodeSays(mark, leadsNoMore)
	before := s.lab.Acknowledged(s.flow)
	s.lab.NodeSays(mark, lapsed)
	if after := s.lab.Acknowledged(s.flow); after != before {
		s.t.Errorf("%d acknowledgements while the store had no power", after-before)
	}
	s.lab.PowerOnNFS()
	s.lab.NodeSays(mark, holdsAgain)
	if s.lab.Restarts != restarts {
		s.t.Errorf("the node was restarted %d times", s.lab.Restarts-restarts)
	}
}

// rebootNFS brings the NFS server back at once. Its grace period may cost the master
// its lease; the node lives on, with files that were open all the time
// and writes that the server has forgotten.
func (s *clusterStory) rebootNFS() {
	s.lab.CutNFS()
	s.lab.PowerOnNFS()
	for range 5 { // not only what was on its way
		s.lab.Progress(s.flow)
	}
}

// cutBoth leaves nothing but what is on the NFS server's disk.
func (s *clusterStory) cutBoth() {
	s.lab.CutNFS()
	s.lab.CutNode()
	s.lab.PowerOnNFS()
	if err := s.soFar(); err != nil {
		s.t.Errorf("after a power cut of node and NFS server: %v", err)
	}
	s.lab.PowerOnNode()
}

// What the node says of its leases.
const (
	leads       = "msg=leads"
	leadsNoMore = "led no more"
	lapsed      = "did not answer for longer than this node's lease"
	holdsAgain  = "this node's lease holds again"
)

func (s *clusterStory) each() {
	s.t.Helper()
	kinds := []struct {
		name string
		cut  func()
	}{
		{"NFS server until all leases have lapsed", s.cutNFS},
		{"NFS server for a moment", s.rebootNFS},
		{"node", s.cutNode},
		{"both", s.cutBoth},
		{"node", s.cutNode},
	}
	begun := time.Now()
	done := 0
	for ; done < s.cuts; done++ {
		if !s.lab.Progress(s.flow) {
			break
		}
		acked := s.lab.Acknowledged(s.flow)
		kind := kinds[done%len(kinds)]
		s.t.Logf("%6.1f s: cut %d: %s, after %d acknowledgements", time.Since(begun).Seconds(), done+1, kind.name, acked)
		kind.cut()
		s.lab.Forget(s.flow)
	}
	s.t.Logf("%d power cuts while the flow was at work, %d restarts by the supervisor", done, s.lab.Restarts)
	if done < s.cuts {
		s.t.Errorf("the flow ended after %d power cuts: the story shows too little", done)
	}
}

func (s *clusterStory) end() {
	s.t.Helper()
	begun := time.Now()
	flow := s.lab.Await(s.flow, 20*time.Minute)
	if flow.State != "completed" {
		s.t.Errorf("flow ended %s: %s", flow.State, flow.Error)
	}
	uploads := s.lab.Uploads(s.flow)
	if len(uploads) != 1 {
		s.t.Fatalf("uploads: %+v", uploads)
	}
	if uploads[0].SHA256 != s.hash {
		s.t.Errorf("the server hashed the upload to %s, the original is %s", uploads[0].SHA256, s.hash)
	}
	s.t.Logf("flow %s, %d rows, %.1f s after the last cut; a last cut of both", flow.State, flow.Rows, time.Since(begun).Seconds())
	// What is compared is what the disk holds.
	s.lab.CutNFS()
	s.lab.CutNode()
	s.lab.PowerOnNFS()
	if err := s.lab.Check(integration.Check{
		Flow: s.flow, Result: "Custom.Integration.Numbers", Rows: s.rows, Upload: uploads[0].StoredPath, UploadSHA256: s.hash,
	}); err != nil {
		s.t.Error(err)
	}
}

func TestClusterPowerCutsLoseAndDoubleNothing(t *testing.T) {
	s := beginCluster(t, os.Getenv("RAPTORPACK_BINARY"))
	s.each()
	s.end()
}

// With sync taken out of the program the checker must notice what a power cut of
// the node's machine takes.
func TestClusterPowerCutsAreNoticedWhenSyncIsTakenOut(t *testing.T) {
	s := beginCluster(t, os.Getenv("RAPTORPACK_BINARY_NOSYNC"))
	if !s.lab.Progress(s.flow) {
		t.Fatal("the flow ended before the power could be cut")
	}
	s.lab.CutNode()
	err := s.soFar()
	if err == nil || !strings.Contains(err.Error(), "were acknowledged") {
		t.Fatalf("acknowledged rows survived a power cut without sync, the story shows nothing: %v", err)
	}
	t.Logf("noticed: %v", err)
}
