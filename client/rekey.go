package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"raptorpack/vql/endpoint"
)

var (
	errRekeying  = errors.New("the agent is about to throw its key away already")
	errNoKeyFile = errors.New("the agent's key is not its own to throw away")
)

var _ endpoint.Rekeyer = (*rekeyer)(nil)

// rekeyer takes the order to become another client.
type rekeyer struct {
	writeback *Writeback         // nil: the identity was handed in
	ordered   atomic.Bool        // the first order stands, others are refused
	order     chan time.Duration // one slot
}

// Rekey implements endpoint.Rekeyer.
func (r *rekeyer) Rekey(wait time.Duration) error {
	if r.writeback == nil {
		return errNoKeyFile
	}
	if !r.ordered.CompareAndSwap(false, true) {
		return errRekeying
	}
	r.order <- wait
	return nil
}

// run waits for the order and its time, then ends the agent with ErrRekeyed.
func (r *rekeyer) run(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return nil
	case wait := <-r.order:
		sleep(ctx, wait, nil)
	}
	if ctx.Err() != nil {
		return nil
	}
	return ErrRekeyed
}

// rekey makes the next start that of another client. The buffer goes first: what lies
// in it is the old one's, whose flows the new one must not run. A crash in between
// leaves the old key, and the order is lost.
func (c *Client) rekey() error {
	if c.options.Buffer.Dir != "" {
		if err := os.RemoveAll(c.options.Buffer.Dir); err != nil {
			return fmt.Errorf("rekey: empty the buffer: %w", err)
		}
	}
	identity, err := c.rekeyer.writeback.renew()
	if err != nil {
		return fmt.Errorf("rekey: %w", err)
	}
	c.logger.Warn("agent threw its key away", "client", c.identity.ID.String(), "next", identity.ID.String())
	return nil
}
