package client

import (
	"context"
	"encoding/json"
	"regexp"
	"sync"
	"time"

	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// Request ids on messages (client protocol 5.3).
const (
	requestUpload = 5
	requestLog    = 980
	requestStats  = 981
)

const (
	defaultMaxLogs = 100_000
	maxLogBytes    = 256 << 10 // a batch is put when it is larger
	maxLogLine     = 64 << 10
)

// defaultErrorPattern is what makes a log line an error when the request does
// not say (client protocol 8.1).
const defaultErrorPattern = `(?i)Error:|Symbol.+not found|Expecting a path arg type, not|Field.+is required|Unexpected arg`

var defaultErrors = regexp.MustCompile(defaultErrorPattern)

// logSink collects the log of one session (a flow or the event table) into
// batches. Lines are numbered over the session without gaps.
type logSink struct {
	buffer  putter
	session string
	limit   int64
	errors  *regexp.Regexp

	turn chan struct{} // one slot: keeps batches in order on their way to the buffer

	next int64 // number of the next line to be put; the turn guards it

	mu      sync.Mutex
	taken   int64             // lines taken so far
	refused bool              // the limit was reached and told
	batches map[string]*batch // by artifact; "" for flows
}

// batch is log lines waiting for their message.
type batch struct {
	rows  int64
	lines []byte
}

// putter is the part of the Buffer that producers see.
type putter interface {
	put(ctx context.Context, m mark, v *wirepb.VeloMessage) error
}

func newLogSink(b putter, session string, next int64, limit uint64, pattern string) *logSink {
	l := &logSink{
		buffer: b, session: session, next: next, taken: next, limit: defaultMaxLogs, errors: defaultErrors,
		turn: make(chan struct{}, 1), batches: map[string]*batch{},
	}
	if limit > 0 {
		l.limit = int64(min(limit, 1<<40))
	}
	if pattern == "" {
		return l
	}
	// The server's pattern is an operator's text: one that does not compile
	// is not worth a flow.
	if compiled, err := regexp.Compile("(?i)" + pattern); err == nil {
		l.errors = compiled
	}
	return l
}

// logLine is one line as it is delivered.
type logLine struct {
	Time    int64  `json:"client_time"`
	Level   string `json:"level"`
	Message string `json:"message"`
}

// add takes one line and returns the level it got. It puts a full batch, so it
// may wait for the buffer.
func (l *logSink) add(ctx context.Context, artifact, level, message string) (string, error) {
	if level != vql.LevelAlert && l.errors.MatchString(message) {
		level = vql.LevelError
	}
	if level == vql.LevelAlert {
		return level, l.alert(ctx, artifact, message)
	}
	l.mu.Lock()
	if l.refused {
		l.mu.Unlock()
		return level, nil
	}
	if l.taken >= l.limit {
		l.refused = true
		level, message = vql.LevelWarn, "Log Limit Exceeded: further log lines are dropped."
	}
	full := l.append(artifact, level, message)
	l.mu.Unlock()
	if full {
		return level, l.flush(ctx)
	}
	return level, nil
}

// append adds a line to its batch; mu is held.
func (l *logSink) append(artifact, level, message string) (full bool) {
	b := l.batches[artifact]
	if b == nil {
		b = &batch{}
		l.batches[artifact] = b
	}
	b.lines = append(b.lines, encodeLine(level, message)...)
	b.rows++
	l.taken++
	return len(b.lines) >= maxLogBytes
}

func encodeLine(level, message string) []byte {
	line := logLine{time.Now().Unix(), level, shortText(message, maxLogLine)}
	data, err := json.Marshal(line)
	if err != nil { // strings and integers always encode
		return nil
	}
	return append(data, '\n')
}

// alert delivers an alert record in a message of its own.
func (l *logSink) alert(ctx context.Context, artifact, message string) error {
	if err := l.flush(ctx); err != nil {
		return err
	}
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	return l.deliver(ctx, artifact, vql.LevelAlert, &batch{1, encodeLine(vql.LevelAlert, message)})
}

// flush puts what waits.
func (l *logSink) flush(ctx context.Context) error {
	if err := l.take(ctx); err != nil {
		return err
	}
	defer l.give()
	l.mu.Lock()
	batches := l.batches
	l.batches = map[string]*batch{}
	l.mu.Unlock()
	for artifact, b := range batches {
		if err := l.deliver(ctx, artifact, "", b); err != nil {
			l.restore(batches)
			return err
		}
		delete(batches, artifact)
	}
	return nil
}

// restore puts batches that were not delivered before the lines that came since.
func (l *logSink) restore(batches map[string]*batch) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for artifact, b := range batches {
		if since := l.batches[artifact]; since != nil {
			b.rows += since.rows
			b.lines = append(b.lines, since.lines...)
		}
		l.batches[artifact] = b
	}
}

// deliver numbers a batch and puts it; the turn is held.
func (l *logSink) deliver(ctx context.Context, artifact, level string, b *batch) error {
	next := l.next + b.rows
	err := l.buffer.put(ctx, mark{Flow: l.session, Kind: markLog, Logs: next}, &wirepb.VeloMessage{
		SessionId: l.session, RequestId: requestLog,
		LogMessage: &wirepb.LogMessage{
			Id: l.next, NumberOfRows: uint64(b.rows), Jsonl: string(b.lines), Artifact: artifact, Level: level,
		},
	})
	if err == nil {
		l.next = next
	}
	return err
}

func (l *logSink) take(ctx context.Context) error {
	select {
	case l.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (l *logSink) give() { <-l.turn }
