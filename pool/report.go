package pool

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// Source is a pool that says how far it is: Pool or Split.
type Source interface{ Stats() Stats }

// Report writes a line of progress for people each second until ctx ends.
func Report(ctx context.Context, w io.Writer, from Source) error {
	begun, last := time.Now(), Status{}
	return each(ctx, func() error {
		s := from.Stats().Status
		_, err := fmt.Fprintf(w, "%5.0fs started %d/%d away %d connected %d enrolled %d sockets %d flows %d (+%d) failed %d rows %d (+%d) uploaded %d MB errors %d\n",
			time.Since(begun).Seconds(), s.Started, s.Clients, s.Away, s.Connected, s.Enrolled, s.Sockets, s.Flows, s.Flows-last.Flows, s.FailedFlows,
			s.Rows, s.Rows-last.Rows, s.UploadBytes>>20, s.Failures+s.DialErrors)
		last = s
		return err
	})
}

// Record writes Stats as a line of JSON each second until ctx ends, and one more then.
func Record(ctx context.Context, w io.Writer, from Source) error {
	lines := json.NewEncoder(w)
	write := func() error { return lines.Encode(from.Stats()) }
	if err := each(ctx, write); err != nil {
		return err
	}
	if err := write(); err != nil {
		return fmt.Errorf("write progress: %w", err)
	}
	return nil
}

// each calls write each second until ctx ends.
func each(ctx context.Context, write func() error) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := write(); err != nil {
			return fmt.Errorf("write progress: %w", err)
		}
	}
}
