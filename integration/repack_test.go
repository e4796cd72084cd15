package integration_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/integration"
)

const looksInside = `name: Custom.Integration.LooksInside
parameters:
- name: Program
- name: Member
sources:
- query: |
    SELECT read_file(accessor='zip', filename=pathspec(DelegateAccessor='file', DelegatePath=Program, Path=Member)) AS Text FROM scope()
`

const repacks = `name: Custom.Integration.Repacks
type: SERVER
required_permissions: [FILESYSTEM_WRITE]
parameters:
- name: Config
- name: Output
sources:
- query: |
    SELECT repack(config=Config, binaries='Integration_Inside', dest_filename=Output) AS R FROM scope()
`

// TestRepackedAgentsRunWithoutAFile starts programs with their configuration inside, one
// made by the command and one by a query on the server: each enrols, and a collection
// reads what was packed beside the file.
func TestRepackedAgentsRunWithoutAFile(t *testing.T) {
	dir := t.TempDir()
	writeback, text := filepath.Join(dir, "identity.yaml"), "packed by the command"
	o := options(t)
	o.Merge = map[string]any{"Client": map[string]any{
		"writeback_linux": writeback, "tempdir_linux": dir, "local_buffer": map[string]any{"disk_size": 1 << 24, "filename_linux": filepath.Join(dir, "buffer")},
	}}
	pack := integration.Launch(t, o)
	pack.StartServer()
	pack.SetArtifact(looksInside)
	pack.SetArtifact(repacks)
	probe := filepath.Join(dir, "probe.txt")
	if err := os.WriteFile(probe, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "agent")
	pack.Repack(pack.ClientFile(), program, probe)
	first := collectsFromInside(t, pack, program, writeback, "probe.txt", text)

	// Another agent, which must not take the first one's identity.
	writeback = filepath.Join(dir, "identity2.yaml")
	file := strings.ReplaceAll(strings.ReplaceAll(pack.ClientFile(), "identity.yaml", "identity2.yaml"), filepath.Join(dir, "buffer"), filepath.Join(dir, "buffer2"))
	if err := pack.Nodes()[0].UploadTool("Integration_Inside", "inside.txt", "packed by the server"); err != nil {
		t.Fatal(err)
	}
	program = filepath.Join(dir, "agent2")
	flow, err := pack.Nodes()[0].CollectOnServer("repack", "Custom.Integration.Repacks", map[string]string{"Config": file, "Output": program})
	if err != nil {
		t.Fatal(err)
	}
	server := &integration.Agent{ID: "server"}
	if f := pack.Await(server, flow); f.State != "completed" || f.Rows != 1 {
		t.Fatalf("%+v", f)
	}
	if second := collectsFromInside(t, pack, program, writeback, "inside.txt", "packed by the server"); second == first {
		t.Errorf("both agents are %s", first)
	}
}

// collectsFromInside starts a program and has it read a file that it carries.
func collectsFromInside(t *testing.T, pack *integration.Pack, program, writeback, member, want string) (id string) {
	t.Helper()
	agent := pack.AddRepacked(program, writeback)
	flow := pack.Collect(agent, "Custom.Integration.LooksInside", map[string]string{"Program": program, "Member": member})
	if f := pack.Await(agent, flow); f.State != "completed" || f.Rows != 1 {
		t.Fatalf("%+v; the agent says:\n%s", f, agent.AgentLog())
	}
	if rows := string(pack.Command("results", agent.ID, flow, "--format", "jsonl")); !strings.Contains(rows, want) {
		t.Errorf("the agent read something else: %s", rows)
	}
	return agent.ID
}
