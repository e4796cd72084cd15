package frontend

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"raptorpack/wire"
)

// answer is what a client is told: an HTTP status, or the same emulated over a
// WebSocket.
type answer struct {
	code   int
	text   string // for people at the client's end; nothing of our insides
	reason string // of a refusal, for counters; constant
	err    error  // the cause, for our log
}

var (
	ok          = answer{code: http.StatusOK}
	pleaseEnrol = answer{code: http.StatusNotAcceptable, text: "Please Enrol"}
)

func later(reason string, err error) answer {
	return answer{code: http.StatusServiceUnavailable, text: "try again later", reason: reason, err: err}
}

func forbidden(reason string, err error) answer {
	return answer{code: http.StatusForbidden, text: "not accepted", reason: reason, err: err}
}

// judge maps what reading and opening a packet may say. Whatever is not known to
// be wrong for good is "later": no code of ours lets a client drop what it has.
func judge(err error) answer {
	switch {
	case errors.Is(err, wire.ErrForged):
		return forbidden("forged", err)
	case errors.Is(err, wire.ErrMalformed):
		return forbidden("malformed", err)
	case errors.Is(err, errOversize), errors.Is(err, wire.ErrTooLarge):
		return later("oversize", err)
	case errors.Is(err, errStranger):
		return later("stranger", err)
	case errors.Is(err, errTurn):
		return later("memory", err)
	case errors.Is(err, wire.ErrBusy):
		return later("busy", err)
	case errors.Is(err, wire.ErrUnsure):
		return later("unsure", err)
	}
	return later("read", err)
}

// loud are the refusals that an operator should hear of, one line a minute each.
var loud = map[string]string{
	"oversize":  "refused a body over the limit; the client keeps it and will not get on until max_upload_size allows it",
	"stranger":  "refused a large body of a sender not known yet",
	"memory":    "no memory left for client posts",
	"newcomers": "too many websockets of one address do not say who they are",
	"busy":      "no capacity left for client posts",
	"durable":   "client post did not become durable",
	"unsure":    "cannot tell whether a client is enrolled",
	"enrol":     "enrolment did not become durable",
	"pinned":    "another key asks for a known client id",
	"forged":    "packet is not authentic",
	"malformed": "packet is malformed",
}

// account counts an answer and says aloud what is worth it.
func (f *Frontend) account(route, address string, a answer) {
	f.metrics.answers.WithLabelValues(route, strconv.Itoa(a.code)).Inc()
	if a.reason == "" {
		return
	}
	if a.code == http.StatusServiceUnavailable {
		f.metrics.shed.WithLabelValues(a.reason).Inc()
	}
	if text, worth := loud[a.reason]; worth && f.quiet.may(a.reason) {
		f.log.Warn(text, "route", route, "address", address, "err", a.err)
		return
	}
	f.log.Debug("refused a packet", "route", route, "address", address, "reason", a.reason, "err", a.err)
}

// maxPaced bounds the refusals that wait at a time; beyond, they go out at once.
const maxPaced = 2048

// pace delays a 503, which a client repeats at once otherwise.
func (f *Frontend) pace(ctx context.Context, a answer) {
	if a.code != http.StatusServiceUnavailable || f.options.RetryDelay < 0 || f.draining.Load() {
		return
	}
	if f.paced.Add(1) > maxPaced {
		f.paced.Add(-1)
		return
	}
	defer f.paced.Add(-1)
	wait := time.NewTimer(f.options.RetryDelay + rand.N(f.options.RetryDelay+1))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
	}
}
