package endpoint

import (
	"context"
	"errors"

	"raptorpack/vql"
)

// maxTails bounds the files that one query watches.
const maxTails = 1000

type watchSyslogArgs struct {
	Filename   []*vql.Path `vql:"filename" doc:"The files to watch."`
	Accessor   string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	BufferSize int64       `vql:"buffer_size" doc:"Longer lines are cut into pieces of so many bytes (64 KiB)."`
	Query      vql.Query   `vql:"query" doc:"Is run again and again: its column OSPath names further files."`
}

var errNothingToWatch = errors.New("one of filename and query is needed")

var watchSyslogPlugin = vql.NewPlugin(vql.Spec{
	Name: "watch_syslog", Permission: "FILESYSTEM_READ",
	Doc:     "Gives new lines of text files as they are written. Files that were rotated, cut short or made later are read from their start.",
	Columns: []string{"Line"},
}, func(ctx context.Context, scope *vql.Scope, args *watchSyslogArgs, emit vql.Emit) error {
	if len(args.Filename) == 0 && !args.Query.Given() {
		return errNothingToWatch
	}
	all, err := tailsOf(scope)
	if err != nil {
		return err
	}
	w := &syslogWatch{args: args, all: all, readers: map[string]*tailReader{}}
	defer w.close()
	for _, path := range args.Filename {
		w.add(scope, path, true)
	}
	for first := true; ; first = false {
		if err := w.find(ctx, scope, first); err != nil {
			return err
		}
		if err := w.poll(ctx, scope, emit); err != nil {
			return err
		}
		if err := pause(ctx, watchPeriod); err != nil {
			return err
		}
	}
})

// syslogWatch is one call of watch_syslog.
type syslogWatch struct {
	args    *watchSyslogArgs
	all     *tails
	order   []*tailReader
	readers map[string]*tailReader // by path
}

func (w *syslogWatch) close() {
	for _, r := range w.order {
		r.close()
	}
}

func (w *syslogWatch) add(scope *vql.Scope, path *vql.Path, atEnd bool) {
	key := path.String()
	if w.readers[key] != nil {
		return
	}
	if len(w.order) == maxTails {
		scope.Log(vql.LevelWarn, "watch_syslog: %v", errTooManyTails)
		return
	}
	r := w.all.follow(w.args.Accessor, path, atEnd, blockSize(w.args.BufferSize))
	w.readers[key] = r
	w.order = append(w.order, r)
}

// find runs the query for files. Those of the first run are read from their end,
// others are new.
func (w *syslogWatch) find(ctx context.Context, scope *vql.Scope, first bool) error {
	return w.args.Query.Run(ctx, scope, func(row vql.Value) error {
		path, err := w.pathOf(ctx, scope, row)
		if err != nil {
			scope.Log(vql.LevelWarn, "watch_syslog: %v", err)
			return nil
		}
		w.add(scope, path, first)
		return nil
	})
}

var errNoPathColumn = errors.New("a row of query has no column OSPath")

func (w *syslogWatch) pathOf(ctx context.Context, scope *vql.Scope, row vql.Value) (*vql.Path, error) {
	for _, name := range []string{"OSPath", "FullPath", "Filename"} {
		v, ok := scope.Member(row, name)
		if !ok || vql.IsNull(v) {
			continue
		}
		path, err := scope.ToPath(ctx, v, w.args.Accessor)
		if path != nil || err != nil {
			return path, err
		}
	}
	return nil, errNoPathColumn
}

// poll hands on all that is new.
func (w *syslogWatch) poll(ctx context.Context, scope *vql.Scope, emit vql.Emit) error {
	for _, r := range w.order {
		for more := true; more; {
			var err error
			more, err = r.refresh(ctx, scope)
			for _, line := range r.take() {
				if err := emit(vql.NewDict().Set("Line", line)); err != nil {
					return err
				}
			}
			if done, err := fileDone(ctx, scope, "watch_syslog", r.path, err); done {
				return err
			}
			more = more && err == nil
		}
	}
	return nil
}
