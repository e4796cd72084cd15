package endpoint

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"

	"raptorpack/vql"
)

type parseCSVArgs struct {
	Filename    []*vql.Path `vql:"filename,required" doc:"The files to read."`
	Accessor    string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	AutoHeaders bool        `vql:"auto_headers" doc:"There is no header row: make names up."`
	Separator   string      `vql:"separator" doc:"The character between cells (,)."`
	Comment     string      `vql:"comment" doc:"Lines that start with this character are passed over."`
	Columns     []string    `vql:"columns" doc:"The names of the columns; there is no header row then."`
}

var parseCSVPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_csv", Permission: "FILESYSTEM_READ",
	Doc: "Reads tables in CSV. Cells that read as numbers become numbers, broken lines are skipped.",
}, func(ctx context.Context, scope *vql.Scope, args *parseCSVArgs, emit vql.Emit) error {
	if len(args.Separator) > 1 || len(args.Comment) > 1 {
		return errors.New("separator and comment are single characters")
	}
	emit = stopping(emit)
	return eachFile(ctx, scope, "parse_csv", args.Accessor, args.Filename, func(path *vql.Path, file vql.ReadSeekCloser) error {
		r := newCSVReader(skipBOM(&charged{ctx: ctx, scope: scope, from: file}), firstByte(args.Separator), firstByte(args.Comment))
		err := csvRows(ctx, scope, r, args, emit)
		if r.broken > 0 {
			scope.Log(vql.LevelWarn, "parse_csv: %s: skipped %d broken lines", shortName(path.String()), r.broken)
		}
		return err
	})
})

func firstByte(s string) byte {
	if s == "" {
		return 0
	}
	return s[0]
}

func csvRows(ctx context.Context, scope *vql.Scope, r *csvReader, args *parseCSVArgs, emit vql.Emit) error {
	columns := args.Columns
	// Extra cells have a place only when the caller does not rely on a header row.
	extra := len(columns) > 0 || args.AutoHeaders
	needHeader := !extra
	for n := 1; ; n++ {
		cells, err := r.read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if n%1000 == 0 {
			if err := scope.Charge(ctx); err != nil {
				return emitError{err}
			}
		}
		if needHeader {
			columns, needHeader = headerNames(cells), false
			continue
		}
		if err := emit(csvRow(columns, cells, extra)); err != nil {
			return err
		}
	}
}

func csvRow(columns, cells []string, extra bool) *vql.Dict {
	row := vql.NewDict()
	for i, name := range columns {
		if i < len(cells) {
			row.Set(name, csvValue(cells[i]))
		} else {
			row.Set(name, "")
		}
	}
	if extra {
		for i := len(columns); i < len(cells); i++ {
			row.Set(columnName(i), csvValue(cells[i]))
		}
	}
	return row
}

// headerNames makes a header row usable: no empty names, none twice.
func headerNames(cells []string) []string {
	seen := map[string]bool{}
	out := make([]string, len(cells))
	for i, name := range cells {
		if name = strings.TrimSpace(name); name == "" {
			name = columnName(i)
		}
		unique := name
		for n := 2; seen[unique]; n++ {
			unique = name + "_" + strconv.Itoa(n)
		}
		seen[unique] = true
		out[i] = unique
	}
	return out
}

// skipBOM passes over a UTF-8 byte order mark.
func skipBOM(r io.Reader) io.Reader {
	var head [3]byte
	n, err := io.ReadFull(r, head[:])
	if n == 3 && string(head[:]) == "\ufeff" {
		return r
	}
	start := strings.NewReader(string(head[:n]))
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return io.MultiReader(start, failing{err})
	}
	return io.MultiReader(start, r)
}

// failing is a reader that has nothing but an error.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
