package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"

	"raptorpack/vql"
)

const (
	// bufferSize is what one read takes from a file, and costs one op.
	bufferSize = 256 << 10

	// defaultReadLength is what read_file reads when the call names no length.
	defaultReadLength = 4 << 20

	// maxReadLength bounds what one call may hold in memory.
	maxReadLength = 512 << 20
)

type readFileArgs struct {
	Filename *vql.Path `vql:"filename,required" doc:"The file to read."`
	Accessor string    `vql:"accessor" doc:"The accessor to open it with (auto)."`
	Offset   int64     `vql:"offset" doc:"Where to start, in bytes (0)."`
	Length   int64     `vql:"length" doc:"How many bytes to read at most (4 MiB)."`
}

var readFileFunction = vql.NewFunction(vql.Spec{
	Name: "read_file", Permission: "FILESYSTEM_READ",
	Doc: "Reads a file into a string; an empty one when it cannot be read.",
}, func(ctx context.Context, scope *vql.Scope, args *readFileArgs) (vql.Value, error) {
	length := args.Length
	if length <= 0 {
		length = defaultReadLength
	}
	data, err := readAt(ctx, scope, args.Accessor, args.Filename, args.Offset, min(length, maxReadLength))
	if err != nil {
		scope.Log(vql.LevelDefault, "read_file: %v", err)
		return "", nil
	}
	return string(data), nil
})

// readAt reads up to length bytes from an offset.
func readAt(ctx context.Context, scope *vql.Scope, accessor string, path *vql.Path, offset, length int64) ([]byte, error) {
	file, err := openThrough(ctx, scope, accessor, path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if offset > 0 {
		if _, err := file.Seek(offset, io.SeekStart); err != nil {
			return nil, fmt.Errorf("seek to %d: %w", offset, err)
		}
	}
	return readUpTo(ctx, scope, file, length)
}

// readUpTo reads at most length bytes, charging an op for each buffer.
func readUpTo(ctx context.Context, scope *vql.Scope, r io.Reader, length int64) ([]byte, error) {
	var out []byte
	buf := make([]byte, min(bufferSize, length))
	for int64(len(out)) < length {
		n, err := r.Read(buf[:min(int64(len(buf)), length-int64(len(out)))])
		out = append(out, buf[:n]...)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
	}
	return out, nil
}

type readFilesArgs struct {
	Filenames []*vql.Path `vql:"filenames,required" doc:"The files to read."`
	Accessor  string      `vql:"accessor" doc:"The accessor to open them with (auto)."`
	Chunk     int64       `vql:"chunk" doc:"Bytes in a row (4 MiB)."`
	MaxLength int64       `vql:"max_length" doc:"Bytes of each file at most (all)."`
}

var readFilePlugin = vql.NewPlugin(vql.Spec{
	Name: "read_file", Permission: "FILESYSTEM_READ",
	Doc:     "Reads files piece by piece.",
	Columns: []string{"Data", "Offset", "Filename"},
}, func(ctx context.Context, scope *vql.Scope, args *readFilesArgs, emit vql.Emit) error {
	chunk := args.Chunk
	if chunk <= 0 {
		chunk = defaultReadLength
	}
	chunk = min(chunk, maxReadLength)
	emit = stopping(emit)
	return eachFile(ctx, scope, "read_file", args.Accessor, args.Filenames, func(path *vql.Path, file vql.ReadSeekCloser) error {
		for offset := int64(0); args.MaxLength <= 0 || offset < args.MaxLength; {
			want := chunk
			if args.MaxLength > 0 {
				want = min(want, args.MaxLength-offset)
			}
			data, err := readUpTo(ctx, scope, file, want)
			if err != nil || len(data) == 0 {
				return err
			}
			row := vql.NewDict()
			row.Set("Data", string(data))
			row.Set("Offset", offset)
			row.Set("Filename", path)
			if err := emit(row); err != nil {
				return err
			}
			offset += int64(len(data))
		}
		return nil
	})
})

// emitError marks what an emit or a stopped context returned, which ends the
// plugin, apart from what reading a file returned, which ends that file.
type emitError struct{ err error }

func (e emitError) Error() string { return e.err.Error() }
func (e emitError) Unwrap() error { return e.err }

// stopping wraps emit so that its errors are told from those of files.
func stopping(emit vql.Emit) vql.Emit {
	return func(row vql.Value) error {
		if err := emit(row); err != nil {
			return emitError{err}
		}
		return nil
	}
}

// charged reads a file and charges an op for each buffer of it, so that reading
// ends with ctx also where a parser finds no end of a record.
type charged struct {
	ctx   context.Context // of the call, for whose time the reader lives
	scope *vql.Scope
	from  io.Reader
	read  int // since the last op
}

func (c *charged) Read(p []byte) (int, error) {
	if c.read >= bufferSize {
		c.read = 0
		if err := c.scope.Charge(c.ctx); err != nil {
			return 0, emitError{err}
		}
	}
	n, err := c.from.Read(p)
	c.read += n
	return n, err
}

// eachFile opens one file after the other. One that cannot be opened or read is
// a log line, and the next one's turn. Only errors of an emit that went through
// stopping, and the end of ctx, end it all.
func eachFile(ctx context.Context, scope *vql.Scope, name, accessor string, paths []*vql.Path,
	body func(path *vql.Path, file vql.ReadSeekCloser) error,
) error {
	for _, path := range paths {
		if err := ctx.Err(); err != nil {
			return err
		}
		file, err := openThrough(ctx, scope, accessor, path)
		if err != nil {
			scope.Log(vql.LevelDefault, "%s: %v", name, err)
			continue
		}
		err = body(path, file)
		_ = file.Close() // opened for reading only: nothing to lose
		var stop emitError
		switch {
		case errors.As(err, &stop):
			return stop.err
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil:
			scope.Log(vql.LevelDefault, "%s: %s: %v", name, shown(path), err)
		}
	}
	return nil
}
