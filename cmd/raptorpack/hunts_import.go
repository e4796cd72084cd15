package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

// broughtIn is what the server says of an import.
type broughtIn struct {
	Hunt    string `json:"hunt_id"`
	Rows    int64  `json:"rows"`
	Uploads int64  `json:"uploads"`
	Skipped []struct {
		Problem string `json:"problem"`
		Client  string `json:"client_id"`
	} `json:"skipped"`
	Problems []struct{} `json:"problems"`
}

func newHuntsImport(g *globals) *cobra.Command {
	var description string
	c := &cobra.Command{
		Use: "import FILE", Short: "Bring in the zip of a hunt, from this pack or another", Args: exactly(1, "FILE"),
		Long: `Bring in a zip of hunts export as a new hunt, which is archived: its rows, logs,
uploads and counts can be read, exported and deleted like those of any hunt, and
nothing of it runs. The zip is checked against its manifest first; one that does not
agree with it is refused whole. Rows keep their bytes, so the FlowId in a row is the
one that it had.

Uploads that the zip does not have whole are left out and told, and the exit code is 6.
Prints the id of the new hunt.`,
		Example: "  raptorpack hunts import hunt.zip --description 'Case 17, from the other site'",
		RunE: func(c *cobra.Command, args []string) error {
			file, err := openUpload(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				path := "/hunts/import"
				if description != "" {
					path += "?" + url.Values{"description": {description}}.Encode()
				}
				var in broughtIn
				if err := r.upload(ctx, http.MethodPost, path, file, &in); err != nil {
					return err
				}
				return r.toldOf(c, &in)
			})
		},
	}
	c.Flags().StringVar(&description, "description", "", "what it is for; left out: the one it had")
	return c
}

func (r *remote) toldOf(c *cobra.Command, in *broughtIn) error {
	if _, err := fmt.Fprintln(c.OutOrStdout(), in.Hunt); err != nil {
		return err
	}
	r.note("%d rows, %d uploads", in.Rows, in.Uploads)
	if n := len(in.Problems); n > 0 {
		r.note("%d things were missing or damaged where the zip was made; its manifest.json says which", n)
	}
	for _, s := range in.Skipped {
		r.note("%s of %s", s.Problem, s.Client)
	}
	if n := len(in.Skipped); n > 0 {
		return &exitError{exitPartly, fmt.Errorf("%d uploads are left out", n)}
	}
	return nil
}
