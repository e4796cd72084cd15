package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/config"
)

// deployment writes a server file and the file of an API client for it, and
// returns their names.
func deployment(t *testing.T) (server, apiClient string) {
	t.Helper()
	raw, err := config.Generate(config.GenerateOptions{Now: time.Now()})
	if err != nil {
		t.Fatal(err)
	}
	server = filepath.Join(t.TempDir(), "server.yaml")
	if err := config.WriteNew(server, raw); err != nil {
		t.Fatal(err)
	}
	loaded, err := config.Load(server, config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	file, err := loaded.NewAPIClient("robot", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	text, err := file.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	apiClient = filepath.Join(filepath.Dir(server), "robot.yaml")
	if err := config.WriteNew(apiClient, text); err != nil {
		t.Fatal(err)
	}
	return server, apiClient
}

// opened is the door that a command with these arguments goes through.
func opened(t *testing.T, args ...string) (*door, error) {
	t.Helper()
	g := &globals{}
	var d *door
	c := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(c *cobra.Command, _ []string) (err error) {
		d, err = g.openDoor(c)
		return err
	}}
	c.SetErr(&bytes.Buffer{})
	c.Flags().StringVar(&g.config, "config", env("CONFIG", ""), "")
	g.remoteFlags(c)
	c.SetArgs(args)
	return d, c.ExecuteContext(t.Context())
}

func TestTheAPIClientFileBoundsMessages(t *testing.T) {
	_, apiClient := deployment(t)
	t.Setenv("RAPTORPACK_API_KEY", "")
	d, err := opened(t, "--api-client", apiClient)
	if err != nil || d.most != maxGRPCMessage {
		t.Errorf("%+v, %v", d, err)
	}
	file, err := os.OpenFile(apiClient, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := file.WriteString("max_grpc_recv_size: 1234567\n"); errors.Join(err, file.Close()) != nil {
		t.Fatal(err)
	}
	if d, err = opened(t, "--api-client", apiClient); err != nil || d.most != 1234567 {
		t.Errorf("%+v, %v", d, err)
	}
}

func TestTheCommandLineNamesTheServerBeforeTheEnvironment(t *testing.T) {
	server, apiClient := deployment(t)
	const own, far = "https://127.0.0.1:8889", "https://other.example:8889"
	for _, name := range []string{"CONFIG", "SERVER", "API_CLIENT", "API_KEY", "CA"} {
		t.Setenv("RAPTORPACK_"+name, "")
	}
	for _, c := range []struct {
		name string
		env  map[string]string
		args []string
		url  string
	}{
		{"environment alone", map[string]string{"SERVER": far, "API_CLIENT": apiClient, "CONFIG": server}, nil, far},
		{"own file beats the environment", map[string]string{"SERVER": far, "API_CLIENT": apiClient}, []string{"--config", server}, own},
		{"address beats the file of the environment", map[string]string{"CONFIG": server, "API_CLIENT": apiClient}, []string{"--server", far}, far},
	} {
		t.Run(c.name, func(t *testing.T) {
			for name, value := range c.env {
				t.Setenv("RAPTORPACK_"+name, value)
			}
			d, err := opened(t, c.args...)
			if err != nil || d.url != c.url {
				t.Errorf("%+v, %v, want %s", d, err, c.url)
			}
		})
	}
	for _, other := range [][]string{{"--server", far}, {"--api-client", apiClient}} {
		if _, err := opened(t, append([]string{"--config", server}, other...)...); exitCode(t.Context(), err) != exitUsage {
			t.Errorf("--config with %v: %v", other, err)
		}
	}
}
