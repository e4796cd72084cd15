package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
)

// zipFlags choose how a zip of a flow or hunt is made.
type zipFlags struct {
	rows, password string
	bare, expand   bool
}

func (z *zipFlags) declare(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&z.rows, "rows", "csv", "of a zip: csv (JSON lines and CSV), json (JSON lines alone) or csv_only")
	flags.StringVar(&z.password, "password", "", "of a zip: encrypt by AES-256; -: read a line of standard input")
	flags.BoolVar(&z.expand, "expand", false, "of a zip: sparse uploads with their holes, as zeros, up to 64 GiB each")
}

// call completes a call for a zip.
func (z *zipFlags) call(c *cobra.Command, path string, query url.Values) (call, error) {
	if z.rows != "csv" && z.rows != "json" && z.rows != "csv_only" {
		return call{}, usage("--rows %q: expected csv, json or csv_only", z.rows)
	}
	query.Set("format", z.rows)
	query.Set("expand", strconv.FormatBool(z.expand))
	password, err := passwordOf(c, z.password)
	if err != nil {
		return call{}, err
	}
	out := call{method: http.MethodGet, path: path, query: query}
	if password != "" {
		out.header = http.Header{"X-Raptorpack-Password": {password}}
	}
	return out, nil
}

// passwordOf is a password as it was given, or a line of standard input.
func passwordOf(c *cobra.Command, given string) (string, error) {
	if given != "-" {
		return given, nil
	}
	line, err := bufio.NewReader(c.InOrStdin()).ReadString('\n')
	if line = strings.TrimRight(line, "\r\n"); line != "" {
		return line, nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return "", fmt.Errorf("read password from standard input: %w", err)
	}
	return "", usage("--password -: standard input has no password")
}

func newFlowsExport(g *globals) *cobra.Command {
	f, z := &fetch{}, &zipFlags{}
	var format string
	c := &cobra.Command{
		Use: "export CLIENT FLOW", Short: "Download all of a collection as a zip", Args: exactly(2, "CLIENT FLOW"),
		Long: `Download all of a collection as one zip: rows, logs and uploads, what is known of the
client, and a manifest with the SHA-256 of each member. collections import brings it in
again, here or elsewhere. A download that breaks off leaves no file. What was missing or
damaged in the store is told, and the exit code is 6.

With a password the zip has one member, data.zip, that it opens. In CSV a text that a
spreadsheet would take for a formula gets a ' in front of it. The bytes of uploads are
an endpoint's own: treat them as hostile.`,
		Example: "  raptorpack flows export C.0123456789abcdef F.D1ABC --as zip --output flow.zip",
		RunE: func(c *cobra.Command, args []string) error {
			if format != "zip" {
				return usage("--as %q: expected zip", format)
			}
			wish, err := z.call(c, flowPath(args[0], args[1])+"/zip", url.Values{"bare": {strconv.FormatBool(z.bare)}})
			if err != nil {
				return err
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error { return r.export(ctx, c, f, wish) })
		},
	}
	z.declare(c)
	flags := c.Flags()
	flags.StringVar(&format, "as", "zip", "zip")
	flags.StringVarP(&f.output, "output", "o", "", "a file that must not exist yet; left out or -: standard output")
	flags.BoolVar(&z.bare, "bare", false, "of csv: no ' in front of what looks like a formula")
	return c
}
