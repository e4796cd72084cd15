package filestore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"
)

// probeWithin bounds the whole probe: a mount that takes longer for a dozen
// calls cannot renew a lease every second.
const probeWithin = time.Second

// ProbeMount reports with ErrUnfit why the mount cannot carry a mastership
// lease: mount options that let calls fail or old content be read, or link,
// rename, listing and fresh-open visibility that do not work within a second.
// Whether other hosts see the same cannot be found out from one host; that is
// what the mount options are looked at for.
func (s *Store) ProbeMount(ctx context.Context) error {
	if err := s.mountFit(); err != nil {
		return fmt.Errorf("%w: %w", ErrUnfit, err)
	}
	limited, cancel := context.WithTimeout(ctx, probeWithin)
	defer cancel()
	u := s.Urgent()
	err := u.probe(limited)
	if err == nil || ctx.Err() != nil {
		return err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: probe not done within %v: %w", ErrUnfit, probeWithin, err)
	}
	return fmt.Errorf("%w: probe: %w", ErrUnfit, err)
}

// probe tries what leases rely on, in the directory of leases.
func (s *Store) probe(ctx context.Context) error {
	before, after := bytes.Repeat([]byte{'1'}, heartbeatBytes), bytes.Repeat([]byte{'2'}, heartbeatBytes)
	temp, err := s.writeTemp(ctx, leaseDir, before)
	if err != nil {
		return err
	}
	second, third := path.Join(leaseDir, tempName()), path.Join(leaseDir, tempName())
	defer s.sweep(ctx, temp.path, second, third)
	defer temp.handle.discard(ctx)
	if err := s.probeNames(ctx, temp, second, third); err != nil {
		return err
	}
	if err := s.visible(ctx, third, before); err != nil {
		return err
	}
	if _, err := temp.handle.WriteAt(ctx, after, 0); err != nil {
		return err
	}
	if err := temp.handle.Sync(ctx); err != nil {
		return err
	}
	return s.visible(ctx, third, after)
}

// probeNames takes a second name by link, must be refused it again, renames it
// to a third and must find that in a listing.
func (s *Store) probeNames(ctx context.Context, temp *tempFile, second, third string) error {
	link := func() error {
		return s.call(ctx, opLink, second, func() error { return s.fs.Link(temp.path, second) })
	}
	if err := link(); err != nil {
		return err
	}
	if err := link(); !errors.Is(err, ErrExists) {
		return fmt.Errorf("link to a taken name: want %w, got %w", fs.ErrExist, cmpNil(err))
	}
	found, err := s.identify(ctx, second)
	if err != nil {
		return err
	}
	if !os.SameFile(found, temp.info) {
		return errors.New("two names of one file do not show the same inode")
	}
	if err := s.Rename(ctx, second, third); err != nil {
		return err
	}
	if err := s.SyncDir(ctx, leaseDir); err != nil {
		return err
	}
	entries, err := s.list(ctx, leaseDir)
	if err != nil {
		return err
	}
	if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == path.Base(third) }) {
		return errors.New("a new name is missing in a fresh listing")
	}
	return nil
}

// errNone stands for success where an error was due.
var errNone = errors.New("no error")

func cmpNil(err error) error {
	if err == nil {
		return errNone
	}
	return err
}

// visible reads by a fresh open and compares.
func (s *Store) visible(ctx context.Context, path string, want []byte) error {
	got, err := s.ReadFile(ctx, path, heartbeatBytes)
	if err != nil {
		return err
	}
	if !bytes.Equal(got, want) {
		return errors.New("a fresh open shows old content")
	}
	return nil
}

func (s *Store) sweep(ctx context.Context, paths ...string) {
	limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), discardWait)
	defer cancel()
	for _, path := range paths {
		if err := s.Remove(limited, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.WarnContext(ctx, "probe file stays behind", "path", path, "err", err)
		}
	}
}
