package server_test

import (
	"slices"
	"strings"
	"testing"

	"raptorpack/ids"
	"raptorpack/proto/wirepb"
)

func TestKillIsOrderedOfConnectedClientsOnly(t *testing.T) {
	w := newWorld(t)
	admin, query := w.admin(), `SELECT killkillkill(client_id='`+w.one.String()+`') AS K FROM scope()`
	admin.want(query, `{"K":null}`)
	admin.wantLog("the client is not connected")
	at := w.flows.Attach(ids.RootOrg, w.one)
	defer at.Close()
	w.clients.SetOnline(ids.RootOrg, w.one, true)
	w.as("inv", "investigator").want(query, `{"K":null}`)
	told := func() bool {
		return slices.ContainsFunc(at.Next(), func(m *wirepb.VeloMessage) bool { return m.KillKillKill != nil })
	}
	if told() {
		t.Fatal("the client was told by somebody without the permission")
	}
	admin.want(query, `{"K":null}`)
	if !told() || told() {
		t.Errorf("the client was not told once; log:\n%s", admin.log())
	}
	if last := w.audit[len(w.audit)-1]; !strings.HasPrefix(last, "ada client.kill "+w.one.String()) {
		t.Errorf("audit %q", w.audit)
	}
	admin.want(`SELECT killkillkill(client_id='server') AS A, killkillkill(client_id='C.0000000000000001') AS B FROM scope()`, `{"A":null,"B":null}`)
}
