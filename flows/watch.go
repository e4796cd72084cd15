package flows

// Watch follows one flow live. Changes are not queued: a signal says "look
// again", and one that is not picked up in time stands for all that follow.
type Watch struct {
	room *Room
	key  Key
	c    chan struct{} // one slot; a full slot needs no second signal
}

// Watch begins to follow a flow, which need not exist yet. Look once before the
// first wait; Close it in the end.
func (r *Room) Watch(key Key) *Watch {
	w := &Watch{room: r, key: key, c: make(chan struct{}, 1)}
	s := r.shard(key.owner())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watch[key] == nil {
		s.watch[key] = map[*Watch]struct{}{}
	}
	s.watch[key][w] = struct{}{}
	return w
}

// C signals that the record, the progress or what is stored has changed. It is
// never closed.
func (w *Watch) C() <-chan struct{} { return w.c }

// Close ends it.
func (w *Watch) Close() {
	s := w.room.shard(w.key.owner())
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.watch[w.key], w)
	if len(s.watch[w.key]) == 0 {
		delete(s.watch, w.key)
	}
}

// followers are the channels to signal; the lock is held.
func (s *shard) followers(key Key) []chan struct{} {
	var out []chan struct{}
	for w := range s.watch[key] {
		out = append(out, w.c)
	}
	return out
}

// Progress is what a flow last said of itself to this node; false when it said
// nothing here. It is soft: after a restart, or on another node, it is missing.
func (r *Room) Progress(key Key) (Progress, bool) {
	s := r.shard(key.owner())
	s.mu.Lock()
	defer s.mu.Unlock()
	if l := s.locals[key]; l != nil && l.progress != nil {
		return *l.progress, true
	}
	return Progress{}, false
}
