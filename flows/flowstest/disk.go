// Package flowstest holds fakes for testing collections without a filestore: a
// disk that several node incarnations share, committers that can fail or hang,
// and a ledger that orders facts.
package flowstest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"raptorpack/filestore"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// ErrInjected is the failure that a test asked for.
var ErrInjected = errors.New("injected failure")

// Disk is what is durable, whoever wrote it. It is safe for concurrent use.
type Disk struct {
	mu      sync.Mutex
	appends []filestore.Append
	uploads map[filestore.UploadKey]*file
	syncs   int
}

type file struct {
	data     []byte
	have     filestore.Intervals
	finished *filestore.StoredUpload
}

// NewDisk returns an empty disk.
func NewDisk() *Disk { return &Disk{uploads: map[filestore.UploadKey]*file{}} }

// Appends returns what lies in a set, in the order it came.
func (d *Disk) Appends(set filestore.Set) []filestore.Append {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []filestore.Append
	for _, a := range d.appends {
		if a.Set == set {
			out = append(out, a)
		}
	}
	return out
}

// Sets lists the sets that hold something, sorted.
func (d *Disk) Sets() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for _, a := range d.appends {
		out = append(out, string(a.Set))
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Text is all lines of a set as written, duplicates included.
func (d *Disk) Text(set filestore.Set) string {
	var b strings.Builder
	for _, a := range d.Appends(set) {
		b.Write(a.Lines)
	}
	return b.String()
}

// Rows merges a set as readers do: by row number, each row once. A missing row
// is an empty line; one that is there with two contents is an error.
func (d *Disk) Rows(set filestore.Set) ([]string, error) {
	var out []string
	for _, a := range d.Appends(set) {
		for i, line := range strings.SplitAfter(string(a.Lines), "\n") {
			if line == "" {
				continue
			}
			n := int(a.Extent.FirstRow) + i
			for len(out) <= n {
				out = append(out, "")
			}
			if out[n] != "" && out[n] != line {
				return nil, fmt.Errorf("row %d of %s is %q and %q", n, set, out[n], line)
			}
			out[n] = line
		}
	}
	return out, nil
}

// Upload returns the bytes of an upload and whether it has its name.
func (d *Disk) Upload(key filestore.UploadKey) ([]byte, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := d.uploads[key]
	if f == nil {
		return nil, false
	}
	return slices.Clone(f.data), f.finished != nil
}

// Commits counts the commits that had data or facts.
func (d *Disk) Commits() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.syncs
}

// Committer writes to a disk as one incarnation. Set the fields before use.
type Committer struct {
	Disk *Disk

	// Facts takes the facts of a commit once its data is durable; nil loses them.
	Facts func([]*buspb.Mutation) error

	// Before is called at the start of each Submit, with no lock held. It may
	// block, and its error fails the commit with nothing written.
	Before func(context.Context, *filestore.Commit) error

	// Torn is called when the data is durable and the facts are not; its error
	// fails the commit there.
	Torn func(*filestore.Commit) error
}

// Submit writes data, then facts.
func (c *Committer) Submit(ctx context.Context, commit *filestore.Commit) error {
	if c.Before != nil {
		if err := c.Before(ctx, commit); err != nil {
			return err
		}
	}
	if err := check(commit); err != nil {
		return err
	}
	c.Disk.write(commit)
	if c.Torn != nil {
		if err := c.Torn(commit); err != nil {
			return err
		}
	}
	if c.Facts != nil && len(commit.Facts) > 0 {
		return c.Facts(commit.Facts)
	}
	return nil
}

// check holds a commit to what the real committer demands.
func check(c *filestore.Commit) error {
	for _, a := range c.Appends {
		lines := int64(strings.Count(string(a.Lines), "\n"))
		if a.Set == "" || a.Extent.Rows < 1 || lines != a.Extent.Rows || !strings.HasSuffix(string(a.Lines), "\n") {
			return fmt.Errorf("append to %q: %d rows, %d lines: %w", a.Set, a.Extent.Rows, lines, filestore.ErrBadAppend)
		}
		if a.Extent.FirstRow < 0 || a.Extent.FirstRow+a.Extent.Rows > filestore.MaxRow || a.Extent.Rows > 1 && len(a.Lines) > filestore.MaxMemberBytes {
			return fmt.Errorf("append to %q: rows %d+%d, %d bytes: %w", a.Set, a.Extent.FirstRow, a.Extent.Rows, len(a.Lines), filestore.ErrBadAppend)
		}
	}
	for _, u := range c.Uploads {
		if u.Offset < 0 || len(u.Data) == 0 || len(u.Data) > filestore.MaxUploadWrite || u.Key.Number < 0 {
			return fmt.Errorf("upload %s at %d: %w", u.Key, u.Offset, filestore.ErrBadAppend)
		}
	}
	return nil
}

func (d *Disk) write(c *filestore.Commit) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.syncs++
	for _, a := range c.Appends {
		a.Lines = slices.Clone(a.Lines)
		d.appends = append(d.appends, a)
	}
	for _, u := range c.Uploads {
		f := d.uploads[u.Key]
		if f == nil {
			f = &file{}
			d.uploads[u.Key] = f
		}
		if need := int(u.Offset) + len(u.Data); len(f.data) < need {
			f.data = append(f.data, make([]byte, need-len(f.data))...)
		}
		copy(f.data[u.Offset:], u.Data)
		f.have.Add(u.Offset, u.Offset+int64(len(u.Data)))
	}
}

// FinishUpload names an upload whose bytes are all there.
func (c *Committer) FinishUpload(_ context.Context, f filestore.UploadFinish) (*filestore.StoredUpload, error) {
	d := c.Disk
	d.mu.Lock()
	defer d.mu.Unlock()
	have := d.uploads[f.Key]
	if have == nil {
		have = &file{}
		d.uploads[f.Key] = have
	}
	if have.finished != nil {
		return have.finished, nil
	}
	if missing := have.have.Missing(0, f.StoredSize); len(missing) > 0 {
		return nil, &filestore.IncompleteError{Key: f.Key, Missing: missing}
	}
	have.data = have.data[:f.StoredSize]
	sum := sha256.Sum256(have.data)
	have.finished = &filestore.StoredUpload{
		Path: "clients/" + f.Key.String() + "/" + strings.Join(f.Components, "/"), SHA256: hex.EncodeToString(sum[:]),
		Size: f.Size, StoredSize: f.StoredSize, Sparse: len(f.Index) > 0,
	}
	return have.finished, nil
}

// CleanUploads has nothing to do.
func (c *Committer) CleanUploads(context.Context, ids.Org, ids.Client, ids.Flow) error { return nil }

// Forget has nothing to close.
func (c *Committer) Forget(context.Context, string) {}
