// Command benchvql measures the query host against the bare engine it wraps, glob
// against find and hash against sha256sum: processor time and allocations for each
// row, both sides in turn in one process, the median of several runs.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
)

type options struct {
	rows    int
	runs    int
	files   int
	hash    float64
	only    string
	folder  string
	profile string
}

func main() {
	var o options
	flag.IntVar(&o.rows, "rows", 30_000, "rows of each query")
	flag.IntVar(&o.runs, "runs", 5, "runs of each side, in turn; the median counts")
	flag.IntVar(&o.files, "files", 20_000, "files of the tree that glob and find walk; 0: none")
	flag.Float64Var(&o.hash, "hash", 0.25, "GB of the file that hash and sha256sum read; 0: none")
	flag.StringVar(&o.only, "only", "", "parts to measure, separated by commas (all)")
	flag.StringVar(&o.folder, "dir", os.TempDir(), "where the tree and the file are made, on a local disk")
	flag.StringVar(&o.profile, "profile", "", "write a processor profile of the host's side, of the last run, to this file")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "benchvql:", err)
		stop()
		os.Exit(1) //nolint:gocritic // stop was called
	}
}

// run measures all parts and prints the table. A figure beyond its aim is told in
// the table and is no error: the machine may be shared.
func run(ctx context.Context, o options) error {
	host, err := newHost()
	if err != nil {
		return err
	}
	t := &table{}
	for _, w := range workloads() {
		if !o.wants(w.name) || ctx.Err() != nil {
			continue
		}
		if err := measure(ctx, o, w, host, t); err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
	}
	t.print(os.Stdout)
	if o.wants("walk") && o.files > 0 && ctx.Err() == nil {
		if err := walkTree(ctx, o, host); err != nil {
			return fmt.Errorf("walk: %w", err)
		}
	}
	if o.wants("hash") && o.hash > 0 && ctx.Err() == nil {
		if err := hashFile(ctx, o, host); err != nil {
			return fmt.Errorf("hash: %w", err)
		}
	}
	return ctx.Err()
}

func (o options) wants(name string) bool {
	return o.only == "" || slices.Contains(strings.Split(o.only, ","), name)
}
