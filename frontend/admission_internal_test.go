package frontend

import (
	"io"
	"sync"
	"testing"
	"testing/synctest"
)

// gated gives a first part, and the rest when the gate opens.
type gated struct {
	first, rest int
	gate        chan struct{}
}

func (g *gated) Read(p []byte) (int, error) {
	if g.first > 0 {
		n := min(len(p), g.first)
		g.first -= n
		return n, nil
	}
	<-g.gate
	if g.rest == 0 {
		return 0, io.EOF
	}
	n := min(len(p), g.rest)
	g.rest -= n
	return n, nil
}

// Frames that have begun to take room do not wait for each other.
func TestLargeFramesDoNotStarve(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Options{MaxBody: 10 << 20, BodyMemory: 20 << 20}
		o.setDefaults()
		a, err := newAdmission(&o, nil)
		if err != nil {
			t.Fatal(err)
		}
		a.vouch("192.0.2.1")
		gate := make(chan struct{})
		var frames sync.WaitGroup
		for range 14 {
			frames.Go(func() {
				data, ticket, err := a.read(t.Context(), &gated{first: 400 << 10, rest: 1600 << 10, gate: gate}, claim{size: -1, address: "192.0.2.1"})
				if err != nil {
					t.Error(err)
					return
				}
				if len(data) != 2000<<10 {
					t.Errorf("%d bytes", len(data))
				}
				ticket.close()
			})
		}
		synctest.Wait()
		close(gate)
		frames.Wait()
		if !a.large.TryAcquire(o.BodyMemory) || !a.small.TryAcquire(o.SmallMemory/2) {
			t.Error("not all was given back")
		}
	})
}
