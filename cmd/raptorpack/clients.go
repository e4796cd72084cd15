package main

import (
	"context"
	"net/http"
	"net/url"
	"strings"

	"github.com/spf13/cobra"

	"raptorpack/ids"
)

var clientColumns = []column{
	{"CLIENT", "client_id"},
	{"ONLINE", "online"},
	{"HOST", "hostname"},
	{"OS", "os"},
	{"RELEASE", "release"},
	{"LABELS", "labels"},
	{"LAST SEEN", "last_seen"},
	{"ADDRESS", "address"},
	{"VERSION", "client_version"},
}

const searchHelp = `The search is one line of words, all of which must fit; a leading - negates one:

  web-1              host, FQDN, client id, label or address contains it
  host:web*          host or FQDN; * and ? are wildcards
  label:prod         carries the label; label:none: carries none at all
  os:linux           ip:10.1.*   mac:00:16:*   user:root   id:C.12*
  version:<0.7       compares dotted numbers
  seen:<2h           last seen less than 2 hours ago; > means longer; s m h d
  online  recent     connected now; seen within an hour

A search that begins with - needs -- before it.`

func newClients(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "clients", Short: "Find, show and forget clients"}
	c.AddCommand(newClientsSearch(g, "list", "List all clients", cobra.NoArgs), newClientsSearch(g, "search QUERY...", "Find clients", atLeast(1, "QUERY")),
		&cobra.Command{
			Use: "show CLIENT", Short: "Show one client", Args: exactly(1, "CLIENT"),
			Example: "  raptorpack clients show C.0123456789abcdef",
			RunE:    func(c *cobra.Command, args []string) error { return g.shown(c, "/clients"+escaped(args[0])) },
		},
		&cobra.Command{
			Use: "delete CLIENT", Short: "Forget a client; it may enrol again with any key", Args: exactly(1, "CLIENT"),
			Example: "  raptorpack clients delete C.0123456789abcdef",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodDelete, "/clients"+escaped(args[0]), nil, "client %s is forgotten", args[0])
			},
		})
	return c
}

func newClientsSearch(g *globals, use, short string, args cobra.PositionalArgs) *cobra.Command {
	var limit int64
	c := &cobra.Command{
		Use: use, Short: short, Args: args,
		Example: "  raptorpack clients list --config server.yaml --format csv",
		RunE: func(c *cobra.Command, args []string) error {
			query := url.Values{"q": {strings.Join(args, " ")}, "limit": {"1000"}}
			return g.listed(c, "/clients", query, limit, clientColumns...)
		},
	}
	if use != "list" {
		c.Long = short + ".\n\n" + searchHelp
		c.Example = "  raptorpack clients search os:linux label:prod online --server https://pack.example:8889 --api-client me.yaml"
	}
	c.Flags().Int64Var(&limit, "limit", 0, "clients at most; 0: all")
	return c
}

func newLabels(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "labels", Short: "Add, remove and list labels of clients", Aliases: []string{"label"}}
	c.AddCommand(newLabelChange(g, "add", "added to", "Give clients a label"), newLabelChange(g, "remove", "removed from", "Take a label from clients"),
		&cobra.Command{
			Use: "list CLIENT...", Short: "List the labels of clients", Args: atLeast(1, "CLIENT..."),
			Example: "  raptorpack labels list C.0123456789abcdef",
			RunE:    func(c *cobra.Command, args []string) error { return g.listLabels(c, args) },
		})
	return c
}

func newLabelChange(g *globals, verb, done, short string) *cobra.Command {
	return &cobra.Command{
		Use: verb + " CLIENT... LABEL", Short: short, Args: atLeast(2, "one or more CLIENTs, then one LABEL"),
		Example: "  raptorpack labels " + verb + " C.0123456789abcdef C.fedcba9876543210 prod",
		RunE: func(c *cobra.Command, args []string) error {
			clients, label := args[:len(args)-1], args[len(args)-1]
			if err := allClients(clients); err != nil {
				return err
			}
			if _, err := ids.ParseClient(label); err == nil {
				return usage("the last argument is the label; %s is a client id", label)
			}
			body := map[string]any{"clients": clients, verb: []string{label}}
			return g.changed(c, http.MethodPost, "/clients/labels", body, "label %q %s %d clients", label, done, len(clients))
		},
	}
}

func (g *globals) listLabels(c *cobra.Command, args []string) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		p, err := g.printer(c, column{"CLIENT", "client_id"}, column{"LABEL", "label"})
		if err != nil {
			return err
		}
		for _, client := range args {
			var found struct {
				Labels []string `json:"labels"`
			}
			if err := r.get(ctx, "/clients"+escaped(client), nil, &found); err != nil {
				return err
			}
			for _, label := range found.Labels {
				if err := p.value(map[string]string{"client_id": client, "label": label}); err != nil {
					return err
				}
			}
		}
		return p.close()
	})
}

// allClients checks ids before anything is sent, so that a slip in one of many
// changes none.
func allClients(texts []string) error {
	for _, text := range texts {
		if _, err := ids.ParseClient(text); err != nil {
			return &exitError{exitUsage, err}
		}
	}
	return nil
}
