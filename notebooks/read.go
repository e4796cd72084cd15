package notebooks

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"sort"
	"time"

	"raptorpack/filestore"
	"raptorpack/internal/retry"
)

// seekRows is how exactly a start is looked for: so many rows may be read and left out.
const seekRows = 1024

// cursor reads the rows of a child in order, an extent at a time.
type cursor struct {
	child  *Child
	pinned *filestore.Pinned
	start  time.Time // rows before it are left out; zero: none

	place int64  // of the next extent's first row
	lines []byte // of the present extent
	done  bool
	lost  int64 // rows that should be there and are not

	at  time.Time // of the present row
	row []byte
}

// open looks at the rows of a child, from a start on.
func (f *Files) open(ctx context.Context, key Key, timeline string, child *Child, start time.Time) (*cursor, error) {
	c := &cursor{child: child, start: start}
	if child.Rows == 0 || !start.IsZero() && child.Last.Add(time.Microsecond).Before(start) { // Last is cut to microseconds
		c.done = true
		return c, nil
	}
	if err := f.pin(ctx, filestore.TimelineRows(key.Org, key.Notebook, timeline, child.Folder), c); err != nil {
		return nil, err
	}
	var err error
	if !start.IsZero() {
		c.place, err = c.seek(ctx)
	}
	return c, err
}

// errUnseen means that less is there than the ledger says.
var errUnseen = errors.New("rows are not visible yet")

// visible is how long a network filesystem may take to show what another node wrote.
var visible = retry.Policy{Tries: 4, First: 40 * time.Millisecond, Cap: 250 * time.Millisecond}

// pin looks at the rows as they are now. Where some are missing it looks again, as a
// client of a network filesystem may remember for a while that a folder was not there,
// until it reads the one above anew.
func (f *Files) pin(ctx context.Context, set filestore.Set, c *cursor) error {
	again := func(err error) bool { return errors.Is(err, errUnseen) && f.freshen(ctx, set.String()) }
	err := retry.Do(ctx, visible, again, func() (err error) {
		if c.pinned, _, err = f.o.Reader.Pin(ctx, set, filestore.RowsFilter{}, ""); err != nil {
			return err
		}
		if c.lost = max(0, c.child.Rows-c.pinned.Total()); c.lost > 0 {
			return errUnseen
		}
		return nil
	})
	if errors.Is(err, errUnseen) {
		return nil // they are lost, and told
	}
	return err
}

// freshen reads the folders above anew, from the top. What of them cannot be read is for
// who reads the rows.
func (f *Files) freshen(ctx context.Context, dir string) bool {
	if dir == "." {
		return true
	}
	f.freshen(ctx, path.Dir(dir))
	_, _ = f.o.Store.ReadDir(ctx, dir)
	return true
}

// seek finds a place at or before the first row that counts, by halving: a look takes
// one member.
func (c *cursor) seek(ctx context.Context) (int64, error) {
	var failed error
	blocks := int((c.pinned.Total() + seekRows - 1) / seekRows)
	at := sort.Search(blocks, func(i int) bool {
		if failed != nil {
			return true
		}
		var at time.Time
		at, failed = c.timeAt(ctx, int64(i)*seekRows)
		return !at.Before(c.start)
	})
	if errors.Is(failed, errLine) {
		return 0, nil // what is damaged is passed over, and told, on the way
	}
	return max(0, int64(at-1)*seekRows), failed
}

func (c *cursor) timeAt(ctx context.Context, place int64) (time.Time, error) {
	rows, _, err := c.pinned.At(ctx, []int64{place})
	if err != nil {
		return time.Time{}, gone(err)
	}
	at, _, err := parseLine(rows[0].Line)
	return at, err
}

// gone tells a removed file from others that cannot be read.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrGone, err)
	}
	return err
}

// errOne ends a walk after one extent.
var errOne = errors.New("one extent is enough")

// next goes to the next row; false at the end. charge is called for each extent.
func (c *cursor) next(ctx context.Context, charge func(context.Context) error) (bool, error) {
	for {
		for len(c.lines) == 0 {
			if c.done {
				return false, nil
			}
			if err := charge(ctx); err != nil {
				return false, err
			}
			if err := c.fetch(ctx); err != nil {
				return false, err
			}
		}
		line, rest, _ := bytes.Cut(c.lines, []byte("\n"))
		c.lines = rest
		at, row, err := parseLine(line)
		if err != nil || at.Before(c.at) { // a merge takes them in order
			c.lost++
			continue
		}
		if at.Before(c.start) {
			continue
		}
		c.at, c.row = at, row
		return true, nil
	}
}

// fetch reads the next extent that can be read.
func (c *cursor) fetch(ctx context.Context) error {
	told, err := c.pinned.Walk(ctx, c.place, nil, func(b filestore.Batch) error {
		c.lines, c.place = bytes.Clone(b.Lines), b.Place+b.Rows
		return errOne
	})
	if told != nil {
		c.lost += told.Unread
	}
	switch {
	case errors.Is(err, errOne):
		return nil
	case err != nil:
		return gone(err)
	}
	c.done = true
	return nil
}
