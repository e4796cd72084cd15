package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/vql"
)

type uploadsArgs struct {
	ClientID   string `vql:"client_id" doc:"The client (the variable ClientId)."`
	FlowID     string `vql:"flow_id" doc:"The flow (the variable FlowId)."`
	HuntID     string `vql:"hunt_id" doc:"All flows of a hunt."`
	NotebookID string `vql:"notebook_id" doc:"A notebook; of one, this version keeps timelines only."`
}

var uploadsPlugin = vql.NewPlugin(vql.Spec{
	Name: "uploads", Permission: "READ_RESULTS", Doc: "Lists the finished uploads of a flow, or of all flows of a hunt. The accessor fs opens vfs_path.",
	Columns: []string{
		"vfs_path", "file_size", "uploaded_size", "started", "client_path", "Upload", "_Components", "_accessor", "ClientId", "FlowId",
	},
}, func(ctx context.Context, scope *vql.Scope, args *uploadsArgs, emit vql.Emit) error {
	h, err := hostOf(scope)
	if err != nil {
		return err
	}
	switch {
	case args.NotebookID != "":
		return fmt.Errorf("list uploads of a notebook: %w", ErrUnsupported)
	case args.HuntID != "" && args.ClientID+args.FlowID != "":
		return fmt.Errorf("hunt_id goes without client_id and flow_id: %w", ErrArgument)
	case args.HuntID != "":
		return huntUploads(ctx, scope, args.HuntID, emit)
	}
	key, err := h.keyFrom(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	return h.uploadsOf(ctx, key, emit)
})

func (h *Host) uploadsOf(ctx context.Context, key flows.Key, emit vql.Emit) error {
	all, err := h.Flows.Uploads(ctx, key)
	if err != nil {
		return err
	}
	for _, u := range all {
		if err := emit(uploadRow(key, u)); err != nil {
			return err
		}
	}
	return nil
}

func uploadRow(key flows.Key, u flows.Upload) *vql.Dict {
	shown := vql.NewDict().Set("Path", u.Source).Set("Size", u.Size).Set("StoredSize", u.StoredSize).Set("sha256", u.SHA256).
		Set("Components", list(u.Components)).Set("Accessor", u.Accessor).Set("UploadId", u.Number).Set("Sparse", u.Sparse)
	return vql.NewDict().
		Set("vfs_path", u.StoredPath).
		Set("file_size", u.Size).
		Set("uploaded_size", u.StoredSize).
		Set("started", u.Finished).
		Set("client_path", clientPath(u)).
		Set("Upload", shown).
		Set("_Components", list(u.Components)).
		Set("_accessor", u.Accessor).
		Set("ClientId", key.Client.String()).
		Set("FlowId", key.Flow.String())
}

// clientPath is the file's name on the client, put together when the client did
// not say it.
func clientPath(u flows.Upload) string {
	if u.Source != "" {
		return u.Source
	}
	return strings.Join(u.Components, "/")
}

var enumerateFlowPlugin = vql.NewPlugin(vql.Spec{
	Name: "enumerate_flow", Permission: "READ_RESULTS", Doc: "Lists every file of a flow.", Columns: []string{"type", "data"},
}, func(ctx context.Context, scope *vql.Scope, args *flowArgs, emit vql.Emit) error {
	h, key, err := flowOf(scope, args.ClientID, args.FlowID)
	if err != nil {
		return err
	}
	f, err := h.Flows.Flow(key)
	if err != nil {
		return err
	}
	files, err := h.filesOf(ctx, scope, f)
	if err != nil {
		return err
	}
	for _, file := range files {
		if err := emit(file.row()); err != nil {
			return err
		}
	}
	return nil
})

// flowFile is one file of a flow on the filestore.
type flowFile struct{ kind, path string }

func (f flowFile) row() *vql.Dict {
	return vql.NewDict().Set("type", f.kind).Set("data", vql.NewDict().Set("VFSPath", f.path))
}

// filesOf lists what the filestore holds of a flow alone. Segments that it shares
// with a hunt's other flows are not its own.
func (h *Host) filesOf(ctx context.Context, scope *vql.Scope, f *flows.Flow) ([]flowFile, error) {
	dir := filestore.FlowDir(f.Org, f.Client, f.Flow)
	var out []flowFile
	for _, set := range f.Sets() {
		name := set.String()
		below, own := strings.CutPrefix(name, dir+"/")
		if !own {
			if below, own = strings.CutPrefix(name, filestore.FlowUploadsDir(f.Org, f.Client, f.Flow)); !own {
				continue
			}
			below = "uploads" + below
		}
		files, err := h.listDir(ctx, scope, name)
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			out = append(out, flowFile{kindOf(below), file})
		}
	}
	uploads, err := h.uploadFiles(ctx, f)
	if err != nil {
		return nil, err
	}
	out = append(out, uploads...)
	views, err := h.listDir(ctx, scope, dir)
	for _, file := range views {
		out = append(out, flowFile{"CollectionContext", file})
	}
	return out, err
}

// uploadFiles lists the files that a flow's finished uploads lie in.
func (h *Host) uploadFiles(ctx context.Context, f *flows.Flow) ([]flowFile, error) {
	uploads, err := h.Flows.Uploads(ctx, f.Key)
	if err != nil {
		return nil, err
	}
	var out []flowFile
	for _, u := range uploads {
		out = append(out, flowFile{"Upload", u.StoredPath})
		if u.Sparse {
			out = append(out, flowFile{"UploadIndex", u.StoredPath + ".idx"})
		}
	}
	return out, nil
}

// kindOf names what a set of a flow holds, by its folder.
func kindOf(below string) string {
	switch first, _, _ := strings.Cut(below, "/"); first {
	case "logs":
		return "Log"
	case "uploads":
		return "UploadMetadata"
	}
	return "Result"
}

// listDir lists the plain files of a folder, which need not exist.
func (h *Host) listDir(ctx context.Context, scope *vql.Scope, dir string) ([]string, error) {
	if h.Files == nil {
		return nil, fmt.Errorf("list %s: %w", dir, ErrUnsupported)
	}
	if err := scope.Charge(ctx); err != nil {
		return nil, err
	}
	entries, err := h.Files.ReadDirEntries(ctx, dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list %s: %w", dir, err)
	}
	var out []string
	for _, e := range entries {
		if !e.IsDir() {
			out = append(out, path.Join(dir, e.Name()))
		}
	}
	return out, nil
}
