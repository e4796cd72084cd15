package main

import (
	"context"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

var flowColumns = []column{
	{"FLOW", "flow_id"},
	{"STATE", "state"},
	{"ARTIFACTS", "artifacts.#.name"},
	{"ROWS", "rows"},
	{"UPLOADS", "uploads"},
	{"CPU", "cpu_ns"},
	{"CREATOR", "creator"},
	{"CREATED", "created"},
	{"ERROR", "error"},
}

func newFlows(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "flows", Short: "List, show, export, cancel and delete collections", Aliases: []string{"flow"}}
	c.AddCommand(newFlowsList(g), newFlowLogs(g), newFlowsExport(g),
		&cobra.Command{
			Use: "show CLIENT FLOW", Short: "Show one collection", Args: exactly(2, "CLIENT FLOW"),
			Example: "  raptorpack flows show C.0123456789abcdef F.D1ABC",
			RunE:    func(c *cobra.Command, args []string) error { return g.shown(c, flowPath(args[0], args[1])) },
		},
		&cobra.Command{
			Use: "cancel CLIENT FLOW", Short: "Cancel a collection; what it has sent stays", Args: exactly(2, "CLIENT FLOW"),
			Example: "  raptorpack flows cancel C.0123456789abcdef F.D1ABC",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodPost, flowPath(args[0], args[1])+"/cancel", nil, "collection %s is cancelled", args[1])
			},
		},
		&cobra.Command{
			Use: "delete CLIENT FLOW", Short: "Delete a collection with its rows and uploads", Args: exactly(2, "CLIENT FLOW"),
			Example: "  raptorpack flows delete C.0123456789abcdef F.D1ABC",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodDelete, flowPath(args[0], args[1]), nil, "collection %s is deleted", args[1])
			},
		})
	return c
}

func newFlowsList(g *globals) *cobra.Command {
	var limit int64
	c := &cobra.Command{
		Use: "list CLIENT", Short: "List the collections of a client, newest first", Args: exactly(1, "CLIENT"),
		Example: "  raptorpack flows list C.0123456789abcdef --limit 10",
		RunE: func(c *cobra.Command, args []string) error {
			return g.listed(c, "/clients"+escaped(args[0])+"/flows", url.Values{"limit": {"500"}}, limit, flowColumns...)
		},
	}
	c.Flags().Int64Var(&limit, "limit", 0, "collections at most; 0: all")
	return c
}

func newFlowLogs(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "logs CLIENT FLOW", Short: "Print the query log of a collection", Args: exactly(2, "CLIENT FLOW"),
		Example: "  raptorpack flows logs C.0123456789abcdef F.D1ABC --format table",
		RunE: func(c *cobra.Command, args []string) error {
			return g.listed(c, flowPath(args[0], args[1])+"/logs", url.Values{"limit": {"1000"}}, 0)
		},
	}
}

func newResults(g *globals) *cobra.Command {
	var name string
	var limit int64
	c := &cobra.Command{
		Use: "results CLIENT FLOW", Short: "Print the rows of a collection", Args: exactly(2, "CLIENT FLOW"),
		Long: "Print the rows of a collection, each as it is stored. Of several results all are\n" +
			"printed, one after the other; json and jsonl rows then begin with their _Source.\n" +
			"Rows that are missing and files that are damaged are told, and the exit code is 6.",
		Example: "  raptorpack results C.0123456789abcdef F.D1ABC --name Generic.Client.Info/Users --format csv",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				p, err := g.printer(c)
				if err != nil {
					return err
				}
				path := flowPath(args[0], args[1])
				record := &flowView{}
				if err := r.get(ctx, path, nil, record); err != nil {
					return err
				}
				missing, err := r.printResults(ctx, p, path, record, record.named(name), limit)
				if err != nil {
					return err
				}
				return missing
			})
		},
	}
	c.Flags().StringVar(&name, "name", "", "only this result, as Artifact or Artifact/Source")
	c.Flags().Int64Var(&limit, "limit", 0, "rows of each result at most; 0: all")
	return c
}
