package wholepack

import (
	"bytes"
	"log/slog"
	"strings"
	"sync"
)

// keptLog bounds what a Log remembers, in bytes.
const keptLog = 4 << 20

// Log is the end of what somebody logged. Safe for concurrent use.
type Log struct {
	mu   sync.Mutex
	text bytes.Buffer
}

// Logger writes into the log, from level Info on.
func (l *Log) Logger() *slog.Logger { return slog.New(slog.NewTextHandler(l, nil)) }

func (l *Log) note(what string, args ...any) { l.Logger().Info("wholepack: "+what, args...) }

// Write implements io.Writer.
func (l *Log) Write(line []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.text.Len() > keptLog {
		l.text.Next(keptLog / 2)
	}
	return l.text.Write(line)
}

// Has reports whether one line has all of these texts.
func (l *Log) Has(texts ...string) bool {
	for line := range strings.Lines(l.Tail(keptLog)) {
		if hasAll(line, texts) {
			return true
		}
	}
	return false
}

func hasAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}

// Tail returns the last bytes.
func (l *Log) Tail(n int) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	text := l.text.String()
	return text[max(0, len(text)-n):]
}
