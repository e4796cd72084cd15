package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

const (
	pollEvery    = time.Second
	giveUpAfter  = 2 * time.Minute // of a server that is not there
	cancelWithin = 10 * time.Second
)

// flowView is what a command reads of a collection's record.
type flowView struct {
	ID        string        `json:"flow_id"`
	Client    string        `json:"client_id"`
	State     string        `json:"state"`
	Error     string        `json:"error"`
	Rows      int64         `json:"rows"`
	Uploads   int64         `json:"uploads"`
	Bytes     int64         `json:"upload_bytes"`
	Cancelled string        `json:"cancelled_by"`
	Results   []flowResult  `json:"results"`
	Progress  *flowProgress `json:"progress"`
	Folder    string        `json:"folder"`
}

type flowResult struct {
	Name string `json:"name"`
	Rows int64  `json:"rows"`
}

type flowProgress struct {
	Totals struct {
		Rows                int64 `json:"rows"`
		UploadBytes         int64 `json:"upload_bytes"`
		ExpectedUploadBytes int64 `json:"expected_upload_bytes"`
	} `json:"totals"`
	Queries int `json:"queries"`
	Running int `json:"running"`
}

func (f *flowView) final() bool { return final(f.State) }

func final(state string) bool {
	switch state {
	case "completed", "incomplete", "errored", "cancelled":
		return true
	}
	return false
}

// named is the result of that name, or all of them for an empty one. Whether there
// is such a result is for the server to say.
func (f *flowView) named(name string) []flowResult {
	if name == "" {
		return f.Results
	}
	for _, result := range f.Results {
		if result.Name == name {
			return []flowResult{result}
		}
	}
	return []flowResult{{Name: name}}
}

// verdict is how the command ends for a collection that has.
func (f *flowView) verdict() error {
	switch f.State {
	case "incomplete":
		return &exitError{exitPartly, fmt.Errorf("collection %s: rows or uploads are missing", f.ID)}
	case "errored":
		return &exitError{exitFailed, fmt.Errorf("collection %s failed: %s", f.ID, harmless(f.Error))}
	case "cancelled":
		return &exitError{exitFailed, fmt.Errorf("collection %s was cancelled by %s", f.ID, harmless(f.Cancelled))}
	}
	return nil
}

// follower starts a collection and, if asked, stays with it to its end.
type follower struct {
	g    *globals
	wait bool
}

func (f *follower) start(c *cobra.Command, client, path string, body any) error {
	return f.g.withRemote(c, func(ctx context.Context, r *remote) error {
		var started struct {
			Flow string `json:"flow_id"`
		}
		err := r.change(ctx, http.MethodPost, path, body, &started)
		if err != nil && ctx.Err() != nil {
			return &exitError{exitInterrupted, fmt.Errorf("interrupted: the collection may have been started; flows list %s shows it: %w", client, err)}
		}
		if err != nil {
			return err
		}
		if !f.wait {
			return f.started(c, client, started.Flow)
		}
		r.note("collection %s on %s", started.Flow, client)
		return f.follow(ctx, c, r, client, started.Flow)
	})
}

// started prints the id alone in a table, as scripts want it, else an object.
func (f *follower) started(c *cobra.Command, client, flow string) error {
	p, err := f.g.printer(c, column{"FLOW", "flow_id"}, column{"CLIENT", "client_id"})
	if err != nil {
		return err
	}
	if err := p.value(map[string]string{"flow_id": flow, "client_id": client}); err != nil {
		return err
	}
	return p.close()
}

func (f *follower) follow(ctx context.Context, c *cobra.Command, r *remote, client, flow string) error {
	path := flowPath(client, flow)
	show := f.g.progress(c)
	record, err := r.watch(ctx, path, show.flow)
	show.done()
	if ctx.Err() != nil {
		return f.cancel(ctx, r, path, flow)
	}
	if err != nil {
		return err
	}
	p, err := f.g.printer(c)
	if err != nil {
		return err
	}
	missing, err := r.printResults(ctx, p, path, record, record.Results, 0)
	if err != nil {
		return err
	}
	r.note("collection %s: %s, %d rows, %d uploads", record.ID, record.State, record.Rows, record.Uploads)
	if err := record.verdict(); err != nil {
		return err
	}
	return missing
}

// cancel ends the collection of somebody who does not want to wait any longer.
func (f *follower) cancel(ctx context.Context, r *remote, path, flow string) error {
	short, stop := context.WithTimeout(context.WithoutCancel(ctx), cancelWithin)
	defer stop()
	err := r.change(short, http.MethodPost, path+"/cancel", nil, nil)
	var refused *problem
	switch {
	case err == nil:
		return &exitError{exitInterrupted, fmt.Errorf("interrupted: collection %s is cancelled", flow)}
	case errors.As(err, &refused) && refused.Status == http.StatusConflict:
		return &exitError{exitInterrupted, fmt.Errorf("interrupted: collection %s had ended", flow)}
	}
	return &exitError{exitInterrupted, fmt.Errorf("interrupted, and collection %s may still run: %w", flow, err)}
}

func flowPath(client, flow string) string {
	return "/clients" + escaped(client) + "/flows" + escaped(flow)
}

