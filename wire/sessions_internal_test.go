package wire

import (
	"context"
	"crypto/rsa"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"raptorpack/ids"
)

// A clock that was ahead once makes no old packets of those after it was put
// right.
func TestClocksMayBePutRight(t *testing.T) {
	s := &session{}
	now := time.Now()
	for i, sent := range []time.Time{now, now.Add(50 * time.Hour), now, now.Add(-time.Hour)} {
		if _, stale := s.note(binary.BigEndian.AppendUint64(nil, uint64(i)), sent); stale {
			t.Errorf("packet %d is taken for an old one", i)
		}
	}
	if _, stale := s.note(make([]byte, 8), now.Add(-4*time.Hour)); !stale {
		t.Error("a packet of four hours ago is not noticed")
	}
}

// Whatever is cached is found by its client, and nothing else is kept.
func TestHoldersFollowTheCache(t *testing.T) {
	o, err := NewOpener(OpenerOptions{
		Identity: &Identity{}, Sessions: 8, Orgs: func(string) (ids.Org, bool) { return ids.RootOrg, true },
		Keys: func(context.Context, ids.Org, ids.Client) (*rsa.PublicKey, error) { return nil, errors.New("unused") },
	})
	if err != nil {
		t.Fatal(err)
	}
	clients := make([]ids.Client, 100)
	for i := range clients {
		clients[i], err = ids.ParseClient("C.00000000000000" + string("0123456789"[i/10]) + string("0123456789"[i%10]))
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			o.enter(&session{name: fingerprint{byte(i)}, client: clients[i]})
		}
	}
	o.sessions.CleanUp()
	held := 0
	for _, sessions := range o.holders.sessions {
		held += len(sessions)
	}
	if held != o.sessions.EstimatedSize() || held > 8 {
		t.Errorf("%d sessions held, %d cached", held, o.sessions.EstimatedSize())
	}
	for _, c := range clients {
		o.Forget(ids.RootOrg, c)
	}
	if o.sessions.EstimatedSize() != 0 || len(o.holders.sessions) != 0 {
		t.Errorf("%d cached, %d held after all were forgotten", o.sessions.EstimatedSize(), len(o.holders.sessions))
	}
}
