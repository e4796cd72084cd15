package main

import (
	"errors"

	"github.com/spf13/cobra"

	"raptorpack/client"
	"raptorpack/cmd/agent"
	"raptorpack/config"
)

func newClient(g *globals) *cobra.Command {
	s := agent.Settings{Version: version}
	c := &cobra.Command{
		Use: "client", Short: "Run the agent on this endpoint", Args: cobra.NoArgs,
		Long: `Run the agent on this endpoint. Without --config it takes the client file that config
repack has put into this program.`,
		Example: "  raptorpack client --config client.yaml",
		RunE: func(c *cobra.Command, _ []string) error {
			loaded, err := g.loadClient(c)
			if err != nil {
				return err
			}
			if s.Logger, err = g.logger(c.ErrOrStderr(), ""); err != nil {
				return err
			}
			options, err := agent.Options(loaded.Client, s)
			if err != nil {
				return err
			}
			for {
				a, err := client.New(options)
				if err != nil {
					return err
				}
				s.Logger.Info("agent runs", "client", a.ID().String())
				if err := a.Run(c.Context()); !errors.Is(err, client.ErrRekeyed) || c.Context().Err() != nil {
					return err
				}
			}
		},
	}
	c.Flags().StringVar(&s.Writeback, "writeback", "", "where the agent keeps its identity; empty: as the file says")
	c.Flags().StringVar(&s.Buffer, "buffer", "", "folder for results that are not delivered yet; empty: as the file says")
	c.Flags().DurationVar(&s.MinBackOff, "min-back-off", 0, "first pause after a failure; 0: max_poll, as the protocol says")
	c.Flags().StringVar(&s.History, "history", "", "file that every acknowledgement is written to, for tests")
	if err := c.Flags().MarkHidden("history"); err != nil {
		panic(err)
	}
	return c
}

// loadClient reads the file that was named, else what is packed into this program.
func (g *globals) loadClient(c *cobra.Command) (*config.Loaded, error) {
	o := config.Options{ClientOnly: true}
	if g.config == "" {
		if loaded, err := config.LoadEmbedded(o); err != nil || loaded != nil {
			return loaded, err
		}
	}
	return g.load(c, o)
}
