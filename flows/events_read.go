package flows

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/tidwall/gjson"

	"raptorpack/filestore"
	"raptorpack/ids"
)

const (
	defaultEventRows = 1000
	maxEventBytes    = 8 << 20 // of rows in a page

	// maxEventScan bounds the rows that one page looks at: of a narrow span of time
	// it may find few among many.
	maxEventScan = 200_000
)

// EventDays are the days, UTC, on which an event artifact has rows.
type EventDays struct {
	Name string   // result name: Artifact or Artifact/Source
	Days []string // as 2026-11-22, oldest first
}

// EventList lists what event artifacts have rows, by name. With a client only days
// are listed on which it sent some: that looks at the index of every day between
// the bounds, both included; a zero one is none.
func (r *Room) EventList(ctx context.Context, org ids.Org, client ids.Client, from, to time.Time) ([]EventDays, error) {
	all, err := r.eventFolders(ctx, org)
	if err != nil {
		return nil, fmt.Errorf("list events: %w", err)
	}
	var out []EventDays
	for _, e := range all {
		e.Days = between(e.Days, from, to)
		if !client.IsZero() {
			if e.Days, err = r.daysOf(ctx, org, client, e); err != nil {
				return nil, fmt.Errorf("list events of %s: %w", client, err)
			}
		}
		if len(e.Days) > 0 {
			out = append(out, e)
		}
	}
	slices.SortFunc(out, func(a, b EventDays) int { return compareText(a.Name, b.Name) })
	return out, nil
}

func (r *Room) daysOf(ctx context.Context, org ids.Org, client ids.Client, e EventDays) ([]string, error) {
	var days []string
	deleted := r.Erased.of(org, e.Name)
	for _, day := range e.Days {
		at, err := time.Parse(time.DateOnly, day)
		if err != nil {
			return nil, err
		}
		if gone(deleted, client, day) {
			continue
		}
		set := filestore.Events(org, e.Name, at)
		page, err := r.o.Reader.ReadRows(ctx, set, filestore.RowsQuery{RowsFilter: filestore.RowsFilter{Client: client}, Limit: 1})
		if err != nil {
			return nil, err
		}
		if page.Total > 0 {
			days = append(days, day)
		}
	}
	return days, nil
}

// between picks the days from one time to another; zero times bound nothing.
func between(days []string, from, to time.Time) []string {
	return slices.DeleteFunc(days, func(day string) bool {
		return !from.IsZero() && day < from.UTC().Format(time.DateOnly) || !to.IsZero() && day > to.UTC().Format(time.DateOnly)
	})
}

// eventFolders lists artifacts and their days as the folders lie there:
// events/<Artifact>/[<Source>/]<day>.
func (r *Room) eventFolders(ctx context.Context, org ids.Org) ([]EventDays, error) {
	known := r.eventPaths(org)
	top := path.Dir(path.Dir(string(filestore.Events(org, "x", time.Unix(0, 0)))))
	var out []EventDays
	add := func(folder string, days []string) {
		name, ok := known[path.Join(top, folder)]
		if !ok {
			var err error
			if name, err = unescaped(folder); err != nil {
				return // a folder that none of ours makes
			}
		}
		if len(days) > 0 {
			out = append(out, EventDays{name, days})
		}
	}
	artifacts, err := r.folders(ctx, top)
	if err != nil {
		return nil, err
	}
	for _, artifact := range artifacts {
		inner, err := r.folders(ctx, path.Join(top, artifact))
		if err != nil {
			return nil, err
		}
		days, sources := parted(inner)
		add(artifact, days)
		for _, source := range sources {
			inner, err := r.folders(ctx, path.Join(top, artifact, source))
			if err != nil {
				return nil, err
			}
			days, _ := parted(inner)
			add(path.Join(artifact, source), days)
		}
	}
	return out, nil
}

// eventPaths maps the folders of the names that the tables know to these: long names
// do not stand in their folder's.
func (r *Room) eventPaths(org ids.Org) map[string]string {
	out := map[string]string{}
	add := func(name string) {
		out[path.Dir(string(filestore.Events(org, name, time.Unix(0, 0))))] = name
	}
	if o := r.Events.of(org); o != nil {
		for _, n := range o.names {
			add(n.Result)
		}
	}
	for query := range r.Server.Places(org) {
		add(query)
	}
	return out
}

// EventTabled reports whether the folder of an event artifact, the parent of its days,
// belongs to one that an event table names or named not long ago: rows of it may come.
func (r *Room) EventTabled(org ids.Org, folder string) bool {
	_, known := r.eventPaths(org)[folder]
	return known
}

func unescaped(folder string) (string, error) {
	artifact, source, cut := strings.Cut(folder, "/")
	name, err := filestore.UnescapeName(artifact)
	if err != nil || !cut {
		return name, err
	}
	part, err := filestore.UnescapeName(source)
	return name + "/" + part, err
}

