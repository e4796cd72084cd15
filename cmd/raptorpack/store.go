package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"google.golang.org/protobuf/proto"

	"raptorpack/artifacts"
	"raptorpack/clients"
	"raptorpack/config"
	"raptorpack/filestore"
	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/inventory"
	"raptorpack/proto/buspb"
	"raptorpack/queues"
	"raptorpack/replication"
	"raptorpack/users"
)

// newStore are the commands that read a store folder, beside a running pack or
// without one. None of them writes.
func newStore(g *globals) []*cobra.Command {
	o := &storeFlags{g: g}
	ledger := &cobra.Command{Use: "ledger", Short: "Read and check the ordered log of a store"}
	ledger.AddCommand(
		&cobra.Command{
			Use: "cat", Short: "Print the ledger as JSON lines", Args: cobra.NoArgs,
			Example: "  raptorpack ledger cat --datastore /srv/pack | jq .kind",
			RunE: func(c *cobra.Command, _ []string) error {
				return o.with(c, func(ctx context.Context, store *filestore.Store) error {
					out := bufio.NewWriter(c.OutOrStdout())
					err := replication.Cat(ctx, store, out, bodies())
					return errors.Join(err, out.Flush())
				})
			},
		},
		&cobra.Command{
			Use: "verify", Short: "Check every record, seal, blob and snapshot", Args: cobra.NoArgs,
			Example: "  raptorpack ledger verify --config server.yaml",
			RunE:    func(c *cobra.Command, _ []string) error { return o.with(c, o.verifyLedger(c)) },
		})
	files := &cobra.Command{Use: "filestore", Short: "Check, export and measure a store folder"}
	files.AddCommand(newStoreExport(o),
		&cobra.Command{
			Use: "check [CLIENT [FLOW]]", Short: "Check all segments and uploads; the exit code is 1 when any is damaged", Args: cobra.MaximumNArgs(2),
			Long: `Inflate every segment and check all checksums, hash every upload, and hold the
rows of completed collections against their records. Findings are rows; damage
and contradictions make the exit code 1, holes in collections that may still
come in make it 6. A torn end is normal where a node is writing or was killed:
nobody was told of what lies there.`,
			Example: "  raptorpack filestore check --datastore /srv/pack --format table",
			RunE: func(c *cobra.Command, args []string) error {
				return o.with(c, func(ctx context.Context, store *filestore.Store) error { return o.check(ctx, c, store, args) })
			},
		},
		newStoreScrub(o),
		&cobra.Command{
			Use: "usage", Short: "What takes room in a store", Args: cobra.NoArgs,
			Example: "  raptorpack filestore usage --datastore /srv/pack --format table",
			RunE:    func(c *cobra.Command, _ []string) error { return o.usage(c) },
		})
	for _, c := range []*cobra.Command{ledger, files} {
		c.PersistentFlags().StringVar(&o.folder, "datastore", "", "the store's folder; left out: as --config says")
		g.formatFlag(c)
	}
	return []*cobra.Command{ledger, files}
}

type storeFlags struct {
	g      *globals
	folder string
}

// root is the folder that the flags name.
func (o *storeFlags) root(c *cobra.Command) (string, error) {
	root := o.folder
	if root == "" {
		if o.g.config == "" {
			return "", usage("which store? Give --datastore DIR or --config server.yaml")
		}
		loaded, err := o.g.load(c, config.Options{})
		if err != nil {
			return "", err
		}
		root = loaded.Datastore.FilestoreDirectory
	}
	if info, err := os.Stat(root); err != nil {
		return "", &exitError{exitUsage, err}
	} else if !info.IsDir() {
		return "", usage("%s is not a folder", root)
	}
	return root, nil
}

// with runs work on the opened store.
func (o *storeFlags) with(c *cobra.Command, work func(context.Context, *filestore.Store) error) error {
	root, err := o.root(c)
	if err != nil {
		return err
	}
	logger, err := o.g.logger(c.ErrOrStderr(), "")
	if err != nil {
		return err
	}
	store, err := filestore.Open(root, filestore.Options{Logger: logger})
	if err != nil {
		return err
	}
	err = work(c.Context(), store)
	return errors.Join(err, store.Close(context.WithoutCancel(c.Context())))
}

// bodies says what the ledger's mutations hold, for printing them.
func bodies() map[string]proto.Message {
	return map[string]proto.Message{
		clients.Kind: &buspb.ClientChanges{}, flows.Kind: &buspb.FlowsBody{}, flows.MonitoringKind: &buspb.MonitoringBody{},
		users.Kind: &buspb.UserChange{}, artifacts.Kind: &buspb.ArtifactChange{}, inventory.Kind: &buspb.ToolChange{}, queues.Kind: &buspb.QueuesWritten{}, flows.EventDeletionsKind: &buspb.EventsDeleted{},
	}
}

func (o *storeFlags) verifyLedger(c *cobra.Command) func(context.Context, *filestore.Store) error {
	return func(ctx context.Context, store *filestore.Store) error {
		report, err := replication.Verify(ctx, store)
		p, perr := o.g.printer(c)
		if perr != nil {
			return perr
		}
		row := struct {
			replication.Report
			Chain string `json:"chain"`
			Error string `json:"error,omitempty"`
		}{report, fmt.Sprintf("%x", report.Chain), errorText(err)}
		if perr := errors.Join(p.value(row), p.close()); perr != nil {
			return perr
		}
		return err
	}
}

