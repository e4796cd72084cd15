package endpoint

import (
	"errors"
	"io"
)

const (
	pageBytes = 16 << 10
	pageSlots = 256 // 4 MiB
)

// pagedReader remembers the pages of a file that were read last, for parsers that
// jump. Not safe for concurrent use.
type pagedReader struct {
	from  io.ReaderAt
	slots [pageSlots]page
}

type page struct {
	at   int64 // -1 when empty
	data []byte
}

func newPagedReader(r io.ReaderAt) *pagedReader {
	p := &pagedReader{from: r}
	p.forget()
	return p
}

// forget empties all pages.
func (p *pagedReader) forget() {
	for i := range p.slots {
		p.slots[i].at = -1
	}
}

// read fills buf; what lies behind the end is io.ErrUnexpectedEOF.
func (p *pagedReader) read(buf []byte, at int64) error {
	if at < 0 {
		return io.ErrUnexpectedEOF
	}
	if len(buf) > 4*pageBytes { // would only drive others out
		n, err := p.from.ReadAt(buf, at)
		if n == len(buf) {
			return nil
		}
		return short(err)
	}
	for len(buf) > 0 {
		data, err := p.page(at - at%pageBytes)
		if err != nil {
			return err
		}
		from := int(at % pageBytes)
		if from >= len(data) {
			return io.ErrUnexpectedEOF
		}
		n := copy(buf, data[from:])
		buf, at = buf[n:], at+int64(n)
	}
	return nil
}

func (p *pagedReader) page(at int64) ([]byte, error) {
	slot := &p.slots[at/pageBytes%pageSlots]
	if slot.at == at {
		return slot.data, nil
	}
	if slot.data == nil {
		slot.data = make([]byte, pageBytes)
	}
	slot.at = -1
	n, err := p.from.ReadAt(slot.data[:pageBytes], at)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	slot.at, slot.data = at, slot.data[:n]
	return slot.data, nil
}

func short(err error) error {
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
