package hunts

import "sync/atomic"

const (
	pageBits = 1 << 16 // ordinals of a page
	maxPages = maxOrdinal/pageBits + 1
)

// seen is a set of ordinals that many goroutines ask and change without a lock. Pages
// of 8 KiB are made when somebody is put into them.
type seen struct {
	pages atomic.Pointer[[]atomic.Pointer[page]]
}

type page [pageBits / 64]atomic.Uint64

func (s *seen) page(ordinal uint32) *page {
	pages := s.pages.Load()
	if at := int(ordinal / pageBits); pages != nil && at < len(*pages) {
		return (*pages)[at].Load()
	}
	return nil
}

// has reports whether an ordinal is in.
func (s *seen) has(ordinal uint32) bool {
	p := s.page(ordinal)
	return p != nil && p[ordinal%pageBits/64].Load()&(1<<(ordinal%64)) != 0
}

// add puts an ordinal in and reports whether it was not in before.
func (s *seen) add(ordinal uint32) bool {
	mask := uint64(1) << (ordinal % 64)
	return s.grown(ordinal)[ordinal%pageBits/64].Or(mask)&mask == 0
}

// remove takes an ordinal out.
func (s *seen) remove(ordinal uint32) {
	if p := s.page(ordinal); p != nil {
		p[ordinal%pageBits/64].And(^(uint64(1) << (ordinal % 64)))
	}
}

// grown returns the page of an ordinal. The table of pages is made at once for all
// ordinals there can be, so that it never moves while somebody changes it.
func (s *seen) grown(ordinal uint32) *page {
	pages := s.pages.Load()
	if pages == nil {
		fresh := make([]atomic.Pointer[page], maxPages)
		s.pages.CompareAndSwap(nil, &fresh)
		pages = s.pages.Load()
	}
	slot := &(*pages)[ordinal/pageBits]
	if slot.Load() == nil {
		slot.CompareAndSwap(nil, new(page))
	}
	return slot.Load()
}
