package main

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestHelpIsAsOnFile holds every help text against its golden file, and every
// command against the promise of an example.
func TestHelpIsAsOnFile(t *testing.T) {
	for _, name := range []string{"CONFIG", "SERVER", "API_CLIENT", "CA", "FORMAT", "LOG_LEVEL", "LOG_FORMAT", "NODE"} {
		t.Setenv("RAPTORPACK_"+name, "") // restored afterwards
		if err := os.Unsetenv("RAPTORPACK_" + name); err != nil {
			t.Fatal(err)
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		checkHelp(t, c)
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func checkHelp(t *testing.T, c *cobra.Command) {
	t.Helper()
	if c.Short == "" {
		t.Errorf("%s has no help", c.CommandPath())
	}
	if c.Example == "" && !c.HasSubCommands() && c.Name() != "version" && c.Name() != "exit-codes" && c.Name() != "help" {
		t.Errorf("%s has no example", c.CommandPath())
	}
	var out bytes.Buffer
	c.SetOut(&out)
	if err := c.Help(); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join("testdata", "help", strings.ReplaceAll(c.CommandPath(), " ", "_")+".txt")
	if *update {
		if err := os.WriteFile(name, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(name)
	if err != nil || !bytes.Equal(kept, out.Bytes()) {
		t.Errorf("%s is stale (%v): go test ./cmd/raptorpack -run Help -update", name, err)
	}
}
