package server

import (
	"context"
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

const (
	publicTop  = "public"
	tempPrefix = ".tmp-" // of files that are being written

	// quietFor is how long nobody may have written a file that is deleted by its
	// path: what is younger may be on its way into a record.
	quietFor = time.Hour
)

// errOwned means that a file belongs to something that the ledger knows, which has to
// be deleted instead.
var errOwned = errors.New("the file belongs to something that is still there")

type storePathArgs struct {
	Path vql.Lazy `vql:"path,required" doc:"A path on the filestore, as vfs_path of uploads()."`
}

var fileStoreFunction = vql.NewFunction(vql.Spec{
	Name: "file_store", Permission: "SERVER_ADMIN",
	Doc: "Gives the name that this node's operating system has for a path on the filestore: below clients, events, eventlogs, hunts or public. A large or sparse upload lies there as it came; the accessor fs reads it as it was.",
}, func(ctx context.Context, scope *vql.Scope, args *storePathArgs) (vql.Value, error) {
	h, parts, err := storePath(ctx, scope, args)
	if err != nil {
		return nil, err
	}
	return filepath.Join(append([]string{h.Files.Root()}, h.below(parts)...)...), nil
})

// storePath reads a path below the folder of the host's org.
func storePath(ctx context.Context, scope *vql.Scope, args *storePathArgs) (*Host, []string, error) {
	h, err := hostOf(scope)
	if err != nil {
		return nil, nil, err
	}
	if h.Files == nil {
		return nil, nil, fmt.Errorf("the filestore: %w", ErrUnsupported)
	}
	value := args.Path.Value(ctx, scope)
	parts := vql.ParsePath(vql.PathLinux, scope.String(ctx, value)).Components()
	if p, ok := value.(*vql.Path); ok {
		parts = p.Components()
	}
	parts = h.ownPart(parts)
	if len(parts) == 0 || slices.ContainsFunc(parts, climbs) || parts[0] != publicTop && !slices.Contains(storeTops, parts[0]) {
		return nil, nil, fmt.Errorf("path %.200q: expected one below %s or %s: %w",
			strings.Join(parts, "/"), strings.Join(storeTops, ", "), publicTop, ErrArgument)
	}
	return h, parts, nil
}

var fileStoreDeleteFunction = vql.NewFunction(vql.Spec{
	Name: "file_store_delete", Permission: "SERVER_ADMIN",
	Doc: "Deletes a file of the filestore that nothing refers to: below public, of an upload whose flow is gone, of a past day of an event artifact that no table names, or a forgotten temporary one. Anything else is refused; what it belongs to has its own primitive to delete it.",
}, func(ctx context.Context, scope *vql.Scope, args *storePathArgs) (vql.Value, error) {
	h, parts, err := storePath(ctx, scope, args)
	if err != nil {
		return nil, err
	}
	name := path.Join(h.below(parts)...)
	info, err := h.Files.Stat(ctx, name)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("delete %s: it is no plain file: %w", name, ErrArgument)
	case now.Sub(info.ModTime()) < quietFor:
		return nil, fmt.Errorf("delete %s: it was written less than %v ago, and may be on its way into a record: %w", name, quietFor, errOwned)
	}
	if err := h.unowned(parts, now); err != nil {
		return nil, fmt.Errorf("delete %s: %w", name, err)
	}
	if err := h.Files.Remove(ctx, name); err != nil {
		return nil, err
	}
	if h.Audit != nil {
		h.Audit(ctx, "filestore.delete", name, nil)
	}
	return vql.NULL, nil
})

// unowned refuses what belongs to something.
func (h *Host) unowned(parts []string, now time.Time) error {
	if strings.HasPrefix(parts[len(parts)-1], tempPrefix) {
		return nil
	}
	switch parts[0] {
	case publicTop:
		if len(parts) == 2 && h.Tools != nil {
			if h.Tools.Owns(parts[1]) {
				return fmt.Errorf("a tool has it: %w", errOwned)
			}
			return nil
		}
	case "clients":
		return h.unownedUpload(parts)
	case "events", "eventlogs":
		return h.unownedDay(parts, now)
	}
	return fmt.Errorf("only the ledger's own ways delete below %s: %w", parts[0], errOwned)
}

// unownedUpload takes clients/<2>/<2>/<client>/uploads/<flow>/… of flows that are gone.
func (h *Host) unownedUpload(parts []string) error {
	if len(parts) < 7 || parts[4] != "uploads" {
		return fmt.Errorf("of clients only uploads are deleted by their path: %w", errOwned)
	}
	client, err := unescapedID(parts[3], ids.ParseClient)
	if err != nil {
		return err
	}
	flow, err := unescapedID(parts[5], ids.ParseFlow)
	if err != nil {
		return err
	}
	_, err = h.Flows.Flow(flows.Key{Org: h.Org, Client: client, Flow: flow})
	switch {
	case errors.Is(err, flows.ErrNotFound):
		return nil
	case err != nil:
		return err
	}
	return fmt.Errorf("flow %s of %s has it, delete_flow() deletes that: %w", flow, client, errOwned)
}

func unescapedID[T any](name string, parse func(string) (T, error)) (id T, err error) {
	text, err := filestore.UnescapeName(name)
	if err != nil {
		return id, err
	}
	return parse(text)
}

// unownedDay takes events/<artifact>[/<source>]/<day>/<file> of past days.
func (h *Host) unownedDay(parts []string, now time.Time) error {
	if len(parts) < 4 {
		return fmt.Errorf("expected a file of a day: %w", ErrArgument)
	}
	day, err := time.Parse(time.DateOnly, parts[len(parts)-2])
	if err != nil {
		return fmt.Errorf("expected a file of a day: %w", ErrArgument)
	}
	if now.Before(day.AddDate(0, 0, 2)) {
		return fmt.Errorf("rows of %s may still be written: %w", parts[len(parts)-2], errOwned)
	}
	folder := h.below(append([]string{"events"}, parts[1:len(parts)-2]...))
	if h.Flows.EventTabled(h.Org, path.Join(folder...)) {
		return fmt.Errorf("an event table names its artifact, delete_events() deletes days of it: %w", errOwned)
	}
	return nil
}

// orgParts is the folder of the host's org; the root org has none.
func (h *Host) orgParts() []string {
	if dir := path.Dir(string(filestore.DeadLetters(h.Org))); dir != "." {
		return strings.Split(dir, "/")
	}
	return nil
}

// ownPart cuts the org's folder off a path, if it begins with that.
func (h *Host) ownPart(parts []string) []string {
	if own := h.orgParts(); len(own) > 0 && len(parts) >= len(own) && slices.Equal(parts[:len(own)], own) {
		return parts[len(own):]
	}
	return parts
}

// below puts the org's folder before a path.
func (h *Host) below(parts []string) []string { return append(h.orgParts(), parts...) }