func (r *Room) folders(ctx context.Context, dir string) ([]string, error) {
	names, err := r.o.Store.ReadDir(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	slices.Sort(names)
	return names, err
}

// parted tells days from sources.
func parted(names []string) (days, sources []string) {
	for _, name := range names {
		if _, err := time.Parse(time.DateOnly, name); err == nil {
			days = append(days, name)
		} else {
			sources = append(sources, name)
		}
	}
	return days, sources
}

// EventRowsQuery asks for a page of the rows of one event artifact.
type EventRowsQuery struct {
	Org    ids.Org
	Name   string     // result name
	Client ids.Client // zero: of all
	Log    bool       // the log of its queries instead of its rows

	// From and To bound the time at which the server took the rows, in whole seconds;
	// To is not included. Zero: none.
	From, To time.Time

	Limit  int    // 0: 1000
	Cursor string // EventPage.Next of a page with the same question
}

// EventPage is a page of event rows: day by day, in a day as filestore.RowsPage has
// them. A page with Next may be short, or empty: rows of other times were passed over.
type EventPage struct {
	Rows   []filestore.Row
	Damage []filestore.Damage
	Holes  []filestore.Hole
	Next   string
}

// EventRows returns a page, merged over all nodes. An artifact without rows is empty.
func (r *Room) EventRows(ctx context.Context, q EventRowsQuery) (*EventPage, error) {
	if err := checkResultName(q.Name); err != nil {
		return nil, err
	}
	orDefault(&q.Limit, defaultEventRows)
	at, inner, _ := strings.Cut(q.Cursor, ".")
	if _, err := time.Parse(time.DateOnly, at); q.Cursor != "" && err != nil {
		return nil, fmt.Errorf("read events: %w", filestore.ErrBadCursor)
	}
	names, err := r.folders(ctx, path.Dir(string(q.set(time.Unix(0, 0)))))
	if err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	days, _ := parted(names)
	e := &eventReading{room: r, q: &q, page: &EventPage{}, deleted: r.Erased.of(q.Org, q.Name)}
	for _, day := range between(days, q.From, q.To) {
		if day < at {
			continue
		}
		if day != at {
			inner = ""
		}
		if full, err := e.day(ctx, day, inner); err != nil || full {
			return e.page, err
		}
	}
	return e.page, nil
}

func (q *EventRowsQuery) set(day time.Time) filestore.Set {
	if q.Log {
		return filestore.EventLogs(q.Org, q.Name, day)
	}
	return filestore.Events(q.Org, q.Name, day)
}

// eventReading gathers a page.
type eventReading struct {
	room    *Room
	q       *EventRowsQuery
	page    *EventPage
	bytes   int
	scanned int
	deleted []EventDeletion
}

// day reads a day from a cursor on and reports whether the page is full.
func (e *eventReading) day(ctx context.Context, day, cursor string) (full bool, err error) {
	at, err := time.Parse(time.DateOnly, day)
	if err != nil {
		return false, err
	}
	for {
		page, err := e.room.o.Reader.ReadRows(ctx, e.q.set(at), filestore.RowsQuery{
			RowsFilter: filestore.RowsFilter{Client: e.q.Client}, Limit: e.q.Limit - len(e.page.Rows), Cursor: cursor,
		})
		if err != nil {
			return false, fmt.Errorf("read events of %s: %w", day, err)
		}
		if cursor == "" {
			e.page.Damage = append(e.page.Damage, page.Damage...)
		}
		e.page.Holes = append(e.page.Holes, page.Holes...)
		e.take(page.Rows, day)
		full := len(e.page.Rows) >= e.q.Limit || e.bytes >= maxEventBytes || e.scanned >= maxEventScan
		switch cursor = page.Next; {
		case full && cursor != "":
			e.page.Next = day + "." + cursor
			return true, nil
		case full:
			e.page.Next = dayAfter(at)
			return true, nil
		case cursor == "":
			return false, nil
		}
	}
}

// dayAfter is the cursor of all days after one.
func dayAfter(day time.Time) string { return day.AddDate(0, 0, 1).Format(time.DateOnly) }

// take keeps the rows of the wanted time that were not deleted.
func (e *eventReading) take(rows []filestore.Row, day string) {
	e.scanned += len(rows)
	for _, row := range rows {
		if gone(e.deleted, row.Client, day) {
			continue
		}
		if !e.q.From.IsZero() || !e.q.To.IsZero() {
			if at := EventTime(row.Line); !e.q.From.IsZero() && at < e.q.From.Unix() || !e.q.To.IsZero() && at >= e.q.To.Unix() {
				continue
			}
		}
		e.bytes += len(row.Line)
		e.page.Rows = append(e.page.Rows, row)
	}
}

// EventTime is when the server took an event row, in seconds since 1970; it stands
// among the first keys of the line.
func EventTime(line []byte) int64 { return gjson.GetBytes(line, "_ts").Int() }
