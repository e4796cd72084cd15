package endpoint

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"raptorpack/vql"
	"raptorpack/vql/yara"
)

const (
	// yaraBlock is how much is scanned at once: conditions and modules see a file
	// of up to this size as a whole.
	yaraBlock = 32 << 20

	// yaraBuffer is the block of force_buffers, yaraSmallest the least that blocksize
	// may ask for.
	yaraBuffer   = 1 << 20
	yaraSmallest = 64 << 10

	// yaraOverlap is what two neighbouring blocks share, so that a string is found
	// wherever it stands: YARA's regular expressions look at 4 KiB, its longest text
	// has 8 KiB, twice that when it is wide. Only longer matches of hex strings with
	// large gaps can be missed at a border.
	yaraOverlap = 16 << 10
)

// yaraBlocks cuts what is between start and end of the ranges into blocks of size
// bytes, at least yaraSmallest. A negative end is none.
func yaraBlocks(ranges []vql.Range, start, end, size int64) []yara.Block {
	step := size - yaraOverlap
	var out []yara.Block
	for _, r := range ranges {
		from, to := max(r.Offset, start), r.Offset+r.Length
		if end >= 0 {
			to = min(to, end)
		}
		if r.Sparse {
			continue
		}
		for ; from < to; from += step {
			out = append(out, yara.Block{Base: from, Size: min(size, to-from)})
			if to-from <= size {
				break
			}
		}
	}
	return out
}

// target says what of a file is scanned. done is to be called after.
func (a *yaraArgs) target(ctx context.Context, scope *vql.Scope, file vql.ReadSeekCloser) (t yara.Target, done func(), err error) {
	size, ranges, block, done := sizeOf(file), []vql.Range(nil), int64(yaraBlock), func() {}
	switch {
	case a.BlockSize > 0:
		block = min(max(a.BlockSize, yaraSmallest), yaraBlock)
	case a.ForceBuffers:
		block = yaraBuffer
	}
	var reader io.ReadSeeker = file
	if ranges = yaraRanges(file, size, block); ranges == nil {
		if reader, size, done, err = seekable(ctx, scope, file, size, block); err != nil {
			return t, done, err
		}
		ranges = []vql.Range{{Length: size}}
	}
	end := int64(-1)
	if a.End > 0 {
		end = a.End
	}
	t.Reader, t.Size = &chargedAt{ctx: ctx, scope: scope, file: reader}, size
	t.Blocks = yaraBlocks(ranges, max(a.Start, 0), end, block)
	if a.Accessor == "process" {
		t.Size = -1
	}
	return t, done, nil
}

// yaraRanges returns the parts of a file with holes; nil is the whole file. A plain
// file that fits into one block is whole, because rules may look at its structure.
func yaraRanges(file vql.ReadSeekCloser, size, block int64) []vql.Range {
	ranger, ok := file.(vql.Ranger)
	_, plain := file.(io.ReaderAt)
	if !ok || plain && size <= block {
		return nil
	}
	return ranger.Ranges()
}

// seekable makes going back in a file cheap, as scanning in blocks needs it, and
// finds its size. What can only be read in order is copied to a temporary file; a
// file of no size, as those of /proc are, is read into memory.
func seekable(ctx context.Context, scope *vql.Scope, file vql.ReadSeekCloser, size, block int64) (io.ReadSeeker, int64, func(), error) {
	nothing := func() {}
	_, random := file.(io.ReaderAt)
	switch {
	case size == 0:
		data, err := readUpTo(ctx, scope, file, yaraBlock)
		return bytes.NewReader(data), int64(len(data)), nothing, err
	case size > 0 && (random || size <= block):
		return file, size, nothing, nil
	}
	at, size, closer, err := randomAccess(ctx, scope, unclosed{file})
	if err != nil {
		return nil, 0, nothing, err
	}
	done := func() {
		if err := closer.Close(); err != nil {
			scope.Log(vql.LevelWarn, "yara: remove a temporary file: %v", err)
		}
	}
	return io.NewSectionReader(at, 0, size), size, done, nil
}

// unclosed keeps a file open that its opener closes.
type unclosed struct{ io.ReadSeeker }

func (unclosed) Close() error { return nil }

// chargedAt reads a file at any place from one goroutine, charging an op for each
// buffer.
type chargedAt struct {
	ctx   context.Context // of the call, for whose time the reader lives
	scope *vql.Scope
	file  io.ReadSeeker
}

func (c *chargedAt) ReadAt(p []byte, offset int64) (int, error) {
	if _, err := c.file.Seek(offset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("seek to %d: %w", offset, err)
	}
	total := 0
	for total < len(p) {
		if err := c.scope.Charge(c.ctx); err != nil {
			return total, emitError{err}
		}
		n, err := io.ReadFull(c.file, p[total:min(len(p), total+bufferSize)])
		total += n
		if errors.Is(err, io.ErrUnexpectedEOF) {
			err = io.EOF
		}
		if err != nil {
			return total, err
		}
	}
	return total, nil
}
