// Package watch tells when local files have changed.
//
// Only local ones: inotify(7) does not report what other hosts do on a network
// filesystem.
package watch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long what has changed must rest before it is read: editors, package
// managers and certificate tools write in several steps.
const settle = 200 * time.Millisecond

// maxFolders bounds the folders that are watched: each takes one of the system's
// watches.
const maxFolders = 1000

// Files calls changed after any of some files was changed or replaced, and after each
// value on again (SIGHUP). Calls never overlap. It watches folders, since a replaced
// file is another inode. It returns when ctx ends.
func Files(ctx context.Context, paths []string, again <-chan struct{}, logger *slog.Logger, changed func()) error {
	wanted := map[string]bool{}
	for _, path := range paths {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		wanted[absolute] = true
	}
	return watching(func(watcher *fsnotify.Watcher) error {
		for path := range wanted {
			if err := watcher.Add(filepath.Dir(path)); err != nil {
				return fmt.Errorf("watch %s: %w", path, err)
			}
		}
		return follow(ctx, watcher, again, logger, changed, func(event fsnotify.Event) bool { return wanted[event.Name] })
	})
}

// Folder calls changed after files of a folder, or of one below it, were changed,
// added or removed. Calls never overlap. It returns when ctx ends.
func Folder(ctx context.Context, folder string, logger *slog.Logger, changed func()) error {
	return watching(func(watcher *fsnotify.Watcher) error {
		if err := addBelow(watcher, folder); err != nil {
			return fmt.Errorf("watch %s: %w", folder, err)
		}
		return follow(ctx, watcher, nil, logger, changed, func(event fsnotify.Event) bool {
			if event.Has(fsnotify.Create) { // perhaps a folder, with files by now
				if err := addBelow(watcher, event.Name); err != nil {
					logger.Warn("a folder is not watched", "folder", event.Name, "err", err)
				}
			}
			return true
		})
	})
}

func watching(run func(*fsnotify.Watcher) error) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch files: %w", err)
	}
	return errors.Join(run(watcher), watcher.Close())
}

// follow calls changed when the events that concern somebody have come to rest, until
// ctx ends.
func follow(ctx context.Context, watcher *fsnotify.Watcher, again <-chan struct{}, logger *slog.Logger, changed func(), concerns func(fsnotify.Event) bool) error {
	rest := time.NewTimer(settle)
	rest.Stop()
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case event := <-watcher.Events:
			if concerns(event) && !event.Has(fsnotify.Chmod) {
				rest.Reset(settle)
			}
		case err := <-watcher.Errors:
			logger.Warn("watch of files lost events", "err", err)
			rest.Reset(settle)
		case <-again:
			changed()
		case <-rest.C:
			changed()
		}
	}
}

// addBelow watches a folder and those below it; a file, and what is gone by now, is
// none.
func addBelow(watcher *fsnotify.Watcher, folder string) error {
	return filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(watcher.WatchList()) > 0:
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case len(watcher.WatchList()) >= maxFolders:
			return fmt.Errorf("more than %d folders", maxFolders)
		}
		return watcher.Add(name)
	})
}
