package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// killedAt is the part of a hunt's clients that are through when a node is killed.
const killedAt = 0.3

// failover kills the master in the middle of a hunt, then a minion in the middle of
// the next: nobody takes part twice, no row is lost or doubled.
func (r *packRun) failover(ctx context.Context) error {
	if err := r.standing(ctx); err != nil {
		return err
	}
	if err := r.killed(ctx, "master", 0); err != nil {
		return err
	}
	// A node that comes back is the last of the list: the second one leads now.
	return r.killed(ctx, "minion", 1)
}

// killed hunts, kills a node in the middle, and starts it again afterwards.
func (r *packRun) killed(ctx context.Context, role string, at int) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	name := "failover-" + role
	w, begun := r.watch(ctx), time.Now()
	var h hunted
	var dead *server
	var died time.Duration
	id, err := r.door().startHunt(ctx, oneRowArtifact)
	if err == nil {
		h, err = r.follow(ctx, w, id, r.clients, begun, 10*time.Minute, func(now hunt) error {
			if dead != nil || float64(now.over()) < killedAt*float64(r.clients) {
				return nil
			}
			died = time.Since(begun)
			w.mark(fmt.Sprintf("%s killed", role))
			dead, err = r.kill(at)
			return err
		})
	}
	if err == nil && dead == nil {
		err = fmt.Errorf("%w: the hunt was over before anybody could be killed", errSettings)
	}
	if err = errors.Join(err, w.end(name)); err != nil {
		return err
	}
	if err := r.recount(ctx, h, oneRowArtifact, r.clients, 1); err != nil {
		return err
	}
	samples := fmt.Sprintf("%d clients, killed %.1f s after the start", r.clients, died.Seconds())
	r.add(figure{what: fmt.Sprintf("hunt in which the %s is killed, to the last row", role), unit: "s", measured: h.took.Seconds(), samples: samples})
	return r.revive(ctx, dead)
}

// kill ends a node without a word, and takes it off the list.
func (r *packRun) kill(at int) (*server, error) {
	nodes := r.nodes()
	s := nodes[at]
	r.put(slices.Delete(nodes, at, at+1))
	s.door.close()
	if err := s.command.Process.Kill(); err != nil {
		return s, err
	}
	_ = s.command.Wait() // it was killed
	return s, s.log.Close()
}

// revive starts a node that was killed, and waits until it and all clients are back.
func (r *packRun) revive(ctx context.Context, dead *server) error {
	number, err := strconv.Atoi(strings.TrimPrefix(dead.node, "n"))
	if err != nil {
		return err
	}
	s, err := r.startNode(ctx, dead.name, filepath.Join(r.out, dead.name, "server.yaml"), number)
	if err != nil {
		return err
	}
	r.put(append(r.nodes(), s))
	if err := s.ready(ctx); err != nil {
		return fmt.Errorf("%s (log in %s): %w", s.node, s.log.Name(), err)
	}
	err = until(ctx, 200*time.Millisecond, 5*time.Minute, func() (bool, error) { return r.stats().Connected == r.clients, nil })
	if err != nil {
		return fmt.Errorf("clients after %s was started again: %w: %+v", s.node, err, r.stats().Status)
	}
	return nil
}
