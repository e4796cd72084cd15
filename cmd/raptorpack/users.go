package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

var userColumns = []column{
	{"NAME", "name"}, {"ROLES", "roles"}, {"LOCKED", "locked"}, {"PASSWORD", "has_password"}, {"CREATED", "created"},
}

func newUsers(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "users", Short: "Manage the accounts of operators and programs", Aliases: []string{"user"}}
	c.AddCommand(newUsersAdd(g), newUsersKey(g), newUserLock(g, "lock", "Keep an account from doing anything", true), newUserLock(g, "unlock", "Let a locked account work again", false),
		&cobra.Command{
			Use: "list", Short: "List accounts", Args: cobra.NoArgs, Aliases: []string{"show"},
			Example: "  raptorpack users list --config server.yaml",
			RunE:    func(c *cobra.Command, _ []string) error { return g.listed(c, "/users", nil, 0, userColumns...) },
		},
		&cobra.Command{
			Use: "delete NAME", Short: "Delete an account and sign it out everywhere", Args: exactly(1, "NAME"),
			Example: "  raptorpack users delete alice",
			RunE: func(c *cobra.Command, args []string) error {
				return g.changed(c, http.MethodDelete, "/users"+escaped(args[0]), nil, "user %s is deleted", args[0])
			},
		})
	return c
}

func newUsersAdd(g *globals) *cobra.Command {
	w := userWish{}
	var password bool
	c := &cobra.Command{
		Use: "add NAME", Short: "Make an account, or change its roles or password", Args: exactly(1, "NAME"),
		Long: `Make an account, or change its roles or password. Without a password it can sign
in by API key (users key) or certificate (config api-client) only.`,
		Example: "  raptorpack users add alice --role investigator --password-stdin --config server.yaml",
		RunE: func(c *cobra.Command, args []string) error {
			w.name = args[0]
			if password {
				var err error
				if w.password, err = readPassword(c); err != nil {
					return err
				}
			}
			return g.changed(c, http.MethodPut, "/users"+escaped(w.name), w.body(), "user %s is set", w.name)
		},
	}
	c.Flags().StringSliceVar(&w.roles, "role", nil, "administrator, org_admin, investigator, analyst, reader, artifact_writer, api, basic; may be repeated")
	c.Flags().BoolVar(&password, "password-stdin", false, "read the password from the first line of standard input, unseen on a terminal")
	if err := c.MarkFlagRequired("role"); err != nil {
		panic(err)
	}
	return c
}

// readPassword reads one line; on a terminal it asks and shows nothing.
func readPassword(c *cobra.Command) (string, error) {
	if file, ok := c.InOrStdin().(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		fmt.Fprint(c.ErrOrStderr(), "Password: ")
		typed, err := term.ReadPassword(int(file.Fd()))
		fmt.Fprintln(c.ErrOrStderr())
		return string(typed), err
	}
	line, err := bufio.NewReader(io.LimitReader(c.InOrStdin(), 4096)).ReadString('\n')
	if err != nil && err != io.EOF {
		return "", fmt.Errorf("read password: %w", err)
	}
	if line = strings.TrimRight(line, "\r\n"); line == "" {
		return "", usage("no password on standard input")
	}
	return line, nil
}

func newUserLock(g *globals, verb, short string, locked bool) *cobra.Command {
	return &cobra.Command{
		Use: verb + " NAME", Short: short, Args: exactly(1, "NAME"),
		Example: "  raptorpack users " + verb + " alice",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				roles, err := r.rolesOf(ctx, args[0])
				if err != nil {
					return err
				}
				w := userWish{name: args[0], roles: roles, locked: &locked}
				if err := r.change(ctx, http.MethodPut, "/users"+escaped(w.name), w.body(), nil); err != nil {
					return err
				}
				r.note("user %s is %sed", w.name, verb)
				return nil
			})
		},
	}
}

// rolesOf finds an account, whose roles stay when its lock changes.
func (r *remote) rolesOf(ctx context.Context, name string) ([]string, error) {
	var found []string
	known := false
	err := r.each(ctx, "/users", nil, 0, func(page *page) error {
		for _, item := range page.Items {
			var account struct {
				Name  string   `json:"name"`
				Roles []string `json:"roles"`
			}
			if err := json.Unmarshal(item, &account); err != nil {
				return fmt.Errorf("list of users: %w", err)
			}
			if account.Name == name {
				found, known = account.Roles, true
			}
		}
		return nil
	})
	if err == nil && !known {
		err = &exitError{exitNotFound, fmt.Errorf("no user %q", name)}
	}
	return found, err
}

func newUsersKey(g *globals) *cobra.Command {
	body := struct {
		Note string `json:"note,omitempty"`
		Days int    `json:"days"`
	}{}
	c := &cobra.Command{
		Use: "key NAME", Short: "Make an API key; it is printed this once", Args: exactly(1, "NAME"),
		Example: "  RAPTORPACK_API_KEY=$(raptorpack users key robot --format jsonl --config server.yaml | jq -r .key)",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				var key json.RawMessage
				if err := r.change(ctx, http.MethodPost, "/users"+escaped(args[0])+"/keys", body, &key); err != nil {
					return err
				}
				return g.single(c, key)
			})
		},
	}
	c.Flags().StringVar(&body.Note, "note", "", "what it is for")
	c.Flags().IntVar(&body.Days, "days", 365, "days until it ends")
	return c
}
