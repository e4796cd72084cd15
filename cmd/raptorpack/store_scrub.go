package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"raptorpack/filestore"
)

func newStoreScrub(o *storeFlags) *cobra.Command {
	rate := 0.0
	c := &cobra.Command{
		Use: "scrub", Short: "Read the whole store and tell what is damaged; the exit code is 6 when anything is", Args: cobra.NoArgs,
		Long: `Read everything that should be readable and tell what is not as it was written:
the ledger with its chain and seals, snapshots, blobs, every member of every
segment (header, checksums, lengths), seals against the files that they name,
rows that ended collections know, uploads against their recorded SHA-256, the
audit trail. Findings are rows; the exit code is 6 if there are any.

It may run beside a live pack: what is being written is no damage, what is being
deleted is passed over, and what looks wrong in the files of a node that runs is
looked at again. Segments are read up to three times, mostly from the cache.
Uploads that are not finished, and facts on their way, are left out. Holes and
contradictions are for 'raptorpack filestore check' to tell.`,
		Example: "  raptorpack filestore scrub --config server.yaml --rate 50\n" +
			"  raptorpack filestore scrub --datastore /backup/pack --format table",
		RunE: func(c *cobra.Command, _ []string) error {
			if !(rate >= 0) {
				return usage("--rate %v: expected MB/s, or 0 for as fast as it goes", rate)
			}
			return o.scrub(c, rate*1e6)
		},
	}
	c.Flags().Float64Var(&rate, "rate", 0, "how much is read at most, in MB/s (1,000,000 bytes a second); 0: as fast as it goes")
	return c
}

// scrub reads the store that the flags name.
func (o *storeFlags) scrub(c *cobra.Command, perSecond float64) error {
	root, err := o.root(c)
	if err != nil {
		return err
	}
	p, err := o.g.printer(c, finding{}.columns()...)
	if err != nil {
		return err
	}
	disk, err := filestore.OpenOS(root)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.Context())
	defer cancel()
	s := &scrubber{disk: disk, meter: &meter{perSecond: perSecond, over: ctx.Done()}, findings: make(chan finding)}
	damaged, err := s.print(ctx, cancel, p, o.g.progress(c))
	if err = errors.Join(err, disk.Close()); err != nil {
		return err
	}
	o.g.noter(c)("ledger to entry %d, %d snapshots, %d blobs, %d sets with %d rows and %d uploads read, %s in all: %d damaged",
		s.ledger.LastIndex, s.ledger.Snapshots, s.blobs, s.sets, s.rows, s.uploads, byteCount(s.meter.read.Load()), damaged)
	if damaged > 0 {
		return &exitError{exitPartly, fmt.Errorf("%d damaged places in the store", damaged)}
	}
	return nil
}

// print runs the scrub, prints findings as they come and draws the progress
// meanwhile. cancel ends the scrub.
func (s *scrubber) print(ctx context.Context, cancel func(), p *printer, show *progress) (damaged int, err error) {
	ended := make(chan error, 1) // one value
	go func() { ended <- s.run(ctx) }()
	tick := time.NewTicker(progressEvery)
	defer tick.Stop()
	for {
		select {
		case f := <-s.findings:
			damaged++
			show.done()
			if err := p.finding(f); err != nil {
				cancel()
				<-ended
				return damaged, err
			}
		case <-tick.C:
			show.line("%s read, %d damaged; now %s", byteCount(s.meter.read.Load()), damaged, s.now())
		case err := <-ended:
			show.done()
			return damaged, errors.Join(err, p.close())
		}
	}
}

// finding prints a finding at once, but for tables, whose widths come from all rows.
func (p *printer) finding(f finding) error {
	if err := p.value(f); err != nil || p.format == "table" {
		return err
	}
	return p.flush()
}
