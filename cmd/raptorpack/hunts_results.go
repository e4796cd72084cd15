package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"raptorpack/hunts"
)

// tableFlags choose rows of a hunt.
type tableFlags struct {
	name, filter string
	logs         bool
	clients      []string
}

func (t *tableFlags) declare(c *cobra.Command) {
	flags := c.Flags()
	flags.StringVar(&t.name, "name", "", "which result, as Artifact or Artifact/Source; may be left out when there is only one")
	flags.StringArrayVar(&t.clients, "client", nil, "only the rows of this client; may be repeated")
	flags.StringVar(&t.filter, "filter", "", "column=text, column~text (has it in it), or a text that some value has in it")
	flags.BoolVar(&t.logs, "logs", false, "the query logs instead of a result")
}

func (t *tableFlags) query() (url.Values, error) {
	if t.logs && t.name != "" {
		return nil, usage("--logs and --name: one of them")
	}
	query := url.Values{"clients": {strings.Join(t.clients, ",")}, "filter": {t.filter}}
	if t.name != "" {
		query.Set("name", t.name)
	}
	return query, nil
}

func newHuntsResults(g *globals) *cobra.Command {
	t := &tableFlags{}
	var sort string
	var limit int64
	c := &cobra.Command{
		Use: "results HUNT", Short: "Print the rows of all clients of a hunt", Args: exactly(1, "HUNT"),
		Long: `Print the rows of all clients of a hunt, each as it is stored, with its ClientId and
FlowId in front. Rows that are missing and files that are damaged are told, and the
exit code is 6. Of large hunts take a part, by --client, --filter or --limit, or all
by hunts export.`,
		Example: "  raptorpack hunts results H.D1ABC --limit 100\n" +
			"  raptorpack hunts results H.D1ABC --name Linux.Sys.Users --filter Name=root --sort -Uid --format csv",
		RunE: func(c *cobra.Command, args []string) error {
			query, err := t.query()
			if err != nil {
				return err
			}
			if sort != "" {
				query.Set("sort", sort)
			}
			query.Set("limit", "1000")
			path := huntPath(args[0]) + "/results"
			if t.logs {
				path = huntPath(args[0]) + "/logs"
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				p, err := g.printer(c)
				if err != nil {
					return err
				}
				return r.printTable(ctx, p, path, query, limit)
			})
		},
	}
	t.declare(c)
	c.Flags().StringVar(&sort, "sort", "", "a column to sort by; with - in front of it descending")
	c.Flags().Int64Var(&limit, "limit", 0, "rows at most; 0: all")
	return c
}

// printTable prints a hunt's table. Each page tells what the whole table lacks.
func (r *remote) printTable(ctx context.Context, p *printer, path string, query url.Values, limit int64) error {
	lost, first := r.losses(), true
	err := r.each(ctx, path, query, limit, func(page *page) error {
		if page.Holes = nil; first {
			lost.short("hunt", page.Missing)
			if page.Hidden > 0 {
				r.note("%d rows of clients or collections that were deleted are left out", page.Hidden)
			}
		}
		first = false
		lost.see("hunt", page)
		for _, row := range page.Items {
			if err := p.row(row); err != nil {
				return err
			}
		}
		return p.flush()
	})
	if err != nil {
		return errors.Join(err, p.flush())
	}
	return errors.Join(p.close(), lost.err())
}

