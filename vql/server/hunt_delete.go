package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"iter"
	"path"
	"strings"
	"time"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/proto/buspb"
	"raptorpack/users"
	"raptorpack/vql"
)

type huntDeleteArgs struct {
	HuntID     string `vql:"hunt_id,required" doc:"The hunt."`
	ReallyDoIt bool   `vql:"really_do_it" doc:"Delete; otherwise only list what would go."`
	Workers    int64  `vql:"workers" doc:"Kept for scripts: the master deletes in batches of its own."`
	Archive    bool   `vql:"archive" doc:"Only put it away; everything is kept."`
}

var huntDeletePlugin = vql.NewPlugin(vql.Spec{
	Name: "hunt_delete", Permission: "SERVER_ADMIN", Columns: []string{"type", "data", "error"},
	Doc: "Stops a hunt, deletes it with its flows, and lists their files: uploads before it deletes, the others after. Without really_do_it it only lists them. Needs DELETE_RESULTS too; with archive START_HUNT instead.",
}, func(ctx context.Context, scope *vql.Scope, args *huntDeleteArgs, emit vql.Emit) error {
	permission := users.DeleteResults
	if args.Archive {
		permission = users.StartHunt
	}
	if err := need(scope, permission); err != nil {
		return err
	}
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return err
	}
	if args.Archive {
		return h.archiveHunt(ctx, scope, one, args.ReallyDoIt, emit)
	}
	return h.deleteHunt(ctx, scope, one, args.ReallyDoIt, emit)
})

// deleteHunt lists the uploads first, as they stream and are found through the flows,
// which go with the hunt. A query that stops before the last of them deletes nothing.
func (h *Host) deleteHunt(ctx context.Context, scope *vql.Scope, one *hunts.Hunt, really bool, emit vql.Emit) error {
	if err := h.emitUploads(ctx, scope, h.Flows.HuntFlows(h.Org, one.Hunt), emit); err != nil {
		return err
	}
	files, err := h.huntFiles(ctx, scope, filestore.HuntDir(h.Org, one.Hunt))
	if err != nil {
		return err
	}
	failure := ""
	if really {
		failure = told(scope, h.endHunt(ctx, one, true, "hunt.delete", h.Hunts.PlanDelete))
	}
	for _, file := range append(files, huntRecord) {
		if err := emit(file.row().Set("error", failure)); err != nil {
			return err
		}
	}
	return nil
}

func (h *Host) archiveHunt(ctx context.Context, scope *vql.Scope, one *hunts.Hunt, really bool, emit vql.Emit) error {
	failure := ""
	if really {
		failure = told(scope, h.endHunt(ctx, one, false, "hunt.archive", h.Hunts.PlanArchive))
	}
	return emit(huntRecord.row().Set("error", failure))
}

// told logs why a hunt is still there, and returns the text for its rows.
func told(scope *vql.Scope, err error) string {
	if err == nil {
		return ""
	}
	scope.Log(vql.LevelError, "hunt_delete: %v", err)
	return err.Error()
}

// endHunt plans what is only allowed of hunts that do not run, and stops the hunt
// first if it does.
func (h *Host) endHunt(ctx context.Context, one *hunts.Hunt, cancel bool, operation string,
	plan func(hunts.Key, string, time.Time) (*buspb.Mutation, error),
) error {
	if one.State == hunts.Running || one.State == hunts.Paused {
		if err := h.stopHunt(ctx, one.Key, cancel); err != nil {
			return err
		}
	}
	m, err := plan(one.Key, h.Principal, time.Now())
	return h.changeHunt(ctx, one.Key, operation, nil, m, err)
}

// huntRecord stands for what the ledger has of a hunt: it is no file.
var huntRecord = flowFile{kind: "HuntRecord"}

// emitUploads lists what clients uploaded for a hunt, flow by flow.
func (h *Host) emitUploads(ctx context.Context, scope *vql.Scope, all iter.Seq[*flows.Flow], emit vql.Emit) error {
	for f := range all {
		if f.Uploads.Len() == 0 {
			continue
		}
		if err := scope.Charge(ctx); err != nil {
			return err
		}
		files, err := h.uploadFiles(ctx, f)
		if errors.Is(err, flows.ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		for _, file := range files {
			if err := emit(file.row().Set("error", "")); err != nil {
				return err
			}
		}
	}
	return nil
}

// huntFiles lists the files below a hunt's folder: few, as clients share them.
func (h *Host) huntFiles(ctx context.Context, scope *vql.Scope, dir string) ([]flowFile, error) {
	if h.Files == nil {
		return nil, fmt.Errorf("list %s: %w", dir, ErrUnsupported)
	}
	var out []flowFile
	for folders := []string{dir}; len(folders) > 0; folders = folders[1:] {
		if err := scope.Charge(ctx); err != nil {
			return nil, err
		}
		entries, err := h.Files.ReadDirEntries(ctx, folders[0])
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list %s: %w", folders[0], err)
		}
		for _, e := range entries {
			name := path.Join(folders[0], e.Name())
			if e.IsDir() {
				folders = append(folders, name)
				continue
			}
			out = append(out, flowFile{huntKindOf(strings.TrimPrefix(name, dir+"/")), name})
		}
	}
	return out, nil
}

// huntKindOf names what a file of a hunt holds, by its folder.
func huntKindOf(below string) string {
	switch first, _, _ := strings.Cut(below, "/"); first {
	case "hunt.json":
		return "HuntContext"
	case "flows":
		return "FlowRecord"
	}
	return kindOf(below)
}
