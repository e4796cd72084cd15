package node

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"raptorpack/collections"
	"raptorpack/container"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/vql/server"
)

// wireDownloads makes what writes flows and hunts as zips.
func (n *Node) wireDownloads() {
	n.flowZips = collections.NewExporter(n.flows, n.clients)
	n.downloads = collections.NewDownloads(collections.DownloadsOptions{
		Store: n.store, Registerer: n.registry, Logger: n.component("collections"),
	})
}

// downloadMaker makes downloads for queries.
type downloadMaker struct{ n *Node }

// OfFlow implements server.Downloads.
func (d downloadMaker) OfFlow(ctx context.Context, key flows.Key, o server.DownloadOptions) (string, error) {
	if !container.KnownFormat(o.Format) {
		return "", fmt.Errorf("format %.40q: expected csv, json or csv_only: %w", o.Format, server.ErrArgument)
	}
	name := fmt.Sprintf("%s-%s", key.Client, key.Flow)
	if record, err := d.n.clients.Lookup(key.Org, key.Client); err == nil && record.Hostname != "" {
		name = record.Hostname + "-" + name
	}
	return d.n.downloads.Make(ctx, collections.Download{
		Dir: filestore.FlowDownloadsDir(key.Org, key.Client, key.Flow), Name: cmp.Or(o.Name, name), Password: o.Password, Wait: o.Wait,
		Write: func(ctx context.Context, w io.Writer) error {
			_, err := d.n.flowZips.Zip(ctx, key, w, collections.ExportOptions{Format: o.Format, Expand: o.Expand})
			return err
		},
		Wanted: func() bool {
			_, err := d.n.flows.Flow(key)
			return err == nil
		},
	})
}

// OfHunt implements server.Downloads.
func (d downloadMaker) OfHunt(ctx context.Context, key hunts.Key, o server.DownloadOptions) (string, error) {
	if !container.KnownFormat(o.Format) {
		return "", fmt.Errorf("format %.40q: expected csv, json or csv_only: %w", o.Format, server.ErrArgument)
	}
	wish := hunts.ZipOptions{Format: o.Format, Expand: o.Expand, RowsOnly: o.RowsOnly}
	if wish.Format == container.FormatCSV {
		wish.Format = ""
	}
	return d.n.downloads.Make(ctx, collections.Download{
		Dir: filestore.HuntDownloadsDir(key.Org, key.Hunt), Name: cmp.Or(o.Name, key.Hunt.String()), Password: o.Password, Wait: o.Wait,
		Write: func(ctx context.Context, w io.Writer) error {
			_, err := d.n.tables.Zip(ctx, key, w, wish)
			return err
		},
		Wanted: func() bool {
			h, err := d.n.hunts.Hunt(key)
			return err == nil && h.State != hunts.Deleted
		},
	})
}
