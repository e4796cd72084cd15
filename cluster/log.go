package cluster

import (
	"log/slog"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

const (
	sayAgain = time.Hour
	sayMost  = 256 // things remembered as said: strangers may come from many addresses
)

// journal takes what goes wrong in gossip: everything is counted, and each thing
// is said once an hour, since it may come with every packet. It is also the
// io.Writer that memberlist logs to.
type journal struct {
	logger   *slog.Logger
	troubles *prometheus.CounterVec
	deaf     atomic.Bool // what memberlist says after its end is of no use

	mu   sync.Mutex
	said map[string]time.Time
}

// trouble counts one of kind, and says so if it is the first with this key.
func (j *journal) trouble(kind, key, message string, args ...any) {
	j.report(slog.LevelWarn, kind, key, message, args...)
}

// report is trouble at any level. At Debug nothing is held back: whoever turns
// that on wants to see it all.
func (j *journal) report(level slog.Level, kind, key, message string, args ...any) {
	if j.deaf.Load() {
		return
	}
	if kind != "" {
		j.troubles.WithLabelValues(kind).Inc()
	}
	if level == slog.LevelDebug || j.first(key) {
		logAt(j.logger, level)(message, args...)
	}
}

// logAt returns l's method for a level.
func logAt(l *slog.Logger, level slog.Level) func(message string, args ...any) {
	switch {
	case level >= slog.LevelError:
		return l.Error
	case level >= slog.LevelWarn:
		return l.Warn
	case level >= slog.LevelInfo:
		return l.Info
	}
	return l.Debug
}

// first reports whether key was not said within the last hour. When too many were
// said, it is as if this one was, too: the metric goes on counting.
func (j *journal) first(key string) bool {
	now := time.Now()
	j.mu.Lock()
	defer j.mu.Unlock()
	if at, said := j.said[key]; said && now.Sub(at) < sayAgain {
		return false
	}
	if len(j.said) >= sayMost {
		for old, at := range j.said {
			if now.Sub(at) >= sayAgain {
				delete(j.said, old)
			}
		}
	}
	if len(j.said) >= sayMost {
		return false
	}
	j.said[key] = now
	return true
}

// rule says what a line of memberlist's means here.
type rule struct {
	text    string // in lower case: what the line contains
	kind    string // "": no trouble, and not counted
	level   slog.Level
	message string
}

// rules are asked in this order.
var rules = []rule{
	{"no installed keys could decrypt", troubleKey, slog.LevelError, "gossip under another key refused: its sender cannot join this pack"},
	{"remote state is not encrypted", troubleKey, slog.LevelError, "gossip without a key refused: its sender cannot join this pack"},
	{"conflicting address for", troubleConflict, slog.LevelError, "two processes gossip under one incarnation"},
	{"refuting a", troubleAccused, slog.LevelWarn, "another node took this one for gone: it was slow, or packets get lost"},
	{"handler queue full", troubleOverload, slog.LevelWarn, "gossip arrives faster than it is taken, and was dropped"},
	{errTooLarge.Error(), troubleOverload, slog.LevelWarn, "gossip stream cut off: it is too large"},
	{"was able to connect to", troubleNetwork, slog.LevelWarn, "gossip arrives by TCP but not by UDP: a firewall may be in between"},
	{"got ping for unexpected node", "", slog.LevelDebug, "gossip meant for an earlier run"},
	{"decrypt packet failed", troubleForeign, slog.LevelWarn, "bytes that are no gossip refused"},
	{"is larger than limit", troubleForeign, slog.LevelWarn, "bytes that are no gossip refused"},
	{"label", troubleForeign, slog.LevelWarn, "bytes that are no gossip refused"},
	{"failed to receive", troubleNetwork, slog.LevelDebug, "gossip stream broke"},
	{"failed to send", troubleNetwork, slog.LevelDebug, "gossip could not be sent"},
	{"push/pull", troubleNetwork, slog.LevelDebug, "exchange with another node broke"},
	{"failed fallback tcp ping", troubleNetwork, slog.LevelDebug, "another node does not answer by TCP"},
	{"failed to read remote state", troubleNetwork, slog.LevelDebug, "gossip stream broke"},
}

// Write implements io.Writer: one call is one line of memberlist's.
func (j *journal) Write(line []byte) (int, error) {
	level, text := cutLevel(strings.TrimSpace(string(line)))
	if level > slog.LevelInfo {
		j.judge(text)
	} else if !j.deaf.Load() {
		j.logger.Debug("memberlist", "text", text) // its Info, too, is about single probes
	}
	return len(line), nil
}

func (j *journal) judge(text string) {
	lower, from := strings.ToLower(text), sender(text)
	for _, r := range rules {
		if strings.Contains(lower, r.text) {
			j.report(r.level, r.kind, r.message+from, r.message, "from", from, "text", text)
			return
		}
	}
	stem, _, _ := strings.Cut(text, ":")
	j.report(slog.LevelWarn, troubleOther, stem+from, "gossip trouble", "from", from, "text", text)
}

// cutLevel takes "[WARN] memberlist: text" apart. What bears no level is rare, and
// an error in all places we know.
func cutLevel(line string) (slog.Level, string) {
	mark, text, found := strings.Cut(line, " ")
	if !found || !strings.HasPrefix(mark, "[") {
		return slog.LevelError, line
	}
	text = strings.TrimPrefix(text, "memberlist: ")
	switch mark {
	case "[DEBUG]":
		return slog.LevelDebug, text
	case "[INFO]":
		return slog.LevelInfo, text
	case "[WARN]":
		return slog.LevelWarn, text
	}
	return slog.LevelError, text
}

// sender finds the host in memberlist's "from=host:port"; its port changes with
// every connection. "" if there is none.
func sender(text string) string {
	_, rest, found := strings.Cut(text, "from=")
	if !found {
		return ""
	}
	address, _, _ := strings.Cut(rest, " ")
	if host, _, err := net.SplitHostPort(address); err == nil {
		return host
	}
	return address
}
