package filestore

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
)

// ReplaceFile gives a file new content, whole or not at all: write a temporary
// file, sync, rename, sync the directory. The directories above are made.
func (s *Store) ReplaceFile(ctx context.Context, name string, data []byte) error {
	temp, err := s.writeTemp(ctx, path.Dir(name), data)
	if err != nil {
		return fmt.Errorf("replace %s: %w", name, err)
	}
	defer temp.handle.discard(ctx)
	if err := s.renameOwn(ctx, temp.path, name, temp.info); err != nil {
		s.dropTemp(ctx, temp.path)
		return fmt.Errorf("replace %s: %w", name, err)
	}
	return s.SyncDir(ctx, path.Dir(name))
}

// PublishFile makes a file whole and durable under a name that nobody has yet;
// the first writer wins. ErrExists means that somebody else's file stands
// there, durable as well. The directories above are made.
func (s *Store) PublishFile(ctx context.Context, name string, data []byte) error {
	dir := path.Dir(name)
	temp, err := s.writeTemp(ctx, dir, data)
	if err != nil {
		return fmt.Errorf("publish %s: %w", name, err)
	}
	linked := s.linkOwn(ctx, temp.path, name, temp.info)
	temp.handle.discard(ctx)
	s.dropTemp(ctx, temp.path)
	if linked != nil && !errors.Is(linked, ErrExists) {
		return fmt.Errorf("publish %s: %w", name, linked)
	}
	// The loser syncs too: it will rely on a name whose winner may not have come
	// to its own sync.
	if err := s.SyncDir(ctx, dir); err != nil {
		return fmt.Errorf("publish %s: %w", name, err)
	}
	return linked
}

// ReadFile reads a whole file by a fresh open. More than limit bytes are
// ErrTooLarge. ESTALE and EIO are retried with another open, so that a file
// replaced meanwhile is read whole from one version.
func (s *Store) ReadFile(ctx context.Context, path string, limit int64) (data []byte, err error) {
	err = s.patiently(ctx, func() (err error) {
		s.metrics.counts[opOpen].Add(1) // readWhole makes one pooled call of three
		s.metrics.counts[opClose].Add(1)
		data, err = invoke(ctx, s, opRead, path, nil, func() ([]byte, error) { return readWhole(s.fs, path, limit) })
		return err
	})
	return data, err
}

// readWhole is one pooled call, counted as one read: open, read, close.
func readWhole(from FS, path string, limit int64) ([]byte, error) {
	f, err := from.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only: its error says nothing
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// Of a file that does not grow meanwhile, this is all that is ever allocated.
	buffer := bytes.NewBuffer(make([]byte, 0, min(info.Size(), limit)+bytes.MinRead))
	_, err = buffer.ReadFrom(io.NewSectionReader(f, 0, limit+1))
	if err != nil {
		return nil, err
	}
	data := buffer.Bytes()
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("over %d bytes: %w", limit, ErrTooLarge)
	}
	return data, nil
}

// Link gives oldpath the further name newpath, or fails with ErrExists if
// that is another file. A lost answer is resolved by comparing inodes. Only
// the one writer of oldpath may call it.
func (s *Store) Link(ctx context.Context, oldpath, newpath string) error {
	own, err := s.identify(ctx, oldpath)
	if err != nil {
		return fmt.Errorf("link %s: %w", newpath, err)
	}
	return s.linkOwn(ctx, oldpath, newpath, own)
}

// Rename replaces newpath by oldpath. A lost answer is resolved by comparing
// inodes. Only the one writer of oldpath may call it.
func (s *Store) Rename(ctx context.Context, oldpath, newpath string) error {
	own, err := s.identify(ctx, oldpath)
	if err != nil {
		return fmt.Errorf("rename to %s: %w", newpath, err)
	}
	return s.renameOwn(ctx, oldpath, newpath, own)
}

// linkOwn links and, whatever error comes, looks whose file has the name.
func (s *Store) linkOwn(ctx context.Context, oldpath, newpath string, own fs.FileInfo) error {
	return s.resolved(ctx, func() error {
		return s.call(ctx, opLink, newpath, func() error { return s.fs.Link(oldpath, newpath) })
	}, newpath, own)
}

func (s *Store) renameOwn(ctx context.Context, oldpath, newpath string, own fs.FileInfo) error {
	return s.resolved(ctx, func() error {
		return s.call(ctx, opRename, newpath, func() error { return s.fs.Rename(oldpath, newpath) })
	}, newpath, own)
}

// resolved makes a change of names that may be done although its answer is an
// error: then the inode under the new name is our own. What is not done and
// may pass is tried again.
func (s *Store) resolved(ctx context.Context, change func() error, newpath string, own fs.FileInfo) error {
	return s.patiently(ctx, func() error {
		err := change()
		if err == nil || errors.Is(err, ErrAbandoned) {
			return err
		}
		if found, lookErr := s.identify(ctx, newpath); lookErr == nil && os.SameFile(own, found) {
			return nil
		}
		return err
	})
}

// identify says which file has a name now, by a fresh open and not by stat,
// whose answer an NFS client may have in its cache.
func (s *Store) identify(ctx context.Context, path string) (fs.FileInfo, error) {
	s.metrics.counts[opFstat].Add(1) // one pooled call of three
	s.metrics.counts[opClose].Add(1)
	return invoke(ctx, s, opOpen, path, nil, func() (fs.FileInfo, error) {
		f, err := s.fs.Open(path)
		if err != nil {
			return nil, err
		}
		defer f.Close() // read only: its error says nothing
		return f.Stat()
	})
}

// tempFile is a file under a name that no reader looks at.
type tempFile struct {
	path   string
	handle *Handle
	info   fs.FileInfo
}

// writeTemp writes and syncs a temporary file beside its later name.
func (s *Store) writeTemp(ctx context.Context, dir string, data []byte) (*tempFile, error) {
	temp := path.Join(dir, tempName())
	h, err := s.CreateFile(ctx, temp)
	if err != nil {
		return nil, err
	}
	info, err := s.fill(ctx, h, data)
	if err != nil {
		h.discard(ctx)
		s.dropTemp(ctx, temp)
		return nil, err
	}
	return &tempFile{temp, h, info}, nil
}

func (s *Store) fill(ctx context.Context, h *Handle, data []byte) (fs.FileInfo, error) {
	if _, err := h.WriteAt(ctx, data, 0); err != nil {
		return nil, err
	}
	if err := h.Sync(ctx); err != nil {
		return nil, err
	}
	return h.Stat(ctx)
}

// dropTemp removes a temporary file; one that stays behind is only untidy.
func (s *Store) dropTemp(ctx context.Context, path string) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	if err := s.Remove(limited, path); err != nil {
		s.log.WarnContext(ctx, "temporary file stays behind", "path", path, "err", err)
	}
}

func tempName() string {
	var chance [8]byte
	rand.Read(chance[:]) // never fails since Go 1.24
	return tempPrefix + hex.EncodeToString(chance[:])
}
