package server

import (
	"context"
	"errors"
	"fmt"
	"path"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/vql"
)

// Downloads make zips on the filestore for people to fetch.
type Downloads interface {
	// OfFlow returns the path that the zip of a flow has, or will have.
	OfFlow(ctx context.Context, key flows.Key, o DownloadOptions) (string, error)

	// OfHunt is the same for a hunt.
	OfHunt(ctx context.Context, key hunts.Key, o DownloadOptions) (string, error)
}

// DownloadOptions choose how a download is made.
type DownloadOptions struct {
	Name     string // what its name begins with; empty: as it is usual
	Password string
	Format   string // csv, json, csv_only; empty: csv
	Expand   bool
	RowsOnly bool // of a hunt
	Wait     bool
}

type flowDownloadArgs struct {
	ClientID     string `vql:"client_id,required" doc:"The client."`
	FlowID       string `vql:"flow_id,required" doc:"The flow."`
	Wait         bool   `vql:"wait" doc:"Return when the zip is there (at once, and it is made within an hour)."`
	Type         string `vql:"type" doc:"Has no effect."`
	Template     string `vql:"template" doc:"Reports are not written; has no effect."`
	Password     string `vql:"password" doc:"Encrypt by AES-256: the zip then has one member, data.zip."`
	Format       string `vql:"format" doc:"csv (JSON lines and CSV), json (JSON lines alone) or csv_only (csv)."`
	ExpandSparse bool   `vql:"expand_sparse" doc:"Write sparse uploads with their holes, up to 64 GiB each."`
	Name         string `vql:"name" doc:"What the name of the zip begins with (host, client and flow)."`
}

var createFlowDownloadFunction = vql.NewFunction(vql.Spec{
	Name: "create_flow_download", Permission: "PREPARE_RESULTS",
	Doc: "Makes a zip of a flow on the filestore (rows, logs, uploads, a manifest of hashes) and gives its path, which the accessor fs reads. It goes when the flow is deleted.",
}, func(ctx context.Context, scope *vql.Scope, args *flowDownloadArgs) (vql.Value, error) {
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return nil, err
	}
	if _, err := h.Flows.Flow(key); err != nil {
		return nil, err
	}
	if h.Downloads == nil {
		return nil, fmt.Errorf("make downloads: %w", ErrUnsupported)
	}
	ignored(scope, "create_flow_download", "template", args.Template)
	ignored(scope, "create_flow_download", "type", args.Type)
	place, err := h.Downloads.OfFlow(ctx, key, DownloadOptions{
		Name: args.Name, Password: args.Password, Format: args.Format, Expand: args.ExpandSparse, Wait: args.Wait,
	})
	if err != nil {
		return nil, err
	}
	h.downloaded(ctx, "flow.download", key.Client.String(), map[string]string{"flow": key.Flow.String(), "path": place})
	return place, nil
})

type huntDownloadArgs struct {
	HuntID       string `vql:"hunt_id,required" doc:"The hunt."`
	OnlyCombined bool   `vql:"only_combined" doc:"Leave out logs and uploads: the rows of all clients together are always there."`
	Wait         bool   `vql:"wait" doc:"Return when the zip is there (at once, and it is made within an hour)."`
	Format       string `vql:"format" doc:"csv (JSON lines and CSV), json (JSON lines alone) or csv_only (csv)."`
	Base         string `vql:"base" doc:"What the name of the zip begins with (the hunt)."`
	Password     string `vql:"password" doc:"Encrypt by AES-256: the zip then has one member, data.zip."`
	ExpandSparse bool   `vql:"expand_sparse" doc:"Write sparse uploads with their holes, up to 64 GiB each."`
}

var createHuntDownloadFunction = vql.NewFunction(vql.Spec{
	Name: "create_hunt_download", Permission: "PREPARE_RESULTS",
	Doc: "Makes a zip of a hunt on the filestore (rows, logs and uploads of all clients, a manifest of hashes) and gives its path, which the accessor fs reads. It goes when the hunt is deleted.",
}, func(ctx context.Context, scope *vql.Scope, args *huntDownloadArgs) (vql.Value, error) {
	h, one, err := huntOf(scope, args.HuntID)
	if err != nil {
		return nil, err
	}
	if h.Downloads == nil {
		return nil, fmt.Errorf("make downloads: %w", ErrUnsupported)
	}
	place, err := h.Downloads.OfHunt(ctx, one.Key, DownloadOptions{
		Name: args.Base, Password: args.Password, Format: args.Format, Expand: args.ExpandSparse, RowsOnly: args.OnlyCombined, Wait: args.Wait,
	})
	if err != nil {
		return nil, err
	}
	h.downloaded(ctx, "hunt.download", one.Hunt.String(), map[string]string{"path": place})
	return place, nil
})

// downloadsIn lists the zips in a folder of downloads. Each is whole: one that is being
// made has no name yet. What cannot be read is told in the log.
func (h *Host) downloadsIn(ctx context.Context, scope *vql.Scope, dir string) []*vql.Dict {
	out := []*vql.Dict{}
	if h.Files == nil {
		return out
	}
	names, err := h.listDir(ctx, scope, dir)
	for _, name := range names {
		info, gone := h.Files.Stat(ctx, name)
		if gone != nil {
			err = errors.Join(err, gone)
			continue
		}
		out = append(out, vql.NewDict().Set("name", path.Base(name)).Set("path", name).Set("size", info.Size()).Set("date", info.ModTime().UTC()))
	}
	if err != nil {
		scope.Log(vql.LevelWarn, "downloads: %v", err)
	}
	return out
}

// downloaded leaves the audit line of a download.
func (h *Host) downloaded(ctx context.Context, operation, object string, details map[string]string) {
	if h.Audit != nil {
		h.Audit(ctx, operation, object, details)
	}
}

// ignored tells once that an argument has no effect.
func ignored(scope *vql.Scope, function, name, value string) {
	if value != "" {
		scope.Log(vql.LevelWarn, "%s: %s has no effect", function, name)
	}
}
