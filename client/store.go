package client

import (
	"sync"
)

// position is a place in the order of messages: the number of the next
// message and, for a store on disk, where its record begins at the latest.
type position struct {
	seq     uint64
	segment uint64
	offset  int64
}

// store keeps records in order. append, sync and release have one caller at a
// time; read may run beside them.
type store interface {
	// append adds a record. checkpoint is called when a new segment begins and
	// gives the state before this record.
	append(kind byte, body []byte, checkpoint func() ([]byte, error)) error

	// sync makes everything appended durable.
	sync() error

	// read calls each with the messages from at up to, not including, number
	// end, until each answers false. It returns the place after the last
	// message that each took.
	read(at position, end uint64, each func(seq uint64, body []byte) bool) (position, error)

	// release lets go of everything before at; idle says that nothing else is
	// kept.
	release(at position, idle bool, checkpoint func() ([]byte, error)) error

	// bytes is the room taken now.
	bytes() int64

	close() error
}

// memory is a store without a disk, for agents that were given no room on one
// and for simulated fleets. It keeps messages only.
type memory struct {
	mu       sync.Mutex
	first    uint64 // number of messages[0]
	messages [][]byte
	size     int64
}

func (m *memory) append(kind byte, body []byte, _ func() ([]byte, error)) error {
	if kind != recordMessage {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.messages = append(m.messages, body)
	m.size += int64(len(body))
	return nil
}

func (m *memory) sync() error { return nil }

func (m *memory) read(at position, end uint64, each func(uint64, []byte) bool) (position, error) {
	for seq := at.seq; seq < end; seq++ {
		body, ok := m.at(seq)
		if !ok || !each(seq, body) {
			return position{seq: seq}, nil
		}
	}
	return position{seq: end}, nil
}

func (m *memory) at(seq uint64) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if seq < m.first || seq-m.first >= uint64(len(m.messages)) {
		return nil, false
	}
	return m.messages[seq-m.first], true
}

func (m *memory) release(at position, _ bool, _ func() ([]byte, error)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.first < at.seq && len(m.messages) > 0 {
		m.size -= int64(len(m.messages[0]))
		m.messages[0] = nil
		m.messages = m.messages[1:]
		m.first++
	}
	if len(m.messages) == 0 {
		m.messages = nil // an idle agent keeps no backing array
	}
	return nil
}

func (m *memory) bytes() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size
}

func (m *memory) close() error { return nil }
