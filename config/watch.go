package config

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

// settle is how long a changed file must rest before it is read: editors and
// certificate tools write in several steps.
const settle = 200 * time.Millisecond

// Watch calls changed after any of the local files was changed or replaced, and
// after each value on hangup (SIGHUP). Calls never overlap. It watches folders,
// since a replaced file is another inode. It returns when ctx ends.
//
// Only for local files: inotify(7) does not report what other hosts do on a
// network filesystem.
func Watch(ctx context.Context, paths []string, hangup <-chan struct{}, logger *slog.Logger, changed func()) error {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		return fmt.Errorf("watch configuration: %w", err)
	}
	wanted := map[string]bool{}
	for _, path := range paths {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return errors.Join(fmt.Errorf("watch %s: %w", path, err), watcher.Close())
		}
		wanted[absolute] = true
		if err := watcher.Add(filepath.Dir(absolute)); err != nil {
			return errors.Join(fmt.Errorf("watch %s: %w", path, err), watcher.Close())
		}
	}
	rest := time.NewTimer(settle)
	rest.Stop()
	defer rest.Stop()
	for {
		select {
		case <-ctx.Done():
			return watcher.Close()
		case event := <-watcher.Events:
			if wanted[event.Name] && !event.Has(fsnotify.Chmod) {
				rest.Reset(settle)
			}
		case err := <-watcher.Errors:
			logger.Warn("configuration watch lost events", "err", err)
			rest.Reset(settle)
		case <-hangup:
			changed()
		case <-rest.C:
			changed()
		}
	}
}
