package server

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	"raptorpack/artifacts"
	"raptorpack/inventory"
)

// tool finds a tool of the inventory whose file is here; the master fetches one that
// is not.
func (r *repacking) tool(ctx context.Context, name, version string) (*inventory.Tool, error) {
	h, err := toolsOf(r.scope)
	if err != nil {
		return nil, err
	}
	t, err := h.Tools.Lookup(h.Org, name, version)
	if err != nil || t.File != nil {
		return t, err
	}
	if err := h.Inventory.Fetch(ctx, artifacts.Tool{Name: name, Version: version}); err != nil {
		return nil, err
	}
	if t, err = h.Tools.Lookup(h.Org, name, version); err == nil && t.File == nil {
		err = fmt.Errorf("tool %.80q: %w", name, inventory.ErrMissing)
	}
	return t, err
}

// target opens a copy of the program that the inventory has.
func (r *repacking) target(ctx context.Context) (*os.File, int64, error) {
	t, err := r.tool(ctx, r.args.Target, r.args.Version)
	if err != nil {
		return nil, 0, err
	}
	from, err := r.read(ctx, t)
	if err != nil {
		return nil, 0, err
	}
	defer from.Close() // only read
	return r.copied(from)
}

// binary is a tool that goes with the program, under the name that it has on clients.
func (r *repacking) binary(ctx context.Context, name string) (Packed, error) {
	t, err := r.tool(ctx, name, "")
	if err != nil {
		return Packed{}, err
	}
	return Packed{Name: t.Filename(), Open: func() (io.ReadCloser, error) { return r.read(ctx, t) }}, nil
}

func (r *repacking) read(ctx context.Context, t *inventory.Tool) (io.ReadCloser, error) {
	from, err := r.host.Inventory.Open(ctx, t)
	if err != nil {
		return nil, err
	}
	return &verified{ReadCloser: from, tool: t, sum: sha256.New()}, nil
}

// verified reads a tool's file and fails at its end when the hash is another.
type verified struct {
	io.ReadCloser
	tool *inventory.Tool
	sum  hash.Hash
}

// Read implements io.Reader.
func (v *verified) Read(p []byte) (int, error) {
	n, err := v.ReadCloser.Read(p)
	v.sum.Write(p[:n])
	if err == io.EOF { //nolint:errorlint // as readers give it
		if got := hex.EncodeToString(v.sum.Sum(nil)); got != v.tool.File.Hash {
			return n, fmt.Errorf("stored file of tool %.80q has SHA-256 %s, expected %s", v.tool.Name, got, v.tool.File.Hash)
		}
	}
	return n, err
}
