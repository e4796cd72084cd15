package api

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// arriveWithin is how long a server that was told to stop waits for connections that
// were made before and have not asked for anything yet.
const arriveWithin = time.Second

// arrivals are the connections of a server whose first request has not come. When it
// is shut down, net/http closes these without an answer, even if it has just read
// their request: on a new connection nobody can tell that from a request that was
// done, so clients do not repeat it by themselves.
type arrivals struct {
	gone chan struct{} // one slot: there is one less

	mu    sync.Mutex
	fresh map[net.Conn]struct{}
}

// arrival is the key of a connection in the contexts of its requests.
type arrival struct{}

// watch has arrivals follow a server that is not running yet.
func watch(server *http.Server) *arrivals {
	a := &arrivals{gone: make(chan struct{}, 1), fresh: map[net.Conn]struct{}{}}
	server.ConnState = func(c net.Conn, state http.ConnState) {
		switch state {
		case http.StateNew:
			a.mu.Lock()
			a.fresh[c] = struct{}{}
			a.mu.Unlock()
		case http.StateClosed, http.StateHijacked:
			a.remove(c)
		}
	}
	server.ConnContext = func(ctx context.Context, c net.Conn) context.Context { return context.WithValue(ctx, arrival{}, c) }
	next := server.Handler
	server.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c, ok := r.Context().Value(arrival{}).(net.Conn); ok {
			a.remove(c)
		}
		next.ServeHTTP(w, r)
	})
	return a
}

func (a *arrivals) remove(c net.Conn) {
	a.mu.Lock()
	_, known := a.fresh[c]
	delete(a.fresh, c)
	a.mu.Unlock()
	if known {
		select {
		case a.gone <- struct{}{}:
		default:
		}
	}
}

func (a *arrivals) any() bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.fresh) > 0
}

// settle lets those that have come be answered once each, for a moment.
func (a *arrivals) settle(ctx context.Context, server *http.Server) {
	server.SetKeepAlivesEnabled(false)
	ctx, cancel := context.WithTimeout(ctx, arriveWithin)
	defer cancel()
	a.wait(ctx)
}

// wait returns when all have asked for something or gone, or ctx ends.
func (a *arrivals) wait(ctx context.Context) {
	for a.any() {
		select {
		case <-a.gone:
		case <-ctx.Done():
			return
		}
	}
}