func newHuntsExport(g *globals) *cobra.Command {
	t, f, z := &tableFlags{}, &fetch{}, &zipFlags{}
	var format string
	var rowsOnly bool
	var columns []string
	c := &cobra.Command{
		Use: "export HUNT", Short: "Download a result of a hunt, or all of it as a zip", Args: exactly(1, "HUNT"),
		Long: `Download a result of a hunt as JSON lines or CSV, or all of it as one zip: rows, logs
and uploads of all clients, and a manifest with the SHA-256 of each member, which
hunts verify checks. A download that breaks off leaves no file. What was missing or
damaged in the store is told, and the exit code is 6.

In CSV a text that a spreadsheet would take for a formula gets a ' in front of it.
The bytes of uploads are endpoints' own: treat them as hostile.`,
		Example: "  raptorpack hunts export H.D1ABC --as zip --output hunt.zip\n" +
			"  raptorpack hunts export H.D1ABC --name Linux.Sys.Users --as csv --output users.csv",
		RunE: func(c *cobra.Command, args []string) error {
			query, err := t.query()
			if err != nil {
				return err
			}
			path := huntPath(args[0]) + "/export"
			switch format {
			case "zip":
				if t.name != "" || t.filter != "" || t.logs || len(t.clients) > 0 || len(columns) > 0 {
					return usage("a zip has all of a hunt: no --name, --client, --filter, --logs or --column")
				}
				path, query = huntPath(args[0])+"/zip", url.Values{"rows_only": {strconv.FormatBool(rowsOnly)}}
			case "jsonl", "csv":
				query.Set("format", format)
				query.Set("columns", strings.Join(columns, ","))
				if t.logs {
					query.Set("source", "logs")
				}
			default:
				return usage("--as %q: expected jsonl, csv or zip", format)
			}
			query.Set("bare", strconv.FormatBool(z.bare))
			wish := call{method: http.MethodGet, path: path, query: query}
			if format == "zip" {
				if wish, err = z.call(c, path, query); err != nil {
					return err
				}
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error { return r.export(ctx, c, f, wish) })
		},
	}
	t.declare(c)
	z.declare(c)
	flags := c.Flags()
	flags.StringVar(&format, "as", "jsonl", "jsonl, csv or zip")
	flags.StringVarP(&f.output, "output", "o", "", "a file that must not exist yet; left out or -: standard output")
	flags.StringArrayVar(&columns, "column", nil, "of csv: a column to write; may be repeated; left out: those that the first rows have")
	flags.BoolVar(&z.bare, "bare", false, "of csv: no ' in front of what looks like a formula")
	flags.BoolVar(&rowsOnly, "rows-only", false, "of a zip: neither logs nor uploads")
	return c
}

// exported is what the server says of a download once it is through.
type exported struct {
	Rows     *int64 `json:"rows"`
	Missing  int64  `json:"missing_rows"`
	Members  int    `json:"members"`
	Whole    *bool  `json:"whole"`
	Problems int    `json:"problems"`
	Unlisted int64  `json:"unlisted_cells"`
}

func (r *remote) export(ctx context.Context, c *cobra.Command, f *fetch, wish call) error {
	if file, ok := c.OutOrStdout().(*os.File); ok && f.toStdout() && strings.HasSuffix(wish.path, "/zip") && term.IsTerminal(int(file.Fd())) {
		return usage("a zip does not go to a terminal: name a file with --output, or use a pipe")
	}
	response, err := r.send(ctx, wish)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	var told exported
	err = f.save(c, response.Body, func() error {
		report := response.Trailer.Get("X-Raptorpack-Report")
		if report == "" {
			return errors.New("the download broke off")
		}
		return json.Unmarshal([]byte(report), &told)
	})
	if err != nil {
		return err
	}
	if told.Unlisted > 0 {
		r.note("%d cells of columns that the first rows do not have are left out: name them with --column", told.Unlisted)
	}
	switch {
	case told.Missing > 0:
		return &exitError{exitPartly, fmt.Errorf("%d rows are missing", told.Missing)}
	case told.Whole != nil && !*told.Whole:
		return &exitError{exitPartly, fmt.Errorf("%d things are missing or damaged; manifest.json says which", told.Problems)}
	case told.Rows != nil:
		r.note("%d rows", *told.Rows)
	default:
		r.note("%d files", told.Members)
	}
	return nil
}

func newHuntsVerify(g *globals) *cobra.Command {
	return &cobra.Command{
		Use: "verify FILE", Short: "Check the zip of a hunt against its manifest; needs no server", Args: exactly(1, "FILE"),
		Example: "  raptorpack hunts verify hunt.zip",
		RunE: func(c *cobra.Command, args []string) error {
			file, err := os.Open(args[0])
			if err != nil {
				return err
			}
			defer file.Close()
			info, err := file.Stat()
			if err != nil {
				return err
			}
			found, err := hunts.Verify(c.Context(), file, info.Size())
			if err != nil {
				return err
			}
			p, err := g.printer(c, column{"PATH", "path"}, column{"PROBLEM", "problem"})
			if err != nil {
				return err
			}
			for _, finding := range found.Findings {
				line, err := json.Marshal(finding)
				if err != nil {
					return err
				}
				if err := p.row(line); err != nil {
					return err
				}
			}
			if err := p.close(); err != nil {
				return err
			}
			g.noter(c)("hunt %s: %d files, %d bytes checked, %d findings; %d problems that its manifest tells itself",
				found.Manifest.Hunt, found.Members, found.Bytes, len(found.Findings), len(found.Manifest.Problems))
			if len(found.Findings) > 0 {
				return &exitError{exitFailed, fmt.Errorf("%s is not as its manifest says", args[0])}
			}
			return nil
		},
	}
}
