package node

import (
	"context"
	"io"
	"io/fs"
	"time"

	"raptorpack/api"
	"raptorpack/artifacts"
	"raptorpack/filestore"
	"raptorpack/frontend"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
)

// wireTools makes the inventory over the artifacts that this node knows.
func (n *Node) wireTools() {
	n.tools = inventory.New(inventory.Options{Declared: func(org ids.Org) []artifacts.DeclaredTool {
		return n.artifacts.Repository(org).Tools()
	}})
	n.toolFiles = inventory.NewFiles(n.store, 0, n.registry)
}

// fetchTools fetches what was asked for while this node leads.
func (n *Node) fetchTools() *inventory.Fetcher {
	return inventory.NewFetcher(inventory.FetcherOptions{
		Room: n.tools, Files: n.toolFiles, Logger: n.component("inventory"),
		Propose: func(ctx context.Context, m *buspb.Mutation) error { return n.ledger.Propose(ctx, m) },
	})
}

// toolVariables are what artifacts are told of a tool that they declare.
func (n *Node) toolVariables(t artifacts.Tool) ([]artifacts.Value, error) {
	tool, err := n.tools.Lookup(ids.RootOrg, t.Name, t.Version)
	if err != nil {
		return nil, err
	}
	return tool.Variables(n.o.Config.Client.ServerURLs)
}

// toolKeeper changes tools in the name of who asks a query.
type toolKeeper struct {
	n   *Node
	api *api.Server
	who *api.Principal
}

// Variables implements server.Inventory.
func (k toolKeeper) Variables(t artifacts.Tool) ([]artifacts.Value, error) {
	return k.n.toolVariables(t)
}

// Fetch implements server.Inventory.
func (k toolKeeper) Fetch(ctx context.Context, t artifacts.Tool) error {
	return k.api.FetchTool(ctx, k.who, t)
}

// Open implements server.Inventory.
func (k toolKeeper) Open(ctx context.Context, t *inventory.Tool) (io.ReadCloser, error) {
	handle, err := k.n.toolFiles.Open(ctx, ids.RootOrg, t.File)
	if err != nil {
		return nil, err
	}
	return &toolReader{ctx, handle, 0}, nil
}

// toolReader reads a tool's file once, from its beginning.
type toolReader struct {
	ctx    context.Context //nolint:containedctx // lives as long as one call
	handle *filestore.Handle
	at     int64
}

// Read implements io.Reader.
func (r *toolReader) Read(p []byte) (int, error) {
	n, err := r.handle.ReadAt(r.ctx, p, r.at)
	r.at += int64(n)
	return n, err
}

// Close implements io.Closer.
func (r *toolReader) Close() error { return r.handle.Close(context.WithoutCancel(r.ctx)) }

// Set implements server.Inventory.
func (k toolKeeper) Set(ctx context.Context, t artifacts.Tool) error {
	return k.api.SetTool(ctx, k.who, t)
}

// Upload implements server.Inventory.
func (k toolKeeper) Upload(ctx context.Context, from io.Reader, t artifacts.Tool, hash string) error {
	got, err := k.n.toolFiles.Receive(ctx, ids.RootOrg, from)
	if err != nil {
		return err
	}
	wish := inventory.Upload{Name: t.Name, Version: t.Version, Filename: t.Filename, File: got, Setter: k.who.Name}
	return k.api.StoreTool(ctx, k.who, wish, hash)
}

// publicFiles gives clients the files of tools, and nothing else of the store.
type publicFiles struct{ n *Node }

// Open implements frontend.Public.
func (p publicFiles) Open(ctx context.Context, name string) (*frontend.PublicFile, error) {
	file, org, err := p.find(ctx, name)
	if err != nil {
		return nil, err
	}
	handle, err := p.n.toolFiles.Open(ctx, org, file)
	if err != nil {
		return nil, err
	}
	return &frontend.PublicFile{
		Hash: file.Hash, Size: file.Size, At: file.At, ReadAt: handle.ReadAt,
		Close: func(ctx context.Context) { _ = handle.Close(ctx) }, // it was only read
	}, nil
}

// find looks for a file until this node knows all that the ledger held when it was
// asked: another node, which was ahead, may have told the client of it. The master is
// not asked, since anybody may make up names.
func (p publicFiles) find(ctx context.Context, name string) (*inventory.File, ids.Org, error) {
	if !inventory.MayName(name) {
		return nil, ids.Org{}, fs.ErrNotExist
	}
	start := time.Now()
	look := time.NewTicker(lookAgain)
	defer look.Stop()
	for {
		age, heard := p.n.ledger.Age()
		caughtUp := heard && age <= time.Since(start)
		if file, org, known := p.n.tools.Public(name); known {
			return file, org, nil
		}
		switch {
		case caughtUp:
			return nil, ids.Org{}, fs.ErrNotExist
		case time.Since(start) > lookWithin:
			return nil, ids.Org{}, errStale
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return nil, ids.Org{}, ctx.Err()
		}
	}
}

const (
	lookAgain  = 50 * time.Millisecond
	lookWithin = 5 * time.Second
)
