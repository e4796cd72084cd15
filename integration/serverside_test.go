package integration_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/integration"
)

const usesTool = `name: Custom.Integration.UsesTool
required_permissions: [EXECVE]
tools:
- name: Integration_Probe
sources:
- query: |
    LET Fetched <= SELECT * FROM Artifact.Generic.Utils.FetchBinary(ToolName='Integration_Probe', SleepDuration='0', TemporaryOnly=TRUE)
    SELECT Stdout, Tool_Integration_Probe_URL AS Url
    FROM foreach(row=Fetched, query={ SELECT * FROM execve(argv=['/bin/sh', OSPath]) })
`

// TestToolReachesAgentsThroughAnyNode uploads a tool through the last node; agents are
// sent to the first, and every node has it.
func TestToolReachesAgentsThroughAnyNode(t *testing.T) {
	o := options(t)
	o.Masters, o.Minions = 1, 2
	pack := integration.Launch(t, o)
	pack.StartAll()
	agent := pack.AddAgent()
	pack.SetArtifact(usesTool)
	last := pack.Nodes()[2]
	for _, text := range []string{"echo the first\n", "echo the second\n"} {
		if err := last.UploadTool("Integration_Probe", "integration-probe.sh", text); err != nil {
			t.Fatal(err)
		}
		var tool struct {
			URLs []string `json:"urls"`
		}
		if err := last.Get("/tools/Integration_Probe", &tool); err != nil || len(tool.URLs) != 3 {
			t.Fatalf("%+v, %v", tool, err)
		}
		for i, n := range pack.Nodes() {
			if !strings.HasPrefix(tool.URLs[i], n.ClientURL()+"public/") {
				t.Errorf("URL %s is not of node %d", tool.URLs[i], i)
			}
			got, err := pack.ReadClientURL(tool.URLs[i])
			if err != nil || got != text {
				t.Errorf("node %d gives %q, %v", i, got, err)
			}
		}
		flow := pack.Collect(agent, "Custom.Integration.UsesTool", nil)
		if f := pack.Await(agent, flow); f.State != "completed" || f.Rows != 1 {
			t.Fatalf("%+v", f)
		}
		want := strings.TrimPrefix(strings.TrimSpace(text), "echo ")
		rows := string(pack.Command("results", agent.ID, flow, "--format", "jsonl"))
		if !strings.Contains(rows, want) || !strings.Contains(rows, pack.Nodes()[0].ClientURL()) {
			t.Errorf("the agent ran something else: %s", rows)
		}
	}
	if got, err := pack.ReadClientURL(pack.Nodes()[1].ClientURL() + "public/" + strings.Repeat("0", 32)); err == nil || !strings.Contains(err.Error(), "404") {
		t.Errorf("a file that nobody named: %q, %v", got, err)
	}
}

const marks = `name: Custom.Integration.Marks
type: SERVER
parameters:
- name: File
- name: Mark
- name: Stay
  type: bool
sources:
- query: |
    LET Marked <= SELECT * FROM execve(argv=['/bin/sh', '-c', 'echo "$1" >> "$0"', File, Mark])
    SELECT Mark FROM if(condition=Stay, then={ SELECT * FROM clock(period=1) }, else=Marked)
`

// TestServerCollectionsRunOnceAndEndWithTheirMaster kills and pauses the master while
// collections on the server run, wait, and are started. Each leaves a mark: none may
// leave two, and none may run for ever.
func TestServerCollectionsRunOnceAndEndWithTheirMaster(t *testing.T) {
	o := options(t)
	o.Masters, o.Minions = 2, 1
	pack := integration.Launch(t, o)
	pack.StartAll()
	pack.SetArtifact(marks)
	s := &serverStory{t: t, pack: pack, minion: pack.Nodes()[2], file: filepath.Join(t.TempDir(), "marks"), flows: map[string]string{}}
	for round := range 2 {
		name := fmt.Sprintf("round %d", round)
		stays := s.start(name+" stays", true)
		s.await(stays, "running")
		s.await(s.start(name+" before", false), "completed")
		master := pack.Master()
		var late []string
		for i := range 3 {
			late = append(late, s.start(fmt.Sprintf("%s beside %d", name, i), false))
		}
		if round == 0 {
			master.Kill()
		} else {
			master.Pause()
		}
		late = append(late, s.start(name+" after", false))
		if f := s.await(stays, "errored"); !strings.Contains(f.Error, "the master changed") {
			t.Errorf("%s: the one that ran: %+v", name, f)
		}
		for _, flow := range late {
			s.await(flow, "completed", "errored")
		}
		if round == 0 {
			master.Rename("again")
			master.Start()
			master.WaitReady()
		} else {
			master.Resume()
		}
		s.await(s.start(name+" later", false), "completed")
	}
	s.check()
}

// serverStory is collections on the server, by what each marks.
type serverStory struct {
	t      *testing.T
	pack   *integration.Pack
	minion *integration.Node
	file   string
	flows  map[string]string
}

// start begins a collection through the minion, again as long as nobody leads.
func (s *serverStory) start(mark string, stay bool) string {
	s.t.Helper()
	parameters := map[string]string{"File": s.file, "Mark": mark}
	if stay {
		parameters["Stay"] = "Y"
	}
	s.pack.WaitFor("to start "+mark, func() (bool, string) {
		flow, err := s.minion.CollectOnServer(mark, "Custom.Integration.Marks", parameters)
		s.flows[mark] = flow
		return err == nil, fmt.Sprint(err)
	})
	return s.flows[mark]
}

func (s *serverStory) await(flow string, states ...string) (f integration.Flow) {
	s.t.Helper()
	s.pack.WaitFor(fmt.Sprintf("%s to be %v", flow, states), func() (met bool, state string) {
		var err error
		f, err = s.minion.ServerFlow(flow)
		for _, state := range states {
			met = met || f.State == state
		}
		return met && err == nil, fmt.Sprintf("%+v, %v", f, err)
	})
	return f
}

// check holds what ended against what was marked.
func (s *serverStory) check() {
	s.t.Helper()
	text, err := os.ReadFile(s.file)
	if err != nil {
		s.t.Fatal(err)
	}
	count := map[string]int{}
	for line := range strings.Lines(string(text)) {
		count[strings.TrimSpace(line)]++
	}
	for mark, flow := range s.flows {
		f, err := s.minion.ServerFlow(flow)
		switch {
		case err != nil:
			s.t.Errorf("%s: %v", mark, err)
		case count[mark] > 1, count[mark] == 0 && f.State == "completed":
			s.t.Errorf("%s: it ran %d times and is %+v", mark, count[mark], f)
		}
	}
	s.t.Logf("%d collections, %d marks", len(s.flows), len(count))
}
