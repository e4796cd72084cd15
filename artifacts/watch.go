package artifacts

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

// settle is how long a changed folder must rest before it is read: editors and
// package managers write in several steps.
const settle = 200 * time.Millisecond

// maxWatched bounds the folders that are watched: each takes one of the system's
// watches.
const maxWatched = 1000

// WatchFolder calls changed after files of a folder, or of one below it, were changed,
// added or removed. Calls never overlap. It returns when ctx ends.
//
// Only for local folders: inotify(7) does not report what other hosts do on a network
// filesystem.
func WatchFolder(ctx context.Context, folder string, logger *slog.Logger, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch artifacts: %w", err)
	}
	if err := watchBelow(watcher, folder); err != nil {
		return errors.Join(fmt.Errorf("watch artifacts: %w", err), watcher.Close())
	}
	rest := time.NewTimer(settle)
	rest.Stop()
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return watcher.Close()
		case event := <-watcher.Events:
			if event.Has(fsnotify.Create) { // perhaps a folder, with files by now
				if err := watchBelow(watcher, event.Name); err != nil {
					logger.Warn("a folder of artifacts is not watched", "folder", event.Name, "err", err)
				}
			}
			if !event.Has(fsnotify.Chmod) {
				rest.Reset(settle)
			}
		case err := <-watcher.Errors:
			logger.Warn("watch of artifacts lost events", "err", err)
			rest.Reset(settle)
		case <-rest.C:
			changed()
		}
	}
}

// watchBelow watches a folder and those below it; a file, and what is gone by now, is
// none.
func watchBelow(watcher *fsnotify.Watcher, folder string) error {
	return filepath.WalkDir(folder, func(name string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist) && len(watcher.WatchList()) > 0:
			return nil
		case err != nil:
			return err
		case !d.IsDir():
			return nil
		case len(watcher.WatchList()) >= maxWatched:
			return fmt.Errorf("more than %d folders", maxWatched)
		}
		return watcher.Add(name)
	})
}
