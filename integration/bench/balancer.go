package main

import (
	"context"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"
)

// balancer leads the connections of a process to one node while that says that it
// serves, and lets them go where they like otherwise.
type balancer struct {
	home   *url.URL // nil: none
	serves atomic.Bool
}

// newBalancer makes one for a server's address; with an empty one it does nothing.
func newBalancer(address string) *balancer {
	b := &balancer{}
	if home, err := url.Parse(address); err == nil && home.Host != "" {
		b.home = home
		b.serves.Store(true)
	}
	return b
}

func (b *balancer) route(target string) string {
	if b.home == nil || !b.serves.Load() {
		return target
	}
	return b.home.Host
}

// watch asks the node twice a second until ctx ends, as balancers do.
func (b *balancer) watch(ctx context.Context) {
	if b.home == nil {
		return
	}
	caller := http.Client{Timeout: 5 * time.Second} // a busy node is not a dead one
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		response, err := caller.Get(b.home.JoinPath("healthz").String()) //nolint:noctx // has its limit
		b.serves.Store(err == nil && response.StatusCode == http.StatusOK)
		if err == nil {
			response.Body.Close()
		}
	}
}
