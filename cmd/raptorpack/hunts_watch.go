package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// huntView is what a command reads of a hunt.
type huntView struct {
	ID      string         `json:"hunt_id"`
	State   string         `json:"state"`
	Clients map[string]int `json:"clients"`
	Rows    int64          `json:"rows"`
	Bytes   int64          `json:"upload_bytes"`
	CPU     int64          `json:"cpu_ns"`
	CPUTold int64          `json:"cpu_told"` // flows

	raw json.RawMessage // all that the server said
}

// ended counts the clients that are through, of those that were found.
func (h *huntView) ended() int { return h.Clients["completed"] + h.Clients["errored"] }

func (h *huntView) open() int { return h.Clients["pending"] + h.Clients["running"] }

// over reports whether nothing will come of a hunt any more.
func (h *huntView) over() bool {
	return h.State != "running" && h.State != "paused" && h.State != "draft" && h.Clients["running"] == 0
}

func newHuntsWatch(g *globals) *cobra.Command {
	idle := false
	c := &cobra.Command{
		Use: "watch HUNT", Short: "Follow a hunt's progress", Args: exactly(1, "HUNT"),
		Long: `Follow a hunt's progress until it has ended or Ctrl-C, which leaves it running. On a
terminal a bar and rates are drawn; elsewhere a row is printed for each change, at
most one a second. A server that goes away is waited for.`,
		Example: "  raptorpack hunts watch H.D1ABC\n  raptorpack hunts watch H.D1ABC --until-idle --format jsonl",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withRemote(c, func(ctx context.Context, r *remote) error {
				w := &huntWatch{g: g, c: c, idle: idle}
				return w.run(ctx, r, args[0])
			})
		},
	}
	c.Flags().BoolVar(&idle, "until-idle", false, "end when no client is pending or running any more, and one has ended")
	return c
}

// watchHunt follows a hunt that was made just now.
func (g *globals) watchHunt(ctx context.Context, c *cobra.Command, r *remote, hunt string) error {
	return (&huntWatch{g: g, c: c}).run(ctx, r, hunt)
}

// huntWatch shows a hunt as it goes on.
type huntWatch struct {
	g    *globals
	c    *cobra.Command
	idle bool

	printer *printer
	bar     *progress
	last    string
	lost    bool
	rates   []huntSample // of the last seconds
}

type huntSample struct {
	at    time.Time
	ended int
	rows  int64
}

// rateOver is how long a rate looks back.
const rateOver = 10 * time.Second

func (w *huntWatch) run(ctx context.Context, r *remote, hunt string) error {
	var err error
	if w.printer, err = w.g.printer(w.c, huntColumns...); err != nil {
		return err
	}
	w.bar = w.g.progress(w.c)
	defer w.bar.done()
	begun, lastGood := false, time.Now()
	for {
		h, err := askHunt(ctx, r, hunt)
		var refused *problem
		switch {
		case ctx.Err() != nil:
			return w.printer.close()
		case err == nil:
			begun, lastGood, w.lost = true, time.Now(), false
			if err := w.show(h); err != nil {
				return err
			}
			if h.over() || w.idle && h.open() == 0 && h.ended() > 0 {
				return w.end(h)
			}
		case !begun, errors.As(err, &refused) && refused.Status < 500, time.Since(lastGood) > giveUpAfter:
			return err
		case !w.lost:
			w.lost = true
			r.note("%v; going on to ask for %v", err, giveUpAfter)
		}
		if !pause(ctx, pollEvery) {
			return w.printer.close()
		}
	}
}

// askHunt looks once, without waiting for a server that says "later".
func askHunt(ctx context.Context, r *remote, hunt string) (*huntView, error) {
	short, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	h := &huntView{}
	_, response, err := r.once(short, call{method: "GET", path: huntPath(hunt)}, nil)
	if err == nil {
		err = r.decode(short, response, &h.raw)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, &exitError{exitUnreachable, fmt.Errorf("reach %s: no answer within %v", r.door.url, askWithin)}
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(h.raw, h); err != nil {
		return nil, fmt.Errorf("answer of %s: %w", r.door.url, err)
	}
	return h, nil
}

// show draws the bar on a terminal, else prints what has changed.
func (w *huntWatch) show(h *huntView) error {
	if w.bar.w != nil {
		clients, rows := w.rate(h)
		w.bar.line("%s", huntLine(h, clients, rows, time.Since(w.bar.began)))
		return nil
	}
	if string(h.raw) == w.last {
		return nil
	}
	w.last = string(h.raw)
	return errors.Join(w.printer.row(h.raw), w.printer.flush())
}

// end leaves the last numbers behind.
func (w *huntWatch) end(h *huntView) error {
	if w.bar.w != nil {
		w.bar.done()
		if err := w.printer.row(h.raw); err != nil {
			return err
		}
	}
	return w.printer.close()
}

// rate is how many clients ended and rows came per second lately.
func (w *huntWatch) rate(h *huntView) (clients, rows float64) {
	now := time.Now()
	w.rates = append(w.rates, huntSample{now, h.ended(), h.Rows})
	for len(w.rates) > 2 && now.Sub(w.rates[0].at) > rateOver {
		w.rates = w.rates[1:]
	}
	first := w.rates[0]
	seconds := now.Sub(first.at).Seconds()
	if seconds <= 0 {
		return 0, 0
	}
	return float64(h.ended()-first.ended) / seconds, float64(h.Rows-first.rows) / seconds
}

// barWidth is how many signs the bar has.
const barWidth = 24

func huntLine(h *huntView, clients, rows float64, since time.Duration) string {
	all := h.ended() + h.open()
	full, percent := 0, 0
	if all > 0 {
		full, percent = h.ended()*barWidth/all, h.ended()*100/all
	}
	line := fmt.Sprintf("%s %s [%s%s] %d%% %s of %s clients", h.ID, h.State,
		strings.Repeat("#", full), strings.Repeat("-", barWidth-full), percent, thousands(int64(h.ended())), thousands(int64(all)))
	if n := h.Clients["errored"]; n > 0 {
		line += fmt.Sprintf(", %s erred", thousands(int64(n)))
	}
	line += fmt.Sprintf(", %s run, %s rows", thousands(int64(h.Clients["running"])), thousands(h.Rows))
	if h.Bytes > 0 {
		line += ", " + byteCount(h.Bytes)
	}
	if h.CPUTold > 0 {
		line += ", " + processorTime(h.CPU) + " CPU"
		if h.CPUTold < int64(h.ended()) {
			line += " of " + thousands(h.CPUTold)
		}
	}
	return line + fmt.Sprintf("; %.0f clients/s, %.0f rows/s, %s", clients, rows, since.Round(time.Second))
}

// thousands prints a number in groups of three digits.
func thousands(n int64) string {
	text := strconv.FormatInt(n, 10)
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return text
}
