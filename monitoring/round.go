package monitoring

import (
	"context"
	"maps"
	"sync"

	"raptorpack/filestore"
	"raptorpack/flows"
)

const roundRows = 1000 // events of one round and artifact, or somewhat more

// roundKey finds the round in the context of a statement. Queries that a statement
// leaves behind, as a materialised LET does, have none.
type roundKey struct{}

// watched is what a query watches, over all its rounds.
type watched struct {
	q *query

	making chan struct{} // one element while somebody makes a follower; full: wait

	mu        sync.Mutex
	followers map[string]*follower
}

// follower reads one artifact for one query.
type follower struct {
	turn chan struct{} // one element while somebody uses it; full: wait
	*flows.Follower
}

func newWatched(q *query) *watched {
	return &watched{q: q, making: make(chan struct{}, 1), followers: map[string]*follower{}}
}

// close ends the followers: the next round begins at the place that was told.
func (w *watched) close() {
	w.mu.Lock()
	all := w.followers
	w.followers = map[string]*follower{}
	w.mu.Unlock()
	for _, f := range all {
		f.Close()
	}
}

// begin begins a round.
func (w *watched) begin() *round {
	return &round{w: w, closing: make(chan struct{}), ranges: map[string]*filestore.TailPage{}}
}

// Watch gives the events of the round in whose statement it is called: true. A call
// from anywhere else is not its own.
func (w *watched) Watch(ctx context.Context, artifact string, emit func(filestore.Row) error) (bool, error) {
	r, ok := ctx.Value(roundKey{}).(*round)
	if !ok || r.w != w {
		return false, nil
	}
	page, err := r.take(ctx, artifact)
	if err != nil {
		return true, err
	}
	for _, row := range page.Rows {
		if err := emit(row); err != nil {
			return true, err
		}
	}
	return true, nil
}

// round is one run of a query's last statement.
type round struct {
	w       *watched
	closing chan struct{} // closed once some source has events: the others give what they have

	mu     sync.Mutex
	once   sync.Once
	ranges map[string]*filestore.TailPage // what each source gives in this round
}

// began reports whether events were taken.
func (r *round) began() bool {
	select {
	case <-r.closing:
		return true
	default:
		return false
	}
}

// take returns the events of an artifact in this round. The first source waits for
// some; the others take what is there.
func (r *round) take(ctx context.Context, artifact string) (*filestore.TailPage, error) {
	f, err := r.w.follow(ctx, artifact)
	if err != nil {
		return nil, err
	}
	select {
	case f.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-f.turn }()
	if page := r.fixed(artifact); page != nil {
		return page, nil
	}
	for {
		late := r.began()
		page, err := f.Look(ctx, roundRows)
		if err != nil {
			return nil, err
		}
		if len(page.Rows) > 0 || late {
			r.fix(artifact, page)
			return page, nil
		}
		if !f.Wait(ctx, r.closing) && ctx.Err() != nil {
			return nil, ctx.Err()
		}
	}
}

func (r *round) fixed(artifact string) *filestore.TailPage {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.ranges[artifact]
}

func (r *round) fix(artifact string, page *filestore.TailPage) {
	r.mu.Lock()
	r.ranges[artifact] = page
	r.mu.Unlock()
	r.once.Do(func() {
		r.w.q.rows.hold() // before the first event is emitted
		close(r.closing)
	})
}

// follow finds or makes the follower of an artifact. One that never had a place
// begins behind what is stored now; that is told before anything else, so that
// whoever leads next begins there too.
func (w *watched) follow(ctx context.Context, artifact string) (*follower, error) {
	select {
	case w.making <- struct{}{}:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	defer func() { <-w.making }()
	if f := w.known(artifact); f != nil {
		return f, nil
	}
	places := w.q.t.place(w.q.placeKey()).Places
	made, err := w.q.r.o.Flows.FollowEvents(flows.FollowOptions{Org: w.q.plan.key.org, Name: artifact, Place: places[artifact]})
	if err != nil {
		return nil, err
	}
	if places[artifact] == "" {
		if err := w.anchor(ctx, artifact, made, places); err != nil {
			made.Close()
			return nil, err
		}
	}
	f := &follower{turn: make(chan struct{}, 1), Follower: made}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.followers[artifact] = f
	return f, nil
}

func (w *watched) known(artifact string) *follower {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.followers[artifact]
}

// anchor tells the first place of an artifact.
func (w *watched) anchor(ctx context.Context, artifact string, f *flows.Follower, places map[string]string) error {
	page, err := f.Look(ctx, 1)
	if err != nil {
		return err
	}
	places = maps.Clone(places)
	if places == nil {
		places = map[string]string{}
	}
	places[artifact] = page.Place
	read := w.q.read(places, 0)
	if err := w.q.rows.tell(ctx, read); err != nil {
		return err
	}
	w.q.told(read)
	return nil
}

// end is how far the round came; nil when nothing was watched in it.
func (r *round) end() *flows.ServerRead {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.ranges) == 0 {
		return nil
	}
	places := maps.Clone(r.w.q.t.place(r.w.q.placeKey()).Places)
	var events int64
	for artifact, page := range r.ranges {
		places[artifact] = page.Place
		events += int64(len(page.Rows))
	}
	return r.w.q.read(places, events)
}

// more reports whether more events wait already.
func (r *round) more() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, page := range r.ranges {
		if page.More {
			return true
		}
	}
	return false
}
