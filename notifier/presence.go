package notifier

// Change says how things stand with a client whose presence changed since it
// was last reported.
type Change struct {
	Key
	Connected bool
}

// Track begins to note changes of presence for one reader, and gives the signal
// that rings when there are some. Clients that are connected already count as
// changed, so the first Changes is the whole truth. Untracked boards note
// nothing.
func (b *Board) Track() Signal {
	b.track.Store(true)
	for i := range b.shards {
		s := &b.shards[i]
		s.mu.Lock()
		if s.dirty == nil {
			s.dirty = make(map[Key]struct{}, len(s.waiters))
		}
		for k := range s.waiters {
			s.dirty[k] = struct{}{}
		}
		s.mu.Unlock()
	}
	b.changed.Ring()
	return b.changed
}

// Changes takes the changes noted so far. A client that came and went is
// reported once, as it stands now.
func (b *Board) Changes() []Change {
	var all []Change
	for i := range b.shards {
		all = b.shards[i].take(all)
	}
	return all
}

func (s *shard) take(all []Change) []Change {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.dirty {
		all = append(all, Change{Key: k, Connected: s.waiters[k] != nil})
	}
	clear(s.dirty)
	return all
}

// mark is called with the shard locked.
func (s *shard) mark(k Key) {
	if s.dirty != nil {
		s.dirty[k] = struct{}{}
	}
}

func (b *Board) tell() {
	if b.track.Load() {
		b.changed.Ring()
	}
}
