package agent_test

import (
	"testing"
	"time"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/config"
	"raptorpack/vql/endpoint"
)

func options(t *testing.T, change func(*config.Client)) client.Options {
	t.Helper()
	text, err := config.Generate(config.GenerateOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	file, err := config.Parse("server.yaml", text, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	change(&file.Client)
	o, err := agent.Options(file.Client, agent.Settings{})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func TestPreventExecveForbidsPrograms(t *testing.T) {
	forbids := func(o client.Options) bool {
		for _, service := range o.Services {
			if policy, ok := service.(endpoint.ExecPolicy); ok && policy.AllowExec([]string{"id"}) != nil {
				return true
			}
		}
		return false
	}
	if forbids(options(t, func(*config.Client) {})) {
		t.Error("programs are forbidden without being told so")
	}
	if !forbids(options(t, func(c *config.Client) { c.PreventExecve = true })) {
		t.Error("prevent_execve changes nothing")
	}
}

func TestPlacesOfTheFileAreExpanded(t *testing.T) {
	t.Setenv("PLACE", "/srv/agent")
	o := options(t, func(c *config.Client) {
		c.Nonce = "a/b="
		c.WritebackLinux = "$PLACE/wb-%NONCE%.yaml"
		c.LocalBuffer.FilenameLinux = "${PLACE}/buffer.bin"
	})
	if o.WritebackPath != "/srv/agent/wb-a_b_.yaml" || o.Buffer.Dir != "/srv/agent/buffer.bin.d" {
		t.Errorf("writeback %s, buffer %s", o.WritebackPath, o.Buffer.Dir)
	}
}
