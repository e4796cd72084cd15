package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/config"
)

func newConfig(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "config", Short: "Make, check and change configuration files"}
	c.AddCommand(newConfigGenerate(g), newConfigClient(g), newConfigAPIClient(g), newConfigShow(g), newConfigValidate(g), newConfigRepack(g),
		newConfigEdit(g, "rotate-keys", "Make new server, bus and gossip keys; agents follow by themselves", config.RotateKeys, "rotate_keys"),
		newConfigEdit(g, "upgrade", "Add the keys that a pack of several nodes needs", config.Upgrade))
	return c
}

func newConfigGenerate(g *globals) *cobra.Command {
	o := config.GenerateOptions{}
	var output string
	c := &cobra.Command{
		Use: "generate", Short: "Make a new deployment with keys of its own", Args: cobra.NoArgs,
		Example: "  raptorpack config generate --datastore /srv/pack --output server.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			o.Now = time.Now()
			text, err := config.Generate(o)
			if err != nil {
				return err
			}
			return write(c, output, text)
		},
	}
	c.Flags().StringVar(&o.Datastore, "datastore", "", "folder of the filestore")
	c.Flags().StringVar(&o.Hostname, "hostname", "localhost", "public name that agents dial")
	c.Flags().StringVar(&o.MergeJSON, "merge", "", "a partial file, as JSON, laid over the result")
	c.Flags().StringVar(&output, "output", "", "a file that must not exist yet; empty: standard output")
	return c
}

// write prints a text, or makes a file that must not exist yet.
func write(c *cobra.Command, output string, text []byte) error {
	if output == "" {
		_, err := c.OutOrStdout().Write(text)
		return err
	}
	return config.WriteNew(output, text)
}

func newConfigClient(g *globals) *cobra.Command {
	var output string
	c := &cobra.Command{
		Use: "client", Short: "Print the file that agents are given", Args: cobra.NoArgs,
		Example: "  raptorpack config client --config server.yaml --output client.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, err := g.load(c, config.Options{})
			if err != nil {
				return err
			}
			text, err := loaded.ClientFile()
			if err != nil {
				return err
			}
			return write(c, output, text)
		},
	}
	c.Flags().StringVar(&output, "output", "", "a file that must not exist yet; empty: standard output")
	return c
}

func newConfigShow(g *globals) *cobra.Command {
	var o config.Options
	var origin bool
	c := &cobra.Command{
		Use: "show", Short: "Print the effective configuration, secrets hidden", Args: cobra.NoArgs,
		Example: "  raptorpack config show --config server.yaml --origin",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, err := g.load(c, o)
			if err != nil {
				return err
			}
			if origin {
				return printOrigin(c, loaded)
			}
			text, err := loaded.Show()
			if err != nil {
				return err
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().StringVar(&o.Node, "node", "", "as this node sees it")
	c.Flags().IntVar(&o.PortOffset, "port-offset", 0, "added to every port")
	c.Flags().BoolVar(&origin, "origin", false, "print instead which line each key comes from")
	return c
}

func printOrigin(c *cobra.Command, loaded *config.Loaded) error {
	for _, key := range sortedKeys(loaded.Origin) {
		if _, err := fmt.Fprintf(c.OutOrStdout(), "%s:%d\t%s\n", loaded.Path, loaded.Origin[key], key); err != nil {
			return err
		}
	}
	return nil
}

func newConfigValidate(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "validate [FILE]", Aliases: []string{"check"}, Short: "Check a file; every problem on a line of its own", Args: cobra.MaximumNArgs(1),
		Example: "  raptorpack config validate server.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				g.config = args[0]
			}
			loaded, err := g.load(c, config.Options{})
			if err != nil {
				return err
			}
			for _, key := range loaded.Inert {
				fmt.Fprintf(c.OutOrStdout(), "%s:%d: %s: has no effect here\n", loaded.Path, loaded.Origin[key], key)
			}
			fmt.Fprintf(c.OutOrStdout(), "%s: good, %d warnings\n", loaded.Path, len(loaded.Warnings))
			return nil
		},
	}
}

// newConfigEdit changes keys of a file: printed, or in place.
func newConfigEdit(g *globals, use, short string, edit func(string, time.Time) ([]byte, error), aliases ...string) *cobra.Command {
	var inPlace bool
	c := &cobra.Command{
		Use: use + " [FILE]", Aliases: aliases, Short: short, Args: cobra.MaximumNArgs(1),
		Example: "  raptorpack config " + use + " --in-place server.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 1 {
				g.config = args[0]
			}
			if g.config == "" {
				return fmt.Errorf("name the file: %w", errUsage)
			}
			text, err := edit(g.config, time.Now())
			if err != nil {
				return err
			}
			if inPlace {
				return config.Replace(g.config, text)
			}
			_, err = c.OutOrStdout().Write(text)
			return err
		},
	}
	c.Flags().BoolVarP(&inPlace, "in-place", "i", false, "replace the file instead of printing it")
	return c
}

func newConfigAPIClient(g *globals) *cobra.Command {
	var name, output string
	var roles []string
	c := &cobra.Command{
		Use: "api-client", Aliases: []string{"api_client"}, Short: "Make a program's certificate file, and its user", Args: cobra.NoArgs,
		Example: "  raptorpack config api-client --config server.yaml --name robot --role api --output robot.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, err := g.load(c, config.Options{})
			if err != nil {
				return err
			}
			file, err := loaded.NewAPIClient(name, time.Now())
			if err != nil {
				return err
			}
			text, err := file.Marshal()
			if err != nil {
				return err
			}
			if len(roles) > 0 {
				if err := g.setUser(c, userWish{name: name, roles: roles}); err != nil {
					return fmt.Errorf("make user %s (is the server running?): %w", name, err)
				}
			}
			return write(c, output, text)
		},
	}
	g.remoteFlags(c)
	c.Flags().StringVar(&name, "name", "", "the user that the program acts as")
	c.Flags().StringSliceVar(&roles, "role", nil, "roles of the user; left out, the user is not touched")
	c.Flags().StringVar(&output, "output", "", "a file that must not exist yet; empty: standard output")
	if err := c.MarkFlagRequired("name"); err != nil {
		panic(err)
	}
	return c
}
