package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newEvents(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "events", Short: "What clients and the server watch, and the rows that come of it", Aliases: []string{"event"}}
	c.AddCommand(newEventsList(g), newEventsShow(g), newEventsTail(g), newEventsTable(g), newEventsSet(g), newEventsClear(g))
	return c
}

// eventSpan are the flags that choose event rows.
type eventSpan struct{ client, from, to string }

func (e *eventSpan) flags(c *cobra.Command) {
	c.Flags().StringVar(&e.client, "client", "", "only of this client; server: of the server's own queries")
	c.Flags().StringVar(&e.from, "from", "", "taken by the server at this time or later: 2026-11-22, 2026-11-22T10:00:00Z, or 2h for two hours ago")
	c.Flags().StringVar(&e.to, "to", "", "taken by the server before this time")
}

func (e *eventSpan) query() (url.Values, error) {
	out := url.Values{}
	if e.client != "" {
		out.Set("client", e.client)
	}
	for name, text := range map[string]string{"from": e.from, "to": e.to} {
		at, err := parseMoment(text, time.Now())
		if err != nil {
			return nil, err
		}
		if !at.IsZero() {
			out.Set(name, at.UTC().Format(time.RFC3339))
		}
	}
	return out, nil
}

// parseMoment reads a day, a time, or how long ago; empty is none.
func parseMoment(text string, now time.Time) (time.Time, error) {
	if text == "" {
		return time.Time{}, nil
	}
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if at, err := time.Parse(layout, text); err == nil {
			return at, nil
		}
	}
	if ago, err := time.ParseDuration(text); err == nil && ago >= 0 {
		return now.Add(-ago), nil
	}
	return time.Time{}, usage("%q: expected a day, a time as 2026-11-22T10:00:00Z, or how long ago, as 2h", text)
}

func newEventsList(g *globals) *cobra.Command {
	span := &eventSpan{}
	c := &cobra.Command{
		Use: "list", Short: "List event artifacts that have rows, and on which days", Args: cobra.NoArgs,
		Example: "  raptorpack events list --client C.0123456789abcdef --from 48h",
		RunE: func(c *cobra.Command, _ []string) error {
			query, err := span.query()
			if err != nil {
				return err
			}
			return g.listed(c, "/events", query, 0, column{"ARTIFACT", "name"}, column{"DAYS", "days"})
		},
	}
	span.flags(c)
	return c
}

func newEventsShow(g *globals) *cobra.Command {
	span := &eventSpan{}
	var limit int64
	var logs bool
	c := &cobra.Command{
		Use: "show ARTIFACT", Short: "Print the rows of an event artifact, of all nodes", Args: exactly(1, "ARTIFACT, or ARTIFACT/SOURCE"),
		Example: "  raptorpack events show Linux.Events.SSHLogin --from 2h --format csv",
		RunE: func(c *cobra.Command, args []string) error {
			query, err := span.query()
			if err != nil {
				return err
			}
			path := "/events" + escaped(args[0])
			if logs {
				path += "/logs"
			}
			query.Set("limit", "1000")
			return g.listed(c, path, query, limit)
		},
	}
	span.flags(c)
	c.Flags().Int64Var(&limit, "limit", 0, "rows at most; 0: all")
	c.Flags().BoolVar(&logs, "logs", false, "the log of its queries instead of its rows")
	return c
}

func newEventsTail(g *globals) *cobra.Command {
	t := &eventTail{}
	c := &cobra.Command{
		Use: "tail ARTIFACT", Short: "Print the rows of an event artifact as any node stores them", Args: exactly(1, "ARTIFACT, or ARTIFACT/SOURCE"),
		Long: "Print the rows of an event artifact as any node stores them, until it is interrupted.\n" +
			"A connection that breaks is made again, and no row is lost or printed twice.",
		Example: "  raptorpack events tail Linux.Events.SSHLogin --format jsonl",
		RunE: func(c *cobra.Command, args []string) error {
			from, err := parseMoment(t.from, time.Now())
			if err != nil {
				return err
			}
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				p, err := g.printer(c)
				if err != nil {
					return err
				}
				t.path, t.printer, t.begin = "/events"+escaped(args[0])+"/tail", p, from
				return t.run(ctx, r)
			})
		},
	}
	c.Flags().StringVar(&t.client, "client", "", "only of this client; server: of the server's own queries")
	c.Flags().StringVar(&t.from, "from", "", "begin with the first row of this day, as 2026-11-22, instead of with what comes now")
	return c
}

func newEventsTable(g *globals) *cobra.Command {
	var server bool
	c := &cobra.Command{
		Use: "table", Short: "Show what clients watch, or what the master runs", Args: cobra.NoArgs,
		Example: "  raptorpack events table\n  raptorpack events table --on-server",
		RunE:    func(c *cobra.Command, _ []string) error { return g.shown(c, tablePath(server)) },
	}
	c.Flags().BoolVar(&server, "on-server", false, "the event artifacts that run on the master")
	return c
}

func tablePath(server bool) string {
	if server {
		return "/monitoring/server"
	}
	return "/monitoring/client"
}

func newEventsSet(g *globals) *cobra.Command {
	var o tableChange
	c := &cobra.Command{
		Use: "set ARTIFACT...", Short: "Have clients watch artifacts, or the master run them", Args: atLeast(1, "one or more ARTIFACTs"),
		Long: "Have clients watch event artifacts, or the master run them. Artifacts that are in the table\n" +
			"get the parameters given here and no others; those that are not named stay as they are.",
		Example: "  raptorpack events set Linux.Events.SSHLogin --label prod --param syslogAuthLogPath=/var/log/secure\n" +
			"  raptorpack events set --on-server Custom.Server.Alerts",
		RunE: func(c *cobra.Command, args []string) error {
			specs, err := specsOf(args, o.params)
			if err != nil {
				return err
			}
			return o.change(c, g, "the table has "+strings.Join(args, ", "), func(all []collectSpec) []collectSpec {
				for _, spec := range specs {
					all = append(withoutSpec(all, spec.Name), spec)
				}
				return all
			})
		},
	}
	c.Flags().StringArrayVar(&o.params, "param", nil, "NAME=VALUE for all artifacts, or Artifact.Name.NAME=VALUE for one; may be repeated")
	o.flags(c)
	return c
}

