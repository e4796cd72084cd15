package endpoint

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"raptorpack/vql"
)

type journaldArgs struct {
	Filename  []*vql.Path `vql:"filename,required" doc:"The journal files."`
	Accessor  string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	Raw       bool        `vql:"raw" doc:"Give all fields as they are, in one dict."`
	StartTime time.Time   `vql:"start_time" doc:"Only entries since then."`
	EndTime   time.Time   `vql:"end_time" doc:"Only entries until then."`
}

var parseJournaldPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_journald", Permission: "FILESYSTEM_READ",
	Doc:     "Gives the entries of systemd's journal files.",
	Columns: []string{"System", "EventData"},
}, func(ctx context.Context, scope *vql.Scope, args *journaldArgs, emit vql.Emit) error {
	emit = stopping(emit)
	wanted := func(e *journalEntry) bool {
		return (args.StartTime.IsZero() || !e.time.Before(args.StartTime)) && (args.EndTime.IsZero() || !e.time.After(args.EndTime))
	}
	for _, path := range args.Filename {
		err := parseJournal(ctx, scope, args.Accessor, path, func(j *journal, head journalHead) error {
			return emitEntries(ctx, scope, path, j, head, wanted, args.Raw, emit)
		})
		if done, err := fileDone(ctx, scope, "parse_journald", path, err); done {
			return err
		}
	}
	return nil
})

// fileDone tells what to do when a file of several has ended with an error: stop
// with the error, or log it and go on.
func fileDone(ctx context.Context, scope *vql.Scope, name string, path *vql.Path, err error) (done bool, _ error) {
	var stop emitError
	switch {
	case errors.As(err, &stop):
		return true, stop.err
	case ctx.Err() != nil:
		return true, ctx.Err()
	case err != nil:
		scope.Log(vql.LevelDefault, "%s: %s: %v", name, shown(path), err)
	}
	return false, nil
}

func parseJournal(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path, body func(*journal, journalHead) error) error {
	file, err := openThrough(ctx, scope, accessor, path)
	if err != nil {
		return err
	}
	at, _, closer, err := randomAccess(ctx, scope, file)
	if err != nil {
		return err
	}
	defer closer.Close()
	j, err := openJournal(at)
	if err != nil {
		return err
	}
	head, err := j.head()
	if err != nil {
		return err
	}
	return body(j, head)
}

// emitEntries hands on the entries from where the journal stands.
func emitEntries(ctx context.Context, scope *vql.Scope, path *vql.Path, j *journal, head journalHead, wanted func(*journalEntry) bool, raw bool, emit vql.Emit) error {
	for {
		e, err := j.next(ctx, scope.Charge, head, wanted)
		if err != nil || e == nil {
			return err
		}
		for _, trouble := range e.troubles {
			scope.Log(vql.LevelWarn, "%s: entry %d: %v", shown(path), e.seq, trouble)
		}
		row := entryRow(e)
		if raw {
			row = rawRow(e)
		}
		if err := emit(row); err != nil {
			return err
		}
	}
}

// rawRow gives all fields as they are.
func rawRow(e *journalEntry) *vql.Dict {
	row := vql.NewDict()
	row.Set("Timestamp", e.time)
	for _, field := range e.fields {
		name, value, _ := strings.Cut(field, "=")
		addValue(row, name, value)
	}
	return row
}

// entryRow tells the fields that the system vouches for, whose names begin with _,
// from those that the program wrote.
func entryRow(e *journalEntry) *vql.Dict {
	system, data := vql.NewDict(), vql.NewDict()
	system.Set("Seq", e.seq)
	system.Set("Timestamp", e.time)
	for _, field := range e.fields {
		name, value, _ := strings.Cut(field, "=")
		if strings.HasPrefix(name, "_") {
			addValue(system, name, fieldValue(name, value))
		} else {
			addValue(data, name, fieldValue(name, value))
		}
	}
	row := vql.NewDict()
	row.Set("System", system)
	row.Set("EventData", data)
	return row
}

// addValue sets a key; a field that an entry has several times is a list.
func addValue(d *vql.Dict, name string, v vql.Value) {
	before, ok := d.Get(name)
	if !ok {
		d.Set(name, v)
		return
	}
	list, ok := before.([]vql.Value)
	if !ok {
		list = []vql.Value{before}
	}
	d.Update(name, append(list, v))
}

// journalNumbers are the fields that hold numbers; systemd.journal-fields(7).
var journalNumbers = map[string]bool{
	"PRIORITY": true, "ERRNO": true, "CODE_LINE": true, "SYSLOG_FACILITY": true, "SYSLOG_PID": true, "TID": true,
	"_PID": true, "_PPID": true, "_UID": true, "_EUID": true, "_FSUID": true, "_GID": true, "_EGID": true,
	"_AUDIT_LOGINUID": true, "_AUDIT_SESSION": true, "_AUDIT_TYPE": true, "_AUDIT_ID": true,
}

func fieldValue(name, value string) vql.Value {
	if journalNumbers[name] {
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			return n
		}
	}
	if name == "_SOURCE_REALTIME_TIMESTAMP" {
		if n, err := strconv.ParseInt(value, 10, 64); err == nil {
			return time.UnixMicro(n).UTC()
		}
	}
	return value
}
