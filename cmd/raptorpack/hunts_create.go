package main

import (
	"context"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// targetFlags say which clients a hunt wants.
type targetFlags struct {
	include, exclude        []string
	system                  string
	onlyAdded               bool
	conditionAt, filterAt   string
	condition, serverFilter string
}

func (t *targetFlags) declare(c *cobra.Command) {
	t.declareLabels(c)
	flags := c.Flags()
	flags.BoolVar(&t.onlyAdded, "only-added", false, "none but the clients that are added by hand")
	flags.StringVar(&t.condition, "condition", "", "VQL that runs on each client, which takes part if a row comes")
	flags.StringVar(&t.conditionAt, "condition-file", "", "a file with that VQL")
	flags.StringVar(&t.serverFilter, "filter", "", "VQL that runs on the server over the condition's rows, and that no client sees")
	flags.StringVar(&t.filterAt, "filter-file", "", "a file with that VQL")
}

// declareLabels declares what can be told of clients without asking them.
func (t *targetFlags) declareLabels(c *cobra.Command) {
	flags := c.Flags()
	flags.StringArrayVar(&t.include, "label", nil, "clients that have one of these labels; may be repeated")
	flags.StringArrayVar(&t.exclude, "exclude-label", nil, "no clients that have one of these; may be repeated")
	flags.StringVar(&t.system, "os", "", "windows, linux, darwin or freebsd")
}

// fill adds the targets to the body of a wish.
func (t *targetFlags) fill(body map[string]any) error {
	for _, text := range []struct {
		name, given, file string
	}{{"condition", t.condition, t.conditionAt}, {"filter", t.serverFilter, t.filterAt}} {
		if text.file != "" {
			if text.given != "" {
				return usage("--%s and --%s-file: one of them", text.name, text.name)
			}
			raw, err := os.ReadFile(text.file)
			if err != nil {
				return err
			}
			text.given = string(raw)
		}
		if text.given != "" {
			body[text.name] = text.given
		}
	}
	if t.system != "" {
		body["os"] = t.system
	}
	if len(t.include) > 0 {
		body["include_labels"] = t.include
	}
	if len(t.exclude) > 0 {
		body["exclude_labels"] = t.exclude
	}
	if t.onlyAdded {
		body["only_added"] = true
	}
	return nil
}

func newHuntsCreate(g *globals) *cobra.Command {
	o, targets := &collectFlags{}, &targetFlags{}
	var description, expires string
	var rate, limit int64
	var clients, tags []string
	var draft, watch bool
	c := &cobra.Command{
		Use: "create ARTIFACT...", Short: "Make a hunt and start it", Args: atLeast(1, "one or more ARTIFACTs"),
		Long: `Make a hunt and start it: every client that fits runs the artifacts once, now or
when it next comes, until the hunt expires. An ARTIFACT may be one source of one,
as Generic.Client.Info/Users. The hunt's id is printed; with --watch its progress
is shown until Ctrl-C, which leaves the hunt running.`,
		Example: "  raptorpack hunts create Linux.Sys.Users --label web --description 'accounts on web hosts'\n" +
			"  raptorpack hunts create Linux.Search.FileFinder --param 'SearchFilesGlob=/etc/cron*/*' --limit 100 --rate 50 --expires 48h --watch",
		RunE: func(c *cobra.Command, args []string) error {
			body, err := o.request(args)
			if err != nil {
				return err
			}
			if err := targets.fill(body); err != nil {
				return err
			}
			if expires != "" {
				at, err := parseExpiry(expires, time.Now())
				if err != nil {
					return err
				}
				body["expires"] = at
			}
			body["description"], body["clients_per_minute"], body["client_limit"] = description, rate, limit
			body["clients"], body["tags"], body["start"] = clients, tags, !draft
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				var made struct {
					Hunt string `json:"hunt_id"`
				}
				if err := r.change(ctx, http.MethodPost, "/hunts", body, &made); err != nil {
					return err
				}
				p, err := g.printer(c, column{"HUNT", "hunt_id"})
				if err != nil {
					return err
				}
				if err := p.value(map[string]string{"hunt_id": made.Hunt}); err != nil {
					return err
				}
				if err := p.close(); err != nil || !watch {
					return err
				}
				return g.watchHunt(ctx, c, r, made.Hunt)
			})
		},
	}
	o.declare(c)
	targets.declare(c)
	flags := c.Flags()
	flags.StringVar(&description, "description", "", "what the hunt is for")
	flags.StringArrayVar(&tags, "tag", nil, "a word to find it by; may be repeated")
	flags.StringVar(&expires, "expires", "", "when it ends, as 48h, 14d or 2026-12-24T18:00:00Z; left out: in a week")
	flags.Int64Var(&rate, "rate", 0, "clients that join per minute at most; 0: as fast as it goes")
	flags.Int64Var(&limit, "limit", 0, "clients that take part at most; 0: no limit")
	flags.StringArrayVar(&clients, "client", nil, "a client to add, whatever the conditions say; may be repeated")
	flags.BoolVar(&draft, "draft", false, "make it without starting it")
	flags.BoolVar(&watch, "watch", false, "follow its progress until Ctrl-C, which leaves it running")
	return c
}

// parseExpiry reads a time, or how long from now.
func parseExpiry(text string, now time.Time) (time.Time, error) {
	if at, err := time.Parse(time.RFC3339, text); err == nil {
		return at, nil
	}
	life, err := time.ParseDuration(text)
	if days, whole := strings.CutSuffix(text, "d"); whole {
		var n int
		n, err = strconv.Atoi(days)
		life = time.Duration(min(n, maxDays)) * 24 * time.Hour
	}
	if err != nil || life <= 0 {
		return time.Time{}, usage("--expires %q: expected 48h, 14d or 2026-12-24T18:00:00Z", text)
	}
	return now.Add(life).UTC().Truncate(time.Second), nil
}

// maxDays is more than a hunt can last.
const maxDays = 36500
