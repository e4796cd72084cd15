package endpoint

import (
	"context"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"

	"raptorpack/vql"
	"raptorpack/vql/yara"
)

type yaraArgs struct {
	Rules        string      `vql:"rules" doc:"The rules: text, what yarac made of it, or the short form 'wide nocase:word'."`
	Files        []*vql.Path `vql:"files,required" doc:"The files to scan."`
	Accessor     string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	Context      int64       `vql:"context" doc:"Bytes to give on either side of a hit (0)."`
	Start        int64       `vql:"start" doc:"Where to begin in each file, in bytes (0)."`
	End          int64       `vql:"end" doc:"Where to end (the end of the file)."`
	Number       int64       `vql:"number" doc:"Rows for each file at most (1)."`
	BlockSize    int64       `vql:"blocksize" doc:"Scan in blocks of so many bytes, 64 KiB to 32 MiB (files of up to 32 MiB at once, larger ones in blocks of that size)."`
	Key          string      `vql:"key" doc:"A name under which later calls find these rules without giving them."`
	Namespace    string      `vql:"namespace" doc:"The namespace of the rules (default)."`
	Vars         *vql.Dict   `vql:"vars" doc:"External variables of the rules: numbers, truth values and texts by name."`
	ForceBuffers bool        `vql:"force_buffers" doc:"Scan in blocks of 1 MiB unless blocksize says otherwise."`
}

var yaraColumns = []string{"Rule", "Meta", "Tags", "String", "File", "FileName"}

var yaraPlugin = vql.NewPlugin(vql.Spec{
	Name: "yara", Permission: "FILESYSTEM_READ",
	Doc:     "Scans files with YARA rules: a row for each place where a string of a matching rule stands. String is NULL for a rule that matched without one.",
	Columns: yaraColumns,
}, func(ctx context.Context, scope *vql.Scope, args *yaraArgs, emit vql.Emit) error {
	rules, err := yaraRulesOf(ctx, scope, "yara", args.Rules, args.Key, args.Namespace, args.Vars)
	if err != nil {
		return err
	}
	accessor, err := scope.Accessor(args.Accessor)
	if err != nil {
		return err
	}
	emit = stopping(emit)
	return eachFile(ctx, scope, "yara", args.Accessor, args.Files, func(path *vql.Path, file vql.ReadSeekCloser) error {
		target, done, err := args.target(ctx, scope, file)
		if err != nil {
			return err
		}
		defer done()
		hits := yaraHits{name: "yara", context: args.Context, number: args.Number, path: path, accessor: accessor}
		return hits.scan(ctx, scope, rules, target, emit)
	})
})

type procYaraArgs struct {
	Rules     string    `vql:"rules,required" doc:"The rules: text, what yarac made of it, or the short form 'wide nocase:word'."`
	Pid       int64     `vql:"pid,required" doc:"The process."`
	Context   int64     `vql:"context" doc:"Bytes to give on either side of a hit (0)."`
	Key       string    `vql:"key" doc:"A name under which later calls find these rules without giving them."`
	Namespace string    `vql:"namespace" doc:"The namespace of the rules (default)."`
	Vars      *vql.Dict `vql:"vars" doc:"External variables of the rules: numbers, truth values and texts by name."`
	Number    int64     `vql:"number" doc:"Rows at most (1)."`
}

var procYaraPlugin = vql.NewPlugin(vql.Spec{
	Name: "proc_yara", Permission: "MACHINE_STATE", Platforms: []string{"linux"},
	Doc:     "Scans the memory of a process with YARA rules, as yara scans files. Offsets are addresses, FileName is the process's name for the accessor process.",
	Columns: yaraColumns,
}, func(ctx context.Context, scope *vql.Scope, args *procYaraArgs, emit vql.Emit) error {
	rules, err := yaraRulesOf(ctx, scope, "proc_yara", args.Rules, args.Key, args.Namespace, args.Vars)
	if err != nil {
		return err
	}
	accessor, err := scope.Accessor("process")
	if err != nil {
		return err
	}
	path, err := accessor.ParsePath("/" + strconv.FormatInt(args.Pid, 10))
	if err != nil {
		return err
	}
	emit = stopping(emit)
	return eachFile(ctx, scope, "proc_yara", "process", []*vql.Path{path}, func(path *vql.Path, file vql.ReadSeekCloser) error {
		ranger, ok := file.(vql.Ranger)
		if !ok {
			return errors.New("the accessor does not tell what is mapped")
		}
		target := yara.Target{
			Reader: &chargedAt{ctx: ctx, scope: scope, file: file}, Size: -1,
			Blocks: yaraBlocks(ranger.Ranges(), 0, -1, yaraBlock),
		}
		hits := yaraHits{name: "proc_yara", context: args.Context, number: args.Number, path: path, accessor: accessor}
		return hits.scan(ctx, scope, rules, target, emit)
	})
})

// yaraHits makes rows of the matches in one file.
type yaraHits struct {
	name            string
	context, number int64
	path            *vql.Path
	accessor        vql.Accessor
}

// scan emits what a scan has found when it has ended: the rows may be what another
// scan is for, and only few run at once.
func (h *yaraHits) scan(ctx context.Context, scope *vql.Scope, rules *yara.Rules, target yara.Target, emit vql.Emit) error {
	found, err := rules.Scan(ctx, target, yara.ScanOptions{
		Context: int(min(max(h.context, 0), 1<<20)), Hits: int(min(max(h.number, 1), 1<<30)),
		Note: func(message string) { scope.Log(vql.LevelDefault, "%s: %s: %s", h.name, h.path, message) },
	})
	for _, m := range found {
		for _, row := range h.rows(ctx, scope, m) {
			if err := emit(row); err != nil {
				return err
			}
		}
	}
	return err
}

func (h *yaraHits) rows(ctx context.Context, scope *vql.Scope, m *yara.Match) []*vql.Dict {
	file := h.info(ctx, scope)
	if len(m.Hits) == 0 {
		return []*vql.Dict{h.row(m, vql.NULL, file)}
	}
	var out []*vql.Dict
	for _, hit := range m.Hits {
		where := vql.NewDict()
		where.Set("Name", hit.Name)
		where.Set("Offset", hit.Offset)
		where.Set("HexData", strings.Split(strings.TrimSuffix(hex.Dump(hit.Data), "\n"), "\n"))
		where.Set("Data", string(hit.Data))
		out = append(out, h.row(m, where, file))
	}
	return out
}

func (h *yaraHits) row(m *yara.Match, where, file vql.Value) *vql.Dict {
	meta := vql.NewDict()
	for _, line := range m.Meta {
		meta.Set(line.Name, line.Value)
	}
	tags := m.Tags
	if tags == nil {
		tags = []string{}
	}
	row := vql.NewDict()
	row.Set("Rule", m.Rule)
	row.Set("Meta", meta)
	row.Set("Tags", tags)
	row.Set("String", where)
	row.Set("File", file)
	row.Set("FileName", h.path)
	return row
}

// info gives the facts of the file; NULL when it is gone or its accessor has none.
func (h *yaraHits) info(ctx context.Context, scope *vql.Scope) vql.Value {
	path := h.path
	if path.Syntax() == vql.PathOpaque && !path.HasDelegate() {
		parsed, err := h.accessor.ParsePath(path.Path())
		if err != nil {
			return vql.NULL
		}
		path = parsed
	}
	info, err := h.accessor.Lstat(ctx, scope, path)
	if err != nil {
		return vql.NULL
	}
	return scope.Row(ctx, info)
}
