package main

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"path"
	"slices"

	"github.com/spf13/cobra"
)

// newOperators are the commands that work on a server.
func newOperators(g *globals) []*cobra.Command {
	out := []*cobra.Command{
		newClients(g), newLabels(g), newCollect(g), newInterrogate(g), newEvents(g), newFlows(g), newCollections(g), newHunts(g), newResults(g), newUploads(g), newUsers(g), newTools(g), newStatus(g), newPack(g),
	}
	for _, c := range out {
		g.remoteFlags(c)
		g.formatFlag(c)
	}
	return out
}

// withRemote runs work with a connection that is closed afterwards.
func (g *globals) withRemote(c *cobra.Command, work func(ctx context.Context, r *remote) error) error {
	r, err := g.dial(c)
	if err != nil {
		return err
	}
	defer r.close()
	return work(c.Context(), r)
}

// listed prints a list of the server with the given columns.
func (g *globals) listed(c *cobra.Command, where string, query map[string][]string, limit int64, columns ...column) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		p, err := g.printer(c, columns...)
		if err != nil {
			return err
		}
		lost := r.losses()
		err = r.each(ctx, where, query, limit, func(page *page) error {
			lost.see(path.Base(where), page)
			for _, item := range page.Items {
				if err := p.row(item); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
		if err := p.close(); err != nil {
			return err
		}
		return lost.err()
	})
}

// shown prints one object of the server.
func (g *globals) shown(c *cobra.Command, path string) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		var object json.RawMessage
		if err := r.get(ctx, path, nil, &object); err != nil {
			return err
		}
		return g.single(c, object)
	})
}

// changed sends a write that answers nothing worth printing, and says so.
func (g *globals) changed(c *cobra.Command, method, path string, body any, done string, args ...any) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		if err := r.change(ctx, method, path, body, nil); err != nil {
			return err
		}
		r.note(done, args...)
		return nil
	})
}

func newStatus(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "What a server node says of itself", Args: cobra.NoArgs,
		Example: "  raptorpack status --config server.yaml",
		RunE:    func(c *cobra.Command, _ []string) error { return g.shown(c, "/status") },
	}
}

func newInterrogate(g *globals) *cobra.Command {
	f := &follower{g: g}
	c := &cobra.Command{
		Use: "interrogate CLIENT", Short: "Ask a client about its host again", Args: exactly(1, "CLIENT"),
		Example: "  raptorpack interrogate C.0123456789abcdef --wait",
		RunE: func(c *cobra.Command, args []string) error {
			return f.start(c, args[0], "/clients"+escaped(args[0])+"/interrogate", nil)
		},
	}
	c.Flags().BoolVar(&f.wait, "wait", false, "wait for the end and print what came; Ctrl-C cancels")
	return c
}

// exactly wants a number of arguments and tells which, as a usage error.
func exactly(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) != n {
			return usage("%s wants %s, not %d arguments; example:\n%s", c.CommandPath(), names, len(args), c.Example)
		}
		return nil
	}
}

// atLeast wants a number of arguments or more.
func atLeast(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < n {
			return usage("%s wants %s; example:\n%s", c.CommandPath(), names, c.Example)
		}
		return nil
	}
}

// atMost wants a number of arguments or fewer.
func atMost(n int, names string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) > n {
			return usage("%s wants %s, not %d arguments; example:\n%s", c.CommandPath(), names, len(args), c.Example)
		}
		return nil
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// userWish is an account as a command wants it.
type userWish struct {
	name     string
	roles    []string
	password string
	locked   *bool // nil keeps what is there
}

func (w userWish) body() map[string]any {
	body := map[string]any{"roles": w.roles}
	if w.locked != nil {
		body["locked"] = *w.locked
	}
	if w.roles == nil {
		body["roles"] = []string{}
	}
	if w.password != "" {
		body["password"] = w.password
	}
	return body
}

// setUser makes or changes an account on the server.
func (g *globals) setUser(c *cobra.Command, w userWish) error {
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		return r.change(ctx, http.MethodPut, "/users"+escaped(w.name), w.body(), nil)
	})
}
