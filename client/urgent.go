package client

import (
	"sync"

	"google.golang.org/protobuf/proto"

	"raptorpack/proto/wirepb"
)

// urgentQueue holds the few messages that overtake the buffer: enrolment
// requests and answers to questions about flows. It is memory only: whoever
// misses an answer asks again.
type urgentQueue struct {
	limit  int64
	metric *Metrics
	ready  chan struct{} // one slot: messages wait; full: said already

	mu       sync.Mutex
	messages [][]byte
	size     int64
}

func newUrgentQueue(limit int64, metric *Metrics) *urgentQueue {
	return &urgentQueue{limit: limit, metric: metric, ready: make(chan struct{}, 1)}
}

// put adds a message. When the queue is full the oldest ones go: their
// questions are the oldest too.
func (q *urgentQueue) put(v *wirepb.VeloMessage) {
	data, err := proto.Marshal(v)
	if err != nil {
		q.metric.urgentDropped.Inc()
		return
	}
	q.mu.Lock()
	q.messages = append(q.messages, data)
	q.size += int64(len(data))
	for q.size > q.limit && len(q.messages) > 1 {
		q.size -= int64(len(q.messages[0]))
		q.messages = q.messages[1:]
		q.metric.urgentDropped.Inc()
	}
	q.mu.Unlock()
	select {
	case q.ready <- struct{}{}:
	default:
	}
}

// lease gives the oldest messages up to maxBytes, at least one if any waits.
// They stay until commit.
func (q *urgentQueue) lease(maxBytes int64) *Lease {
	q.mu.Lock()
	defer q.mu.Unlock()
	l := &Lease{}
	for _, m := range q.messages {
		if len(l.Messages) > 0 && l.Bytes+int64(len(m)) > maxBytes {
			break
		}
		l.Messages = append(l.Messages, m)
		l.Bytes += int64(len(m))
	}
	if len(l.Messages) == 0 {
		return nil
	}
	return l
}

// commit forgets what was delivered. Messages that went meanwhile because the
// queue was full are not looked for.
func (q *urgentQueue) commit(l *Lease) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, sent := range l.Messages {
		if len(q.messages) == 0 || &q.messages[0][0] != &sent[0] {
			continue
		}
		q.size -= int64(len(sent))
		q.messages = q.messages[1:]
	}
	if len(q.messages) == 0 {
		q.messages = nil
	}
}