// watch follows a collection by its event stream, and by asking each second when
// there is none, until it has ended.
func (r *remote) watch(ctx context.Context, path string, show func(*flowView)) (*flowView, error) {
	lastGood := time.Now()
	for {
		record, open, err := r.events(ctx, path, show)
		if open {
			lastGood = time.Now() // it was there until now, however quiet
		}
		if err == nil && record != nil && record.final() {
			return record, nil
		}
		// The stream broke off, or there is none: ask.
		record = &flowView{}
		err = r.get(ctx, path, nil, record)
		var refused *problem
		switch {
		case ctx.Err() != nil:
			return nil, context.Cause(ctx)
		case err == nil && record.final():
			return record, nil
		case err == nil:
			lastGood = time.Now()
			show(record)
		case errors.As(err, &refused) && refused.Status < 500, time.Since(lastGood) > giveUpAfter:
			return nil, err
		}
		if !pause(ctx, pollEvery) {
			return nil, context.Cause(ctx)
		}
	}
}

// events reads the event stream of a collection and returns its last record, nil
// if none came, and whether there was a stream at all.
func (r *remote) events(ctx context.Context, path string, show func(*flowView)) (last *flowView, open bool, _ error) {
	_, response, err := r.once(ctx, call{method: http.MethodGet, path: path + "/events", header: http.Header{"Accept": {"text/event-stream"}}}, nil)
	if err != nil {
		return nil, false, err
	}
	defer response.Body.Close()
	if kind := response.Header.Get("Content-Type"); !strings.HasPrefix(kind, "text/event-stream") {
		return nil, false, fmt.Errorf("answer is %q, not an event stream", kind)
	}
	lines := bufio.NewScanner(response.Body)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		data, ok := strings.CutPrefix(lines.Text(), "data: ")
		if !ok {
			continue
		}
		record := &flowView{}
		if err := json.Unmarshal([]byte(data), record); err != nil {
			return last, true, fmt.Errorf("event: %w", err)
		}
		last = record
		show(record)
	}
	return last, true, lines.Err()
}

// printResults prints the rows of some results of a collection, exactly as they
// are stored; limit bounds the rows of each, 0 takes all. The first error says that
// some are missing, the second that printing ended.
func (r *remote) printResults(ctx context.Context, p *printer, path string, record *flowView, results []flowResult, limit int64) (missing, err error) {
	lost := r.losses()
	for _, result := range results {
		if len(results) > 1 {
			if err := p.section(result.Name); err != nil {
				return nil, err
			}
		}
		query := url.Values{"name": {result.Name}, "limit": {"1000"}}
		lostBefore, came := lost.rows, int64(0)
		err := r.each(ctx, path+"/results", query, limit, func(page *page) error {
			lost.see(result.Name, page)
			came += int64(len(page.Items))
			for _, row := range page.Items {
				if len(results) > 1 {
					row = p.tagged(result.Name, row)
				}
				if err := p.row(row); err != nil {
					return err
				}
			}
			return p.flush()
		})
		if err != nil {
			return nil, errors.Join(err, p.flush())
		}
		if limit == 0 && record.final() {
			lost.short(result.Name, result.Rows-came-(lost.rows-lostBefore))
		}
	}
	return lost.err(), p.close()
}

// progress shows one line on a terminal that is written anew.
type progress struct {
	w     io.Writer // nil: not shown
	width int       // of the terminal; 0: not known
	began time.Time
	drawn bool
}

// progressEvery is how often a line is drawn that changes all the time.
const progressEvery = 200 * time.Millisecond

func (g *globals) progress(c *cobra.Command) *progress {
	p := &progress{began: time.Now()}
	if file, ok := c.ErrOrStderr().(*os.File); ok && !g.quiet && term.IsTerminal(int(file.Fd())) {
		p.w = file
		if width, _, err := term.GetSize(int(file.Fd())); err == nil {
			p.width = width
		}
	}
	return p
}

func (p *progress) flow(f *flowView) {
	if p.w == nil {
		return
	}
	rows, bytes, expected, running := f.Rows, f.Bytes, int64(0), ""
	if f.Progress != nil {
		rows, bytes, expected = max(rows, f.Progress.Totals.Rows), max(bytes, f.Progress.Totals.UploadBytes), f.Progress.Totals.ExpectedUploadBytes
		running = fmt.Sprintf(", %d of %d queries run", f.Progress.Running, f.Progress.Queries)
	}
	line := fmt.Sprintf("%s  %s: %d rows%s", time.Since(p.began).Round(time.Second), f.State, rows, running)
	if bytes > 0 || expected > 0 {
		line += ", uploaded " + byteCount(bytes)
		if expected > bytes {
			line += " of " + byteCount(expected)
		}
	}
	p.line("%s", line)
}

// line shows a line in the place of the one before.
func (p *progress) line(format string, args ...any) {
	if p.w == nil {
		return
	}
	text := harmless(fmt.Sprintf(format, args...))
	if p.width > 0 {
		text = cut(text, p.width)
	}
	fmt.Fprint(p.w, "\r\x1b[2K"+text)
	p.drawn = true
}

// done takes the line away.
func (p *progress) done() {
	if p.drawn {
		fmt.Fprint(p.w, "\r\x1b[2K")
		p.drawn = false
	}
}

// byteCount prints bytes for people.
func byteCount(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, unit := float64(n)/1024, 0
	for value >= 1024 && unit < 4 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %ciB", value, "KMGTP"[unit])
}
