package wire

import (
	"encoding/binary"
	"sync"
	"time"

	"raptorpack/ids"
)

const (
	ivsKept    = 64            // packets of a session that a replay is known by
	staleAfter = 3 * time.Hour // behind the newest packet of the session
)

// session is an authenticated session of a client with this deployment.
type session struct {
	properties
	name   fingerprint
	org    ids.Org
	client ids.Client

	mu     sync.Mutex
	ivs    []uint64 // ring of the first 8 bytes of packet IVs, grown as needed
	next   int
	newest time.Time // by the client's clock, but not ahead of ours
}

func (s *session) holder() holder { return holder{s.org, s.client} }

// note remembers a packet and tells whether it was seen before, and whether it
// is hours older than the newest. A clock that was ahead once does not make all
// that comes after it is put right an old packet. Call it only after the MAC was checked, so
// that nobody else can push entries out.
func (s *session) note(iv []byte, sent time.Time) (seen, stale bool) {
	short := binary.BigEndian.Uint64(iv)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, old := range s.ivs {
		if old == short {
			seen = true
		}
	}
	stale = !sent.IsZero() && sent.Before(s.newest.Add(-staleAfter))
	if now := time.Now(); sent.After(now) {
		sent = now
	}
	if sent.After(s.newest) {
		s.newest = sent
	}
	switch {
	case seen:
	case len(s.ivs) < ivsKept:
		s.ivs = append(s.ivs, short)
	default:
		s.ivs[s.next] = short
		s.next = (s.next + 1) % ivsKept
	}
	return seen, stale
}
