package frontend

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"raptorpack/ids"
	"raptorpack/notifier"
)

func TestWhoStaysAwayIsForgottenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		board, p := notifier.New(prometheus.NewRegistry()), newPartings()
		gone, back := ids.ClientOfNumber(1), ids.ClientOfNumber(2)
		leave := func(client ids.Client) {
			w, _ := board.Register(ids.RootOrg, client)
			w.Close()
			p.note(Peer{Org: ids.RootOrg, Client: client})
		}
		leave(gone)
		leave(back)
		time.Sleep(awayFor - time.Second)
		if due := p.due(board); len(due) != 0 {
			t.Errorf("too early: %v", due)
		}
		w, _ := board.Register(ids.RootOrg, back)
		time.Sleep(time.Second)
		if due, want := p.due(board), []notifier.Key{{Org: ids.RootOrg, Client: gone}}; !slices.Equal(due, want) {
			t.Errorf("due are %v, not %v", due, want)
		}
		if len(p.last) != 0 {
			t.Errorf("still looked for: %v", p.last)
		}
		w.Close()
		p.note(Peer{Org: ids.RootOrg, Client: back}) // its time begins anew
		time.Sleep(awayFor - time.Second)
		leave(back)
		time.Sleep(awayFor - time.Second)
		if due := p.due(board); len(due) != 0 {
			t.Errorf("its last leave is not so long ago: %v", due)
		}
	})
}
