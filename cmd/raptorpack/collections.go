package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"

	"github.com/spf13/cobra"
)

func newCollections(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "collections", Short: "Bring in collections that were made elsewhere", Aliases: []string{"collection"}}
	c.AddCommand(newCollectionsImport(g))
	return c
}

// collectionIn is what the server says of an import.
type collectionIn struct {
	Client   string `json:"client_id"`
	Flow     string `json:"flow_id"`
	Known    bool   `json:"known"`
	Added    bool   `json:"client_added"`
	Rows     int64  `json:"rows"`
	Uploads  int64  `json:"uploads"`
	Skipped  []struct{ Problem string }
	Problems []struct{ Path, Problem string }
}

func newCollectionsImport(g *globals) *cobra.Command {
	var client, hostname, password string
	c := &cobra.Command{
		Use: "import FILE", Short: "Bring in the zip of an offline collector, or of flows export", Args: exactly(1, "FILE"),
		Long: `Bring in a zip of artifacts collect, collect() or flows export, or of a stock offline
collector, as a finished collection of a client. The zip is checked first; one that is
not sound is refused whole, and one that the client has already is not taken again.

With --client auto, or without it, the client is made from the name of the host: its id
is "C." and the first 8 bytes, in hex, of SHA-256 over "raptorpack offline client", a
line feed, and the name in lower case. So the same host is the same client everywhere.

Uploads that the zip does not have whole are left out and told, and the exit code is 6.
Prints the ids of the client and of the collection.`,
		Example: "  raptorpack collections import Collection-lab7.zip\n" +
			"  raptorpack collections import host.zip --client C.0123456789abcdef --password -",
		RunE: func(c *cobra.Command, args []string) error {
			secret, err := passwordOf(c, password)
			if err != nil {
				return err
			}
			file, err := openUpload(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				in, err := r.importCollection(ctx, file, url.Values{"client": {client}, "hostname": {hostname}}, secret)
				if err != nil {
					return err
				}
				return r.toldOfCollection(c, in)
			})
		},
	}
	flags := c.Flags()
	flags.StringVar(&client, "client", "auto", "the client that gets it, or auto")
	flags.StringVar(&hostname, "hostname", "", "the name of the host, for auto; left out: as the zip says")
	flags.StringVar(&password, "password", "", "of a sealed zip; -: read a line of standard input")
	return c
}

func (r *remote) importCollection(ctx context.Context, file *upload, query url.Values, password string) (*collectionIn, error) {
	header := newKey()
	header.Set("Content-Type", file.kind)
	if password != "" {
		header.Set("X-Raptorpack-Password", password)
	}
	var answer json.RawMessage
	if err := r.do(ctx, call{method: http.MethodPost, path: "/collections/import", query: query, header: header, file: file}, &answer); err != nil {
		return nil, err
	}
	in := &collectionIn{}
	return in, json.Unmarshal(answer, in)
}

func (r *remote) toldOfCollection(c *cobra.Command, in *collectionIn) error {
	if _, err := fmt.Fprintln(c.OutOrStdout(), in.Client, in.Flow); err != nil {
		return err
	}
	if in.Known {
		r.note("the same zip was brought in before; nothing was changed")
		return nil
	}
	r.note("%d rows, %d uploads", in.Rows, in.Uploads)
	if in.Added {
		r.note("client %s was made for it", in.Client)
	}
	for _, p := range in.Problems {
		r.note("%s: %s", p.Path, p.Problem)
	}
	for _, s := range in.Skipped {
		r.note("%s", s.Problem)
	}
	if n := len(in.Skipped); n > 0 {
		return &exitError{exitPartly, fmt.Errorf("%d uploads are left out", n)}
	}
	return nil
}
