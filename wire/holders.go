package wire

import (
	"slices"
	"sync"

	"github.com/maypok86/otter/v2"

	"raptorpack/ids"
)

// holder is a client as the owner of sessions.
type holder struct {
	org    ids.Org
	client ids.Client
}

// holders finds the cached sessions of a client. A session is entered before it
// is cached, and each only once, so that whatever is cached is found.
type holders struct {
	mu       sync.Mutex
	sessions map[holder][]*session
}

func newHolders() *holders { return &holders{sessions: make(map[holder][]*session)} }

func (h *holders) add(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := s.holder()
	h.sessions[of] = append(h.sessions[of], s)
}

func (h *holders) remove(s *session) {
	h.mu.Lock()
	defer h.mu.Unlock()
	of := s.holder()
	left := slices.DeleteFunc(h.sessions[of], func(one *session) bool { return one == s })
	if len(left) == 0 {
		delete(h.sessions, of)
		return
	}
	h.sessions[of] = left
}

func (h *holders) of(of holder) []*session {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.sessions[of])
}

// dropped is told of each session that left the cache.
func (h *holders) dropped(e otter.DeletionEvent[fingerprint, *session]) { h.remove(e.Value) }
