package client

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"time"

	"raptorpack/proto/wirepb"
)

func TestRekeyMakesTheNextStartAnotherClients(t *testing.T) {
	s := newTestServer(t)
	dir := t.TempDir()
	o := testOptions(t, dir, s.URL+"/")
	o.Identity, o.WritebackPath, o.WritebackSuffix = nil, filepath.Join(dir, "writeback.yaml"), ".2"
	a := start(t, o)
	before := a.ID()
	s.send(&wirepb.VeloMessage{SessionId: "F.Monitoring", UpdateEventTable: &wirepb.VQLEventTable{Version: 7}})
	if err := a.rekeyer.Rekey(time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := a.rekeyer.Rekey(0); err == nil {
		t.Error("a second order was taken")
	}
	if err := <-a.ended; !errors.Is(err, ErrRekeyed) {
		t.Fatal(err)
	}
	close(a.ended)
	if _, err := os.Stat(o.Buffer.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the old client's buffer is there: %v", err)
	}
	first, err := OpenWriteback(o.WritebackPath, "")
	if err != nil {
		t.Fatal(err)
	}
	both, err := OpenWriteback(o.WritebackPath, ".2")
	if err != nil {
		t.Fatal(err)
	}
	if first.Identity().ID == before || first.Identity().ID != both.Identity().ID || both.Events().GetVersion() != 0 {
		t.Errorf("before %s, after %s and %s, event table %d", before, first.Identity().ID, both.Identity().ID, both.Events().GetVersion())
	}
	again, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	if again.ID() != first.Identity().ID {
		t.Errorf("the next start is %s", again.ID())
	}
	if err := again.Close(); err != nil {
		t.Fatal(err)
	}
}

// The second order may come at any time, also while the first is being taken.
func TestOneOrderToRekeyStands(t *testing.T) {
	for range 2000 {
		r := rekeyer{writeback: &Writeback{}, order: make(chan time.Duration, 1)}
		ended := make(chan error, 1)
		go func() { ended <- r.run(context.Background()) }()
		taken := 0
		for range 20 {
			if r.Rekey(0) == nil {
				taken++
			}
			runtime.Gosched()
		}
		if taken != 1 {
			t.Fatalf("%d orders were taken", taken)
		}
		if err := <-ended; !errors.Is(err, ErrRekeyed) {
			t.Fatal(err)
		}
	}
}

func TestAnIdentityThatWasHandedInIsKept(t *testing.T) {
	s := newTestServer(t)
	a := start(t, testOptions(t, "", s.URL+"/"))
	if err := a.rekeyer.Rekey(0); !errors.Is(err, errNoKeyFile) {
		t.Errorf("rekey: %v", err)
	}
}
