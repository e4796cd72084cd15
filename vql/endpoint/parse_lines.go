package endpoint

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"regexp"
	"strconv"

	"raptorpack/vql"
)

type parseLinesArgs struct {
	Filename   []*vql.Path `vql:"filename,required" doc:"The files to read."`
	Accessor   string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	BufferSize int64       `vql:"buffer_size" doc:"Longer lines are cut into pieces of so many bytes (64 KiB)."`
}

var parseLinesPlugin = vql.NewPlugin(vql.Spec{
	Name: "parse_lines", Permission: "FILESYSTEM_READ",
	Doc: "Gives a row for each line of text files.", Columns: []string{"Line"},
}, func(ctx context.Context, scope *vql.Scope, args *parseLinesArgs, emit vql.Emit) error {
	emit = stopping(emit)
	return eachFile(ctx, scope, "parse_lines", args.Accessor, args.Filename, func(_ *vql.Path, file vql.ReadSeekCloser) error {
		return eachRecord(ctx, scope, file, nil, recordLimit(args.BufferSize), func(line string) error {
			row := vql.NewDict()
			row.Set("Line", line)
			return emit(row)
		})
	})
})

// recordLimit is how long a line or record may be, in bytes.
func recordLimit(asked int64) int {
	if asked <= 0 {
		return defaultBlock
	}
	return int(min(asked, maxBlock))
}

// eachRecord hands on the parts of a stream between the matches of an expression;
// nil stands for line ends. A part longer than limit comes in pieces.
func eachRecord(ctx context.Context, scope *vql.Scope, r io.Reader, separator *regexp.Regexp, limit int, each func(string) error) error {
	find := lineEnd
	if separator != nil {
		find = separator.FindIndex
	}
	records := bufio.NewScanner(r)
	records.Buffer(make([]byte, 0, min(limit+1, 64<<10)), limit+1)
	records.Split(func(data []byte, atEOF bool) (int, []byte, error) {
		if len(data) == 0 {
			return 0, nil, nil
		}
		loc := find(data)
		switch {
		case loc != nil && loc[1] > loc[0] && (atEOF || loc[1] < len(data) || separator == nil):
			return loc[1], nonNil(data[:loc[0]]), nil
		case atEOF:
			return len(data), nonNil(data), nil
		case len(data) >= limit:
			return limit, data[:limit], nil
		}
		return 0, nil, nil
	})
	bytesRead := 0
	for records.Scan() {
		if bytesRead += len(records.Bytes()) + 1; bytesRead >= bufferSize {
			bytesRead = 0
			if err := scope.Charge(ctx); err != nil {
				return emitError{err}
			}
		}
		if err := each(records.Text()); err != nil {
			return err
		}
	}
	return records.Err()
}

// nonNil keeps empty records, which a scanner would pass over when they are nil.
func nonNil(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func lineEnd(data []byte) []int {
	i := bytes.IndexByte(data, '\n')
	if i < 0 {
		return nil
	}
	if i > 0 && data[i-1] == '\r' {
		return []int{i - 1, i + 1}
	}
	return []int{i, i + 1}
}

type splitRecordsArgs struct {
	Filenames         []*vql.Path `vql:"filenames,required" doc:"The files to read."`
	Accessor          string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	Regex             string      `vql:"regex" doc:"What stands between fields (white space)."`
	Columns           []string    `vql:"columns" doc:"The names of the columns."`
	FirstRowIsHeaders bool        `vql:"first_row_is_headers" doc:"Take the names from the first record."`
	Count             int64       `vql:"count" doc:"At most so many fields; the last one keeps the rest."`
	RecordRegex       string      `vql:"record_regex" doc:"What stands between records (a line end)."`
	BufferSize        int64       `vql:"buffer_size" doc:"Longer records are cut into pieces of so many bytes (64 KiB)."`
}

var splitRecordsPlugin = vql.NewPlugin(vql.Spec{
	Name: "split_records", Permission: "FILESYSTEM_READ",
	Doc: "Splits text files into records and fields; missing fields are NULL.",
}, func(ctx context.Context, scope *vql.Scope, args *splitRecordsArgs, emit vql.Emit) error {
	pattern := args.Regex
	if pattern == "" {
		pattern = `\s+`
	}
	fields, err := compileRegex(scope, pattern)
	if err != nil {
		return err
	}
	var records *regexp.Regexp
	if args.RecordRegex != "" && args.RecordRegex != "\n" {
		if records, err = compileRegex(scope, args.RecordRegex); err != nil {
			return err
		}
	}
	count := -1
	if args.Count > 0 {
		count = int(min(args.Count, 1<<20))
	}
	emit = stopping(emit)
	return eachFile(ctx, scope, "split_records", args.Accessor, args.Filenames, func(_ *vql.Path, file vql.ReadSeekCloser) error {
		columns, first := args.Columns, args.FirstRowIsHeaders
		return eachRecord(ctx, scope, file, records, recordLimit(args.BufferSize), func(record string) error {
			if record == "" {
				return nil
			}
			cells := fields.Split(record, count)
			if first {
				first = false
				columns = headerNames(cells)
				return nil
			}
			return emit(fieldsRow(columns, cells))
		})
	})
})

// fieldsRow names the fields of a record; fields without a name get one made up.
func fieldsRow(columns, cells []string) *vql.Dict {
	row := vql.NewDict()
	for i, name := range columns {
		if i < len(cells) {
			row.Set(name, cells[i])
		} else {
			row.Set(name, vql.NULL)
		}
	}
	for i := len(columns); i < len(cells); i++ {
		row.Set(columnName(i), cells[i])
	}
	return row
}

func columnName(i int) string { return "Column" + strconv.Itoa(i) }
