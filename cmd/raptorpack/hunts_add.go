package main

import (
	"net/http"

	"github.com/spf13/cobra"
)

func newHuntsAdd(g *globals) *cobra.Command {
	var flow string
	var again bool
	c := &cobra.Command{
		Use: "add HUNT CLIENT...", Short: "Add clients to a hunt by hand, whatever its conditions say, or a collection of one",
		Long: `Adds clients to a hunt, whatever its conditions say.

With --flow it adds a collection that was made by hand: of the one client, ended, and
with some of the hunt's artifacts. Their rows, the log and all uploads are copied
into the hunt, and the client is not asked. Deleting the collection later leaves the
copy as it is.`,
		Args:    atLeast(2, "HUNT and one or more CLIENTs"),
		Example: "  raptorpack hunts add H.D1ABC C.0123456789abcdef\n  raptorpack hunts add H.D1ABC C.0123456789abcdef --flow F.D1ABD",
		RunE: func(c *cobra.Command, args []string) error {
			path, body := huntPath(args[0])+"/clients", map[string]any{"clients": args[1:]}
			if flow == "" && !again {
				return g.changed(c, http.MethodPost, path, body, "clients are added to hunt %s", args[0])
			}
			body["flow_id"], body["again"] = flow, again
			return g.changed(c, http.MethodPost, path, body, "flow %s is added to hunt %s", flow, args[0])
		},
	}
	c.Flags().StringVar(&flow, "flow", "", "a collection of the client that is to stand among the hunt's results")
	c.Flags().BoolVar(&again, "again", false, "of a collection: also if the client erred in the hunt")
	return c
}
