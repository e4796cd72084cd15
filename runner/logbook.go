package runner

import (
	"encoding/json"
	"regexp"
	"strings"
	"sync"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

const (
	defaultMaxLogs = 100_000
	maxLogBytes    = 256 << 10 // of one message
	maxLogLine     = 64 << 10  // bytes of a line's text
	maxLogWaiting  = 16 << 20  // bytes of lines that wait; what comes beyond is dropped and counted
)

// logBook keeps the log lines of a flow until they are delivered, in order and
// numbered without gaps.
type logBook struct {
	limit  int64
	errors *regexp.Regexp

	mu      sync.Mutex
	next    int64 // number of the first line that waits
	taken   int64 // lines in all
	full    bool  // the limit was reached and told
	dropped int64 // lines for which there was no room
	waiting []logBatch
	bytes   int
}

// logBatch is lines of one message. An alert has one of its own.
type logBatch struct {
	rows  int64
	lines []byte
	alert bool
}

func newLogBook(limit uint64, errors *regexp.Regexp) *logBook {
	b := &logBook{limit: defaultMaxLogs, errors: errors}
	if limit > 0 {
		b.limit = int64(min(limit, 1<<40))
	}
	return b
}

// logLine is one line as it is stored.
type logLine struct {
	Time    int64  `json:"client_time"`
	Level   string `json:"level"`
	Message string `json:"message"`
}

// add takes one line, and returns the level that it got and how many lines were kept.
func (b *logBook) add(level, text string) (string, int64) {
	if level != vql.LevelAlert && b.errors.MatchString(text) {
		level = vql.LevelError
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.full:
		return level, 0
	case b.bytes > maxLogWaiting:
		b.dropped++
		return level, 0
	case b.taken >= b.limit:
		b.full = true
		b.keep(vql.LevelWarn, "Log Limit Exceeded: further log lines are dropped.")
		return level, 1
	}
	b.keep(level, text)
	return level, 1
}

// keep appends a line; mu is held.
func (b *logBook) keep(level, text string) {
	line, err := json.Marshal(logLine{time.Now().Unix(), level, shorten(text, maxLogLine)})
	if err != nil {
		return // strings and integers always encode
	}
	alert := level == vql.LevelAlert
	last := len(b.waiting) - 1
	if last < 0 || alert || b.waiting[last].alert || len(b.waiting[last].lines) >= maxLogBytes {
		b.waiting = append(b.waiting, logBatch{alert: alert})
		last++
	}
	b.waiting[last].rows++
	b.waiting[last].lines = append(append(b.waiting[last].lines, line...), '\n')
	b.bytes += len(line)
	b.taken++
}

// take returns what waits as messages, which the caller delivers before it takes more.
func (b *logBook) take() []*wirepb.LogMessage {
	b.mu.Lock()
	defer b.mu.Unlock()
	var out []*wirepb.LogMessage
	for _, batch := range b.waiting {
		m := &wirepb.LogMessage{Id: b.next, NumberOfRows: uint64(batch.rows), Jsonl: string(batch.lines)}
		if batch.alert {
			m.Level = vql.LevelAlert
		}
		b.next += batch.rows
		out = append(out, m)
	}
	b.waiting, b.bytes = nil, 0
	return out
}

// lost returns how many lines found no room.
func (b *logBook) lost() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dropped
}

// shorten cuts a text at a whole character.
func shorten(text string, most int) string {
	if len(text) <= most {
		return strings.ToValidUTF8(text, "\uFFFD")
	}
	return strings.ToValidUTF8(text[:most], "") + "..."
}
