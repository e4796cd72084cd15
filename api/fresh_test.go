package api_test

import (
	"context"
	"errors"
	"io"
	"strconv"
	"strings"
	"testing"
	"time"

	"raptorpack/api"
	"raptorpack/config"
)

const (
	atLeast = "X-Raptorpack-Index"
	fresh   = "X-Raptorpack-Fresh"
	index   = "X-Raptorpack-Index"
	age     = "X-Raptorpack-Age-Ms"
)

func TestEveryAnswerSaysHowFreshItIs(t *testing.T) {
	w := newWorld(t)
	now := strconv.FormatUint(indexOf(w), 10)
	for _, c := range []struct {
		status            int
		who, method, path string
	}{
		{200, "reader", "GET", "/api/v1/clients"},
		{200, "reader", "GET", "/api/v1/status"},
		{200, "reader", "GET", "/api/v1/openapi.json"},
		{401, "", "GET", "/api/v1/clients"},
		{403, "reader", "GET", "/api/v1/users"},
		{404, "reader", "GET", "/api/v1/clients/C.00000000000000aa"},
		{404, "reader", "GET", "/api/v1/nowhere"},
		{404, "reader", "GET", w.flowsPath() + "/F.AAAAAAAAAAAAA/events"},
	} {
		r := w.want(c.status, c.who, c.method, c.path, nil)
		if r.header.Get(index) != now || len(r.header.Values(age)) != 0 {
			t.Errorf("%s %s: index %q, want %s; age %q, not known", c.method, c.path, r.header.Get(index), now, r.header.Get(age))
		}
	}
	w.ledger.setAge(1500 * time.Millisecond)
	r := w.want(200, "reader", "GET", "/api/v1/clients", nil)
	if ms, err := strconv.Atoi(r.header.Get(age)); err != nil || ms < 1500 {
		t.Errorf("age %q", r.header.Get(age))
	}
	var list api.List[api.Client]
	if r.into(t, &list); list.AsOf.AgeMs == nil || *list.AsOf.AgeMs != 1500 {
		t.Errorf("%+v", list.AsOf)
	}
}

func indexOf(w *world) uint64 {
	_, at, _ := w.ledger.Position()
	return at
}

func TestAChangeAnswersFromItsOwnEntryOn(t *testing.T) {
	w := newWorld(t)
	var done api.Done
	body := map[string]any{"clients": []string{w.client.String()}, "add": []string{"lab"}}
	r := w.want(200, "analyst", "POST", "/api/v1/clients/labels", body)
	r.into(t, &done)
	if got := r.header.Get(index); got != strconv.FormatUint(done.Index, 10) {
		t.Errorf("index %q, its entry is %d", got, done.Index)
	}
	w.want(200, "reader", "GET", "/api/v1/clients", nil, atLeast, r.header.Get(index))
}

func TestAnEventStreamSaysHowFreshItIs(t *testing.T) {
	w := newWorld(t)
	key := w.collect("Linux.Sys.Users", nil)
	w.arrive(endOf(key, 0, 0))
	response := w.send(config.Pair{}, "reader", "GET", w.flowsPath()+"/"+key.Flow.String()+"/events", nil, atLeast, strconv.FormatUint(indexOf(w), 10))
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != 200 || response.Header.Get(index) == "" || !strings.Contains(string(text), "event: flow") {
		t.Errorf("%d, %v, %v: %s", response.StatusCode, response.Header, err, text)
	}
}

func TestFreshAnswersNeedAMasterThatConfirms(t *testing.T) {
	w := newWorld(t)
	asked := 0
	w.ledger.confirm = func(context.Context) error { asked++; return nil }
	w.want(200, "reader", "GET", "/api/v1/clients", nil)
	w.want(200, "reader", "GET", "/api/v1/clients", nil, fresh, "false")
	if asked != 0 {
		t.Errorf("asked %d times for nobody", asked)
	}
	w.want(200, "reader", "GET", "/api/v1/clients", nil, fresh, "true")
	if asked != 1 {
		t.Errorf("asked %d times", asked)
	}
	w.ledger.confirm = func(context.Context) error { return errors.New("nobody is there") }
	for _, path := range []string{"/api/v1/clients", w.flowsPath() + "/F.AAAAAAAAAAAAA/events"} {
		r := w.want(503, "reader", "GET", path, nil, fresh, "true")
		if r.header.Get("Retry-After") == "" || !strings.Contains(string(r.body), "no master could confirm") {
			t.Errorf("%v: %s", r.header, r.body)
		}
	}
	body := map[string]any{"clients": []string{w.client.String()}, "add": []string{"lab"}}
	w.want(503, "analyst", "POST", "/api/v1/clients/labels", body, fresh, "true")
	w.want(200, "analyst", "POST", "/api/v1/clients/labels", body)
}

func TestAStateThatIsNotThereYetIsLater(t *testing.T) {
	w := newWorld(t)
	r := w.want(503, "reader", "GET", "/api/v1/clients", nil, atLeast, "1000000")
	if r.header.Get("Retry-After") == "" || !strings.Contains(string(r.body), "behind") {
		t.Errorf("%v: %s", r.header, r.body)
	}
	w.want(200, "reader", "GET", "/api/v1/clients", nil, atLeast, "0")
}

// The key is made at another node: this one has it only with the entry that is
// waited for.
func TestACallerIsLookedUpInTheStateThatWasAskedFor(t *testing.T) {
	w := newWorld(t)
	m, err := w.users.PlanSet("late", []string{"reader"}, nil, false)
	w.check(err)
	w.propose(m)
	m, secret, err := w.users.PlanSession("late", "", time.Now().Add(time.Hour))
	w.check(err)
	w.keys["late"] = secret
	w.want(401, "late", "GET", "/api/v1/me", nil)
	w.ledger.confirm = func(ctx context.Context) error {
		_, err := w.ledger.ProposeIndex(ctx, m)
		return err
	}
	w.want(200, "late", "GET", "/api/v1/me", nil, fresh, "true")
}

func TestMalformedWishesAreRefused(t *testing.T) {
	w := newWorld(t)
	for _, header := range [][]string{
		{fresh, "yes"},
		{fresh, ""},
		{fresh, "TRUE"},
		{atLeast, ""},
		{atLeast, "-1"},
		{atLeast, "1.5"},
		{atLeast, "0x10"},
		{atLeast, "18446744073709551616"},
	} {
		r := w.want(422, "reader", "GET", "/api/v1/clients", nil, header...)
		if !strings.Contains(string(r.body), header[0]) {
			t.Errorf("%q: %s", header, r.body)
		}
	}
	w.want(200, "reader", "GET", "/", nil, fresh, "yes") // no answer of the API
}
