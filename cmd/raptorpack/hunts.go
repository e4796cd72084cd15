package main

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

var huntColumns = []column{
	{"HUNT", "hunt_id"},
	{"STATE", "state"},
	{"DESCRIPTION", "description"},
	{"ARTIFACTS", "artifacts.#.name"},
	{"PENDING", "clients.pending"},
	{"RUNNING", "clients.running"},
	{"COMPLETED", "clients.completed"},
	{"ERRORED", "clients.errored"},
	{"ROWS", "rows"},
	{"CPU", "cpu_ns"},
	{"CPU_TOLD", "cpu_told"},
	{"CREATOR", "creator"},
	{"EXPIRES", "expires"},
}

var huntClientColumns = []column{
	{"CLIENT", "client_id"},
	{"HOST", "hostname"},
	{"SET", "set"},
	{"FLOW", "flow_id"},
	{"STATE", "state"},
	{"ROWS", "rows"},
	{"UPLOADS", "uploads"},
	{"CPU", "cpu_ns"},
	{"ENDED", "ended"},
	{"ERROR", "error"},
}

func newHunts(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "hunts", Aliases: []string{"hunt"}, Short: "Run artifacts on many clients, and follow what comes of it"}
	c.AddCommand(newHuntsCreate(g), newHuntsList(g), newHuntsClients(g), newHuntsWatch(g), newHuntsChange(g), newHuntsStop(g),
		newHuntsEstimate(g), newHuntsResults(g), newHuntsExport(g), newHuntsVerify(g), newHuntsImport(g), newHuntsAdd(g),
		&cobra.Command{
			Use: "show HUNT", Short: "Show one hunt", Args: exactly(1, "HUNT"),
			Example: "  raptorpack hunts show H.D1ABC",
			RunE:    func(c *cobra.Command, args []string) error { return g.shown(c, huntPath(args[0])) },
		},
		g.moveHunt("start", "Let a hunt run: a draft, or one that was paused, stopped or has expired", "hunt %s runs", "resume"),
		g.moveHunt("pause", "Let nobody join a hunt for a while; what runs goes on", "hunt %s is paused"),
		g.moveHunt("archive", "Put a hunt away that does not run", "hunt %s is archived"),
		&cobra.Command{
			Use: "delete HUNT", Short: "Delete a hunt that does not run, with its rows and uploads", Args: exactly(1, "HUNT"),
			Example: "  raptorpack hunts delete H.D1ABC",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodDelete, huntPath(args[0]), nil, "hunt %s is deleted", args[0])
			},
		},
		&cobra.Command{
			Use: "rerun HUNT [CLIENT...]", Short: "Run a hunt again on clients that erred, without any given on all of them", Args: atLeast(1, "HUNT"),
			Example: "  raptorpack hunts rerun H.D1ABC",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodPost, huntPath(args[0])+"/rerun", map[string]any{"clients": args[1:]}, "hunt %s runs again on clients that erred", args[0])
			},
		},
	)
	return c
}

func huntPath(hunt string) string { return "/hunts" + escaped(hunt) }

func (g *globals) moveHunt(move, short, said string, aliases ...string) *cobra.Command {
	return &cobra.Command{
		Use: move + " HUNT", Aliases: aliases, Short: short, Args: exactly(1, "HUNT"),
		Example: "  raptorpack hunts " + move + " H.D1ABC",
		RunE: func(c *cobra.Command, args []string) error {
			return g.changed(c, http.MethodPost, huntPath(args[0])+"/"+move, nil, said, args[0])
		},
	}
}

func newHuntsList(g *globals) *cobra.Command {
	var limit int64
	var state, tag string
	c := &cobra.Command{
		Use: "list", Short: "List hunts, newest first", Args: cobra.NoArgs,
		Example: "  raptorpack hunts list --state running",
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{"limit": {"500"}}
			if state != "" {
				query.Set("state", state)
			}
			if tag != "" {
				query.Set("tag", tag)
			}
			return g.listed(c, "/hunts", query, limit, huntColumns...)
		},
	}
	c.Flags().Int64Var(&limit, "limit", 0, "hunts at most; 0: all")
	c.Flags().StringVar(&tag, "tag", "", "only those with this tag")
	c.Flags().StringVar(&state, "state", "", "only those that are draft, running, paused, stopped, expired or archived")
	return c
}

