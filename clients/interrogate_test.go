package clients_test

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/clients"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
)

// desk plays the flows room for an interrogator.
type desk struct {
	h    *house
	mu   sync.Mutex
	asks [][]ids.Client
	done map[ids.Client]bool
	fail error
	torn map[ids.Client]bool // whose answers cannot be read
}

// asked is who was asked so far, by entry.
func (d *desk) asked() [][]ids.Client {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asks)
}

func (d *desk) options() clients.InterrogatorOptions {
	return clients.InterrogatorOptions{
		Room: d.h.Room, Logger: slog.New(slog.DiscardHandler),
		Start: func(_ context.Context, _ ids.Org, who []ids.Client) (ids.Flow, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if err := d.fail; err != nil {
				d.fail = nil
				return ids.Flow{}, err
			}
			d.asks = append(d.asks, slices.Clone(who))
			return ids.NewFlow(noon), nil
		},
		Read: func(_ context.Context, _ ids.Org, c ids.Client, _ ids.Flow) (*clients.Answers, error) {
			d.mu.Lock()
			defer d.mu.Unlock()
			if d.torn[c] {
				return nil, errors.New("torn")
			}
			if !d.done[c] {
				return nil, clients.ErrUnfinished
			}
			return &clients.Answers{Basic: []byte(`{"Hostname":"h"}`), Users: []string{"root"}}, nil
		},
		Propose: func(_ context.Context, m *buspb.Mutation) error {
			d.mu.Lock()
			defer d.mu.Unlock()
			return d.h.apply(m, nil)
		},
	}
}

func TestInterrogatorAsksOnceAndReadsTheAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.enrol(0, 1)
		d := &desk{h: h, done: map[ids.Client]bool{}, fail: errors.New("no master")}
		i := clients.NewInterrogator(d.options())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- i.Run(ctx) }()
		synctest.Wait()
		time.Sleep(time.Minute) // the first try failed
		synctest.Wait()
		if len(d.asks) != 1 || len(d.asks[0]) != 2 {
			t.Fatalf("asked %v, want both clients in one entry", d.asks)
		}
		record, err := h.Lookup(ids.RootOrg, id(0))
		if err != nil || record.Interrogation.IsZero() || !record.Interrogated.IsZero() {
			t.Fatalf("record %+v, %v", record, err)
		}
		d.done[id(0)] = true
		i.Ended(ids.RootOrg, id(0), ids.NewFlow(noon)) // somebody else's flow
		i.Ended(ids.RootOrg, id(0), record.Interrogation)
		synctest.Wait()
		record, err = h.Lookup(ids.RootOrg, id(0))
		if err != nil || record.Hostname != "h" || record.Interrogated.IsZero() || record.Users[0] != "root" {
			t.Errorf("after the answer: %+v, %v", record, err)
		}
		i.Enrolled(ids.RootOrg, id(0)) // told twice: not asked twice
		synctest.Wait()
		if len(d.asks) != 1 {
			t.Errorf("asked again: %v", d.asks)
		}
		stop()
		if err := <-ended; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

// Who is here when its task is given needs no question first, so a new client is
// waited for; not for ever, since its task waits for it as well.
func TestNewClientIsAskedWhenItIsHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		d := &desk{h: h, done: map[ids.Client]bool{}}
		i := clients.NewInterrogator(d.options())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- i.Run(ctx) }()
		synctest.Wait()
		h.enrol(0, 1)
		i.Enrolled(ids.RootOrg, id(0))
		i.Enrolled(ids.RootOrg, id(1))
		time.Sleep(time.Second)
		synctest.Wait()
		if asked := d.asked(); len(asked) != 0 {
			t.Fatalf("asked %v before they came", asked)
		}
		h.RemoteOnline("n2-1", ids.RootOrg, []ids.Client{id(1)}, nil)
		time.Sleep(time.Second)
		synctest.Wait()
		if asked := d.asked(); len(asked) != 1 || !slices.Equal(asked[0], []ids.Client{id(1)}) {
			t.Fatalf("asked %v, want the one who came", asked)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if asked := d.asked(); len(asked) != 2 || !slices.Equal(asked[1], []ids.Client{id(0)}) {
			t.Errorf("asked %v, want the other one at last", asked)
		}
		stop()
		<-ended
	})
}

func TestNextMasterReadsWhatTheLastOneMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.enrol(0)
		h.must(h.PlanInterrogated(ids.RootOrg, []ids.Client{id(0)}, ids.NewFlow(noon)))
		d := &desk{h: h, done: map[ids.Client]bool{id(0): true}}
		i := clients.NewInterrogator(d.options())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- i.Run(ctx) }()
		synctest.Wait()
		if record, err := h.Lookup(ids.RootOrg, id(0)); err != nil || record.Hostname != "h" {
			t.Errorf("record %+v, %v", record, err)
		}
		stop()
		<-ended
	})
}

// What cannot be read of one client holds up nobody else, and is tried again.
func TestUnreadableAnswerHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.enrol(0, 1, 2)
		all := []ids.Client{id(0), id(1), id(2)}
		h.must(h.PlanInterrogated(ids.RootOrg, all, ids.NewFlow(noon)))
		d := &desk{h: h, done: map[ids.Client]bool{id(0): true, id(1): true, id(2): true}, torn: map[ids.Client]bool{id(1): true}}
		i := clients.NewInterrogator(d.options())
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- i.Run(ctx) }()
		synctest.Wait()
		hosts := func() (out string) {
			for _, c := range all {
				record, err := h.Lookup(ids.RootOrg, c)
				if err != nil {
					t.Fatal(err)
				}
				out += record.Hostname + ","
			}
			return out
		}
		if got := hosts(); got != "h,,h," {
			t.Errorf("hosts %q", got)
		}
		d.mu.Lock()
		d.torn = nil
		d.mu.Unlock()
		time.Sleep(time.Minute)
		synctest.Wait()
		if got := hosts(); got != "h,h,h," {
			t.Errorf("after it healed: hosts %q", got)
		}
		stop()
		<-ended
	})
}

// A client that answered once and is asked again while no master reads is read by
// the next one, and only then.
func TestNextMasterReadsASecondInterrogation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.enrol(0)
		first, second := ids.NewFlow(noon), ids.NewFlow(noon)
		h.must(h.PlanInterrogated(ids.RootOrg, []ids.Client{id(0)}, first))
		h.must(h.PlanInfo(ids.RootOrg, id(0), []byte(`{"Hostname":"old"}`), first, nil))
		d := &desk{h: h, done: map[ids.Client]bool{id(0): true}}
		term := func() string {
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			i := clients.NewInterrogator(d.options())
			go func() { ended <- i.Run(ctx) }()
			synctest.Wait()
			stop()
			<-ended
			record, err := h.Lookup(ids.RootOrg, id(0))
			if err != nil {
				t.Fatal(err)
			}
			return record.Hostname
		}
		if got := term(); got != "old" {
			t.Errorf("read again what was read: %q", got)
		}
		h.must(h.PlanInterrogated(ids.RootOrg, []ids.Client{id(0)}, second))
		if got := term(); got != "h" {
			t.Errorf("host %q after the second interrogation", got)
		}
	})
}
