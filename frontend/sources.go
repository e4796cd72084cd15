package frontend

import (
	"net/netip"
	"sync"
)

// sources counts what each source holds of something, so that none takes all.
// Who holds nothing costs nothing.
type sources struct {
	most int64

	mu   sync.Mutex
	held map[string]int64
}

func newSources(most int64) *sources { return &sources{most: most, held: make(map[string]int64)} }

// take counts n more for a source, or reports that it has enough. The source
// without a name has no bound.
func (s *sources) take(source string, n int64) bool {
	if source == "" {
		return true
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[source]+n > s.most {
		return false
	}
	s.held[source] += n
	return true
}

func (s *sources) give(source string, n int64) {
	if source == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[source] -= n; s.held[source] == 0 {
		delete(s.held, source)
	}
}

// sourceHold is what one post holds of its source's part.
type sourceHold struct {
	*sources
	source string
}

// Release gives it back.
func (h sourceHold) Release(n int64) { h.give(h.source, n) }

// source is who counts as one source for an address: nobody if it is a proxy of
// ours that does not tell whom it speaks for.
func (f *Frontend) source(address string) string {
	if len(f.options.TrustedProxies) > 0 && f.trusted(address) {
		return ""
	}
	return sourceOf(address)
}

// sourceOf is who counts as one source: an IPv4 address, or an IPv6 /64, which
// is what one machine has for itself.
func sourceOf(address string) string {
	a, err := netip.ParseAddr(address)
	if err != nil || a.Unmap().Is4() {
		return address
	}
	prefix, err := a.Prefix(64)
	if err != nil {
		return address
	}
	return prefix.String()
}