func newHuntsClients(g *globals) *cobra.Command {
	var limit int64
	var set string
	c := &cobra.Command{
		Use: "clients HUNT", Short: "List the clients of a hunt and what came of each", Args: exactly(1, "HUNT"),
		Example: "  raptorpack hunts clients H.D1ABC --set errored --format csv",
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{"limit": {"1000"}}
			if set != "" {
				query.Set("set", set)
			}
			return g.listed(c, huntPath(args[0])+"/clients", query, limit, huntClientColumns...)
		},
	}
	c.Flags().Int64Var(&limit, "limit", 0, "clients at most; 0: all")
	c.Flags().StringVar(&set, "set", "", "only those that are pending, running, completed, errored, declined, removed, or with_results")
	return c
}

func newHuntsStop(g *globals) *cobra.Command {
	cancel := false
	c := &cobra.Command{
		Use: "stop HUNT", Short: "End a hunt; what was sent stays", Args: exactly(1, "HUNT"),
		Example: "  raptorpack hunts stop H.D1ABC --cancel",
		RunE: func(c *cobra.Command, args []string) error {
			path := huntPath(args[0]) + "/stop"
			if cancel {
				path += "?cancel=true"
			}
			return g.changed(c, http.MethodPost, path, nil, "hunt %s is stopped", args[0])
		},
	}
	c.Flags().BoolVar(&cancel, "cancel", false, "cancel what runs on clients, too")
	return c
}

func newHuntsEstimate(g *globals) *cobra.Command {
	targets := &targetFlags{}
	c := &cobra.Command{
		Use: "estimate", Short: "Count the clients that a hunt would find now", Args: cobra.NoArgs,
		Example: "  raptorpack hunts estimate --label web --os linux",
		RunE: func(c *cobra.Command, _ []string) error {
			query := url.Values{"include_labels": {strings.Join(targets.include, ",")}, "exclude_labels": {strings.Join(targets.exclude, ",")}}
			if targets.system != "" {
				query.Set("os", targets.system)
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				var found map[string]any
				if err := r.get(ctx, "/hunts/estimate", query, &found); err != nil {
					return err
				}
				p, err := g.printer(c, column{"MATCHING", "matching"}, column{"ONLINE", "online"})
				if err != nil {
					return err
				}
				if err := p.value(found); err != nil {
					return err
				}
				return p.close()
			})
		},
	}
	targets.declareLabels(c)
	return c
}

func newHuntsChange(g *globals) *cobra.Command {
	var description, expires string
	var rate, limit int64
	var tags []string
	c := &cobra.Command{
		Use: "change HUNT", Short: "Change a hunt's description, tags, rate, limit or end", Args: exactly(1, "HUNT"),
		Example: "  raptorpack hunts change H.D1ABC --rate 600 --expires 14d",
		RunE: func(c *cobra.Command, args []string) error {
			body := map[string]any{}
			flags := c.Flags()
			if flags.Changed("description") {
				body["description"] = description
			}
			if flags.Changed("tag") {
				body["tags"] = slices.DeleteFunc(tags, func(tag string) bool { return tag == "" })
			}
			if flags.Changed("rate") {
				body["clients_per_minute"] = rate
			}
			if flags.Changed("limit") {
				body["client_limit"] = limit
			}
			if flags.Changed("expires") {
				at, err := parseExpiry(expires, time.Now())
				if err != nil {
					return err
				}
				body["expires"] = at
			}
			if len(body) == 0 {
				return usage("nothing to change: give --description, --tag, --rate, --limit or --expires")
			}
			return g.changed(c, http.MethodPatch, huntPath(args[0]), body, "hunt %s is changed", args[0])
		},
	}
	flags := c.Flags()
	flags.StringVar(&description, "description", "", "what the hunt is for")
	flags.StringArrayVar(&tags, "tag", nil, "its tags from now on; may be repeated; \"\" takes all off")
	flags.StringVar(&expires, "expires", "", "when it ends, as 48h or 14d from now, or 2026-12-24T18:00:00Z")
	flags.Int64Var(&rate, "rate", 0, "clients that join per minute at most; 0: as fast as it goes")
	flags.Int64Var(&limit, "limit", 0, "clients that take part at most; 0: no limit")
	return c
}
