package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"
)

// askWithin bounds one look of a watch: what hangs must not stop the next one.
const askWithin = 5 * time.Second

// packWatch shows the pack until it is interrupted.
type packWatch struct {
	printer func() (*printer, error) // a fresh one for each table

	last string // what the last table told, but for what changes all the time
	lost bool   // the server is not there, and that was told
}

func newPackWatch(g *globals, c *cobra.Command) *packWatch {
	return &packWatch{printer: func() (*printer, error) { return g.packPrinter(c) }}
}

// run ends quietly when ctx does. A server that is not there at first is an error;
// one that goes is waited for a while, since fail-overs are what people watch for.
func (w *packWatch) run(ctx context.Context, r *remote) error {
	begun, lastGood := false, time.Now()
	for {
		nodes, err := askPack(ctx, r)
		var refused *problem
		switch {
		case ctx.Err() != nil:
			return nil
		case err == nil:
			begun, lastGood = true, time.Now()
			if err := w.show(r, nodes); err != nil {
				return err
			}
		case !begun, errors.As(err, &refused) && refused.Status < 500, time.Since(lastGood) > giveUpAfter:
			return err
		case !w.lost:
			w.lost = true
			r.note("%v; going on to ask for %v", err, giveUpAfter)
		}
		if !pause(ctx, pollEvery) {
			return nil
		}
	}
}

// askPack looks once, without waiting for a server that says "later".
func askPack(ctx context.Context, r *remote) (packNodes, error) {
	short, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	var nodes packNodes
	_, response, err := r.once(short, call{method: http.MethodGet, path: "/pack"}, nil)
	if err == nil {
		err = r.decode(short, response, &nodes)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, &exitError{exitUnreachable, fmt.Errorf("reach %s: no answer within %v", r.door.url, askWithin)}
	}
	return nodes, err
}

// show draws the table anew on a terminal, and prints another one elsewhere if
// something has changed.
func (w *packWatch) show(r *remote, nodes packNodes) error {
	if w.lost {
		w.lost = false
		r.note("%s answers again", r.door.url)
	}
	p, err := w.printer()
	if err != nil {
		return err
	}
	told := steady(nodes)
	redraw := p.terminal && p.format == "table"
	switch {
	case redraw:
		p.write([]byte("\x1b[H\x1b[J"))
	case told == w.last:
		return nil
	case w.last != "" && p.format == "table":
		p.write([]byte{'\n'})
	}
	w.last = told
	return showPack(p, nodes)
}

// steady is what nodes say of themselves but for what is another each second.
func steady(nodes packNodes) string {
	text := ""
	for _, n := range nodes {
		still := *n
		still.AgeMs, still.CPU, still.MemoryBytes, still.raw = 0, 0, 0, nil
		text += fmt.Sprintf("%+v\n", still)
	}
	return text
}