func errorText(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// reader merges the segments of a store as a node does: files of sealed
// incarnations count up to their seal.
func reader(ctx context.Context, store *filestore.Store) (*filestore.Reader, error) {
	all, err := store.Incarnations(ctx)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	seals := map[string]*filestore.Seal{}
	for _, info := range all {
		if !info.Sealed {
			continue
		}
		if seals[info.Name], err = store.ReadSeal(ctx, info.Name); err != nil {
			return nil, fmt.Errorf("seal of %s: %w", info.Name, err)
		}
	}
	return filestore.NewReader(filestore.ReaderOptions{Store: store, Sealed: func(path string) (int64, bool) {
		seal := seals[filestore.SegmentIncarnation(path)]
		if seal == nil {
			return 0, false
		}
		length, named := seal.Lengths[path]
		return length, named
	}}), nil
}

func newStoreExport(o *storeFlags) *cobra.Command {
	var logs bool
	c := &cobra.Command{
		Use: "export CLIENT FLOW NAME", Short: "Print the stored rows of a result exactly, each once", Args: cobra.RangeArgs(2, 3),
		Long: "Print the stored rows of a result exactly, each once. Missing rows and damaged\n" +
			"files are told, and the exit code is 6; a torn end is normal where a node is\n" +
			"writing or was killed.",
		Example: "  raptorpack filestore export C.0123456789abcdef F.D1ABC Linux.Sys.Pslist --datastore /srv/pack\n" +
			"  raptorpack filestore export C.0123456789abcdef F.D1ABC --logs --datastore /srv/pack",
		RunE: func(c *cobra.Command, args []string) error {
			set, err := setOf(args, logs)
			if err != nil {
				return err
			}
			return o.with(c, func(ctx context.Context, store *filestore.Store) error {
				if _, err := store.ReadDir(ctx, set.String()); errors.Is(err, fs.ErrNotExist) {
					return &exitError{exitNotFound, fmt.Errorf("the store has no %s", set)}
				}
				return o.export(ctx, c, store, set)
			})
		},
	}
	c.Flags().BoolVar(&logs, "logs", false, "the query log instead of a result")
	return c
}

func setOf(args []string, logs bool) (filestore.Set, error) {
	client, err := ids.ParseClient(args[0])
	if err != nil {
		return "", &exitError{exitUsage, err}
	}
	flow, err := ids.ParseFlow(args[1])
	if err != nil {
		return "", &exitError{exitUsage, err}
	}
	switch {
	case logs && len(args) == 2:
		return filestore.FlowLogs(ids.RootOrg, client, flow), nil
	case logs || len(args) != 3:
		return "", usage("give a NAME as Artifact or Artifact/Source, or --logs")
	}
	return filestore.FlowResults(ids.RootOrg, client, flow, args[2]), nil
}

func (o *storeFlags) export(ctx context.Context, c *cobra.Command, store *filestore.Store, set filestore.Set) error {
	r, err := reader(ctx, store)
	if err != nil {
		return err
	}
	out := bufio.NewWriter(c.OutOrStdout())
	report, err := r.Export(ctx, set, filestore.RowsFilter{}, out)
	if err = errors.Join(err, out.Flush()); err != nil {
		return err
	}
	note := o.g.noter(c)
	for _, hole := range report.Holes {
		note("rows %d to %d are missing", hole.Rows.Start, hole.Rows.End-1)
	}
	damaged := 0
	for _, d := range report.Damage {
		note("%s at %d: %s", d.Path, d.Offset, d.Kind)
		if harm(d.Kind) {
			damaged++
		}
	}
	note("%d rows", report.Rows)
	if len(report.Holes)+damaged > 0 {
		return &exitError{exitPartly, fmt.Errorf("%d ranges of rows are missing, %d places are damaged", len(report.Holes), damaged)}
	}
	return nil
}

// harm reports whether damage of a kind may have taken rows: a torn end, and what a
// killed node wrote beyond its seal, hold nothing that anybody was told of.
func harm(kind filestore.DamageKind) bool {
	return kind != filestore.DamageTorn && kind != filestore.DamageBeyondSeal
}

// usage measures the store by what lies at the top of it, and by the kind of
// file below clients.
func (o *storeFlags) usage(c *cobra.Command) error {
	root, err := o.root(c)
	if err != nil {
		return err
	}
	type sum struct {
		What  string `json:"what"`
		Files int64  `json:"files"`
		Bytes int64  `json:"bytes"`
	}
	sums := map[string]*sum{}
	err = filepath.WalkDir(root, func(name string, entry fs.DirEntry, err error) error {
		if c.Context().Err() != nil {
			return context.Cause(c.Context())
		}
		if err != nil || entry.IsDir() {
			return ignoreGone(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreGone(err)
		}
		below, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		what := areaOf(filepath.ToSlash(below))
		if sums[what] == nil {
			sums[what] = &sum{What: what}
		}
		sums[what].Files++
		sums[what].Bytes += info.Size()
		return nil
	})
	if err != nil {
		return fmt.Errorf("measure store: %w", err)
	}
	p, err := o.g.printer(c, column{"WHAT", "what"}, column{"FILES", "files"}, column{"BYTES", "bytes"})
	if err != nil {
		return err
	}
	for _, what := range sortedKeys(sums) {
		if err := p.value(sums[what]); err != nil {
			return err
		}
	}
	return p.close()
}

// ignoreGone passes over what a running pack removed meanwhile.
func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// areaOf names what a file is part of.
func areaOf(file string) string {
	parts := strings.Split(file, "/")
	top := parts[0]
	if top != "clients" || len(parts) < 5 {
		return top
	}
	for _, kind := range []string{"results", "logs", "uploads"} {
		if slices.Contains(parts[3:], kind) {
			return path.Join(top, kind)
		}
	}
	return path.Join(top, "other")
}