func newEventsClear(g *globals) *cobra.Command {
	var o tableChange
	c := &cobra.Command{
		Use: "clear [ARTIFACT...]", Short: "Take artifacts out of an event table; without any, all of them", Args: cobra.ArbitraryArgs,
		Example: "  raptorpack events clear Linux.Events.SSHLogin --label prod\n  raptorpack events clear --on-server",
		RunE: func(c *cobra.Command, args []string) error {
			return o.change(c, g, "the table is changed", func(all []collectSpec) []collectSpec {
				if len(args) == 0 {
					return nil
				}
				for _, name := range args {
					all = withoutSpec(all, name)
				}
				return all
			})
		},
	}
	o.flags(c)
	return c
}

func withoutSpec(all []collectSpec, name string) []collectSpec {
	return slices.DeleteFunc(all, func(s collectSpec) bool { return s.Name == name })
}

// tableChange edits one event table.
type tableChange struct {
	params []string
	label  string
	server bool
}

func (o *tableChange) flags(c *cobra.Command) {
	c.Flags().StringVar(&o.label, "label", "", "only for clients with this label; none: all clients")
	c.Flags().BoolVar(&o.server, "on-server", false, "the event artifacts that run on the master")
}

// eventTables is what the server says of either table.
type eventTables struct {
	Tables    []eventTable  `json:"tables,omitempty"`
	Artifacts []collectSpec `json:"artifacts,omitempty"`
	Version   uint64        `json:"version"`
}

type eventTable struct {
	Label     string        `json:"label,omitempty"`
	Artifacts []collectSpec `json:"artifacts"`
}

// change reads the table, edits it, and writes it if nobody else did meanwhile.
func (o *tableChange) change(c *cobra.Command, g *globals, done string, edit func([]collectSpec) []collectSpec) error {
	if o.server && o.label != "" {
		return usage("--label is for clients' tables")
	}
	return g.withRemote(c, func(ctx context.Context, r *remote) error {
		var now eventTables
		if err := r.get(ctx, tablePath(o.server), nil, &now); err != nil {
			return err
		}
		body := map[string]any{"version": now.Version}
		if o.server {
			body["artifacts"] = append([]collectSpec{}, edit(now.Artifacts)...)
		} else {
			body["tables"] = now.with(strings.ToLower(o.label), edit)
		}
		if err := r.change(ctx, http.MethodPut, tablePath(o.server), body, nil); err != nil {
			return err
		}
		r.note("%s", done)
		return nil
	})
}

// with are the tables with one of them edited.
func (e *eventTables) with(label string, edit func([]collectSpec) []collectSpec) []eventTable {
	at := slices.IndexFunc(e.Tables, func(t eventTable) bool { return t.Label == label })
	if at < 0 {
		at = len(e.Tables)
		e.Tables = append(e.Tables, eventTable{Label: label})
	}
	e.Tables[at].Artifacts = append([]collectSpec{}, edit(e.Tables[at].Artifacts)...)
	return e.Tables
}

// eventTail prints a stream of rows, over as many connections as it takes.
type eventTail struct {
	client, from string

	path    string
	begin   time.Time
	place   string // behind the last row that was printed
	printer *printer
}

// run ends quietly when ctx does.
func (t *eventTail) run(ctx context.Context, r *remote) error {
	lastGood := time.Now()
	for told := false; ; {
		open, err := t.stream(ctx, r)
		if ctx.Err() != nil {
			return t.printer.close()
		}
		if open {
			lastGood, told = time.Now(), false
		} else if !retriable(err) || time.Since(lastGood) > giveUpAfter {
			return err
		}
		if !told {
			told = true
			r.note("the stream ended (%v); going on where it stood", err)
		}
		if !pause(ctx, pollEvery) {
			return t.printer.close()
		}
	}
}

// stream prints what one connection gives; it tells whether there was one.
func (t *eventTail) stream(ctx context.Context, r *remote) (open bool, _ error) {
	query, header := url.Values{}, http.Header{"Accept": {"text/event-stream"}}
	if t.client != "" {
		query.Set("client", t.client)
	}
	if !t.begin.IsZero() {
		query.Set("from", t.begin.UTC().Format(time.RFC3339))
	}
	if t.place != "" {
		header.Set("Last-Event-ID", t.place)
	}
	_, response, err := r.once(ctx, call{method: http.MethodGet, path: t.path, query: query, header: header}, nil)
	if err != nil {
		return false, err
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return false, fmt.Errorf("answer is %q, not an event stream", kind)
	}
	return true, eachEvent(response.Body, func(e event) error { return t.take(r, e) })
}

func (t *eventTail) take(r *remote, e event) error {
	var data struct {
		Rows   []json.RawMessage `json:"rows"`
		Damage json.RawMessage   `json:"damage"`
	}
	if err := json.Unmarshal([]byte(e.data), &data); err != nil {
		return fmt.Errorf("event: %w", err)
	}
	if data.Damage != nil {
		r.note("damaged files: %s", data.Damage)
	}
	for _, row := range data.Rows {
		if err := t.printer.row(row); err != nil {
			return err
		}
	}
	if e.id != "" {
		t.place = e.id
	}
	return t.printer.flush()
}
