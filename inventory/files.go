package inventory

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"path"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/filestore"
	"raptorpack/ids"
)

// Received is a file that is durable in the public folder. No tool names it yet:
// that takes a mutation, and when that is refused the file has to be dropped.
type Received struct {
	Org  ids.Org
	Hash string // SHA-256, lower-case hex
	Size int64
	Path string // name in the public folder
}

const (
	// DefaultMaxBytes is how large a tool may be when nobody says otherwise.
	DefaultMaxBytes = 2 << 30

	pieceBytes = 1 << 20
	tempPrefix = ".tmp-" // what listings of the filestore hide
	dropWithin = 10 * time.Second
)

// Files are the files of tools on the filestore, public/<name> by names that nobody
// guesses. Each file has one writer and never changes.
type Files struct {
	store    *filestore.Store
	maxBytes int64
	metrics  *metrics
}

// NewFiles wires the public folder. maxBytes bounds each file; 0: DefaultMaxBytes.
func NewFiles(store *filestore.Store, maxBytes int64, reg prometheus.Registerer) *Files {
	if maxBytes == 0 {
		maxBytes = DefaultMaxBytes
	}
	return &Files{store, maxBytes, newMetrics(reg)}
}

// Receive stores what from gives, and hashes it on the way: into a temporary file,
// synced, renamed. ErrTooLarge when it does not end in time. What was written
// before an error is removed.
func (f *Files) Receive(ctx context.Context, org ids.Org, from io.Reader) (Received, error) {
	got := Received{Org: org, Path: freshName()}
	temp := filestore.PublicFile(org, tempPrefix+got.Path)
	err := f.receive(ctx, temp, from, &got)
	if err != nil {
		f.remove(ctx, temp)
		return Received{}, fmt.Errorf("store tool: %w", err)
	}
	f.metrics.stored.Inc()
	f.metrics.storedBytes.Add(float64(got.Size))
	return got, nil
}

func freshName() string {
	raw := make([]byte, 16)
	rand.Read(raw) // never fails since Go 1.24
	return hex.EncodeToString(raw)
}

func (f *Files) receive(ctx context.Context, temp string, from io.Reader, got *Received) error {
	file, err := f.store.CreateFile(ctx, temp)
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = f.copy(ctx, file, from, sum, got)
	if err == nil {
		err = file.Sync(ctx)
	}
	if err = errors.Join(err, file.Close(context.WithoutCancel(ctx))); err != nil {
		return err
	}
	got.Hash = hex.EncodeToString(sum.Sum(nil))
	name := filestore.PublicFile(got.Org, got.Path)
	if err := f.store.Rename(ctx, temp, name); err != nil {
		return err
	}
	return f.store.SyncDir(ctx, path.Dir(name))
}

func (f *Files) copy(ctx context.Context, to *filestore.Handle, from io.Reader, sum hash.Hash, got *Received) error {
	piece := make([]byte, pieceBytes)
	for {
		n, end := fill(from, piece)
		if got.Size+int64(n) > f.maxBytes {
			return fmt.Errorf("more than %d bytes: %w", f.maxBytes, ErrTooLarge)
		}
		if n > 0 {
			if _, err := to.WriteAt(ctx, piece[:n], got.Size); err != nil {
				return err
			}
			sum.Write(piece[:n])
			got.Size += int64(n)
		}
		if end == io.EOF { //nolint:errorlint // a reader ends with it bare; wrapped it says that something broke off
			return nil
		}
		if end != nil {
			return end
		}
	}
}

// fill reads until there is no more room. Unlike io.ReadFull it tells the end of
// what there is from a body that broke off.
func fill(from io.Reader, piece []byte) (n int, err error) {
	for n < len(piece) && err == nil {
		var more int
		more, err = from.Read(piece[n:])
		n += more
	}
	return n, err
}

// Drop removes a file that no tool came to name.
func (f *Files) Drop(ctx context.Context, got Received) {
	f.remove(ctx, filestore.PublicFile(got.Org, got.Path))
}

// remove is for what nobody relies on: what stays is only counted.
func (f *Files) remove(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), dropWithin)
	defer cancel()
	if err := f.store.Remove(ctx, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		f.metrics.leftBehind.Inc()
	}
}

// Open opens the file of a tool for reading at any place.
func (f *Files) Open(ctx context.Context, org ids.Org, file *File) (*filestore.Handle, error) {
	handle, err := f.store.OpenFile(ctx, filestore.PublicFile(org, file.Path))
	if err != nil {
		return nil, fmt.Errorf("open tool: %w", err)
	}
	return handle, nil
}

// Sweep removes files that no tool names any more, and returns the names of those
// that are gone.
func (f *Files) Sweep(ctx context.Context, org ids.Org, paths []string) (gone []string, err error) {
	var errs []error
	for _, one := range paths {
		if err := f.store.Remove(ctx, filestore.PublicFile(org, one)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove tool: %w", err))
			continue
		}
		gone = append(gone, one)
	}
	f.metrics.swept.Add(float64(len(gone)))
	return gone, errors.Join(errs...)
}
