package server_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"raptorpack/clients"
	"raptorpack/hunts"
	"raptorpack/ids"
)

func TestHuntHandsOverTheWholeWish(t *testing.T) {
	w := newHuntWorld(t)
	s := w.as("inv", "investigator")
	got := s.rows(`LET H <= hunt(description='find it', artifacts=['Linux.Test.Listing', 'Linux.Test.Procs'], expires=timestamp(epoch=4000000000),
			spec=dict(` + "`Linux.Test.Listing`" + `=dict(Path='/tmp', Deep=TRUE)), timeout=60, cpu_limit=5.5, ops_per_sec=7, max_rows=10,
			max_bytes=1000, pause=TRUE, tags=['y', 'x'], include_labels='prod', exclude_labels=['dev', 'x'], os='linux', org_id='root')
		SELECT H.HuntId =~ '^H\\.' AS Id, H.Request.artifacts AS A, H.Request.specs[0].parameters.env[0].value AS V, H.Request.timeout AS T,
			H.Request.creator AS C FROM scope()`)
	if len(got) != 1 || got[0] != `{"Id":true,"A":["Linux.Test.Listing","Linux.Test.Procs"],"V":"/tmp","T":60,"C":"ada"}` || len(w.wants) != 1 {
		t.Fatalf("gave %v, asked %v, log:\n%s", got, w.wants, s.log())
	}
	wish := w.wants[0]
	if wish.Description != "find it" || wish.Expires.Unix() != 4_000_000_000 || wish.Start || wish.OS != "linux" ||
		fmt.Sprint(wish.IncludeLabels, wish.ExcludeLabels) != "[prod] [dev x]" {
		t.Errorf("asked for %+v", wish)
	}
	if wish.TimeoutSeconds != 60 || wish.CPUPercent != 5.5 || wish.IOPS != 7 || wish.MaxRows != 10 || wish.MaxUploadBytes != 1000 {
		t.Errorf("limits %+v", wish.Collection)
	}
	if got := fmt.Sprint(wish.Artifacts); got != "[{Linux.Test.Listing [{Path /tmp} {Deep Y}]} {Linux.Test.Procs []}]" {
		t.Errorf("artifacts %s", got)
	}
	s.want(`SELECT state, detailed_state, hunt_description, tags, expires, condition.include_labels AS L, condition.os AS O FROM hunts()`,
		`{"state":"PAUSED","detailed_state":"draft","hunt_description":"find it","tags":["x","y"],"expires":4000000000000000,"L":["prod"],"O":"linux"}`)
	s.want(`SELECT hunt(artifacts='Linux.Test.Procs').HuntId =~ '^H' AS H FROM scope()`, `{"H":true}`)
	if wish := w.wants[1]; !wish.Start || !wish.Expires.IsZero() {
		t.Errorf("by default: %+v", wish)
	}
}

func TestHuntRefusesWhatItCannotDo(t *testing.T) {
	w := newHuntWorld(t)
	s := w.as("inv", "investigator")
	for bad, why := range map[string]string{
		`artifacts=[]`: "expected at least one",
		`artifacts='Linux.Test.Procs', tags=' a'`:                                 "tag: label",
		`artifacts='Linux.Test.Procs', org_id=['root', 'O123']`:                   "their own org only",
		`artifacts='Linux.Test.Procs', cpu_limit=101`:                             "cpu_limit at most 100",
		`artifacts='Linux.Test.Procs', timeout=-1`:                                "expected 0 or more",
		`artifacts='Linux.Test.Procs', expires='soon'`:                            "expires: expected a time",
		`artifacts='Linux.Test.Procs', spec='x'`:                                  "spec: expected a dict",
		`artifacts='Linux.Test.Procs', spec=dict(B=dict())`:                       "not among the artifacts",
		`artifacts='Linux.Test.Procs', spec=dict(` + "`Linux.Test.Procs`" + `=1)`: "expected a dict of parameters",
	} {
		s.want(`SELECT hunt(`+bad+`) AS H FROM scope()`, `{"H":null}`)
		s.wantLog(why)
	}
	if len(w.wants) != 0 {
		t.Errorf("bad wishes were asked for: %+v", w.wants)
	}
	s.want(`SELECT hunt(artifacts='Linux.Test.Procs', os='beos') AS H FROM scope()`, `{"H":null}`)
	s.wantLog(`system "beos"`)
}

func TestHuntAddTakesClientsOnce(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one, w.two)
	s := w.as("inv", "investigator")
	add := func(client ids.Client, more, want string) {
		t.Helper()
		s.want(fmt.Sprintf(`SELECT hunt_add(hunt_id='%s', client_id='%s'%s) AS A FROM scope()`, key.Hunt, client, more), want)
	}
	is := func(client ids.Client, want hunts.Set) {
		t.Helper()
		if _, set, _ := w.hunts.Member(key, client); set != want {
			t.Errorf("client is %s, want %s", set, want)
		}
	}
	given := func(client ids.Client) string { return fmt.Sprintf(`{"A":%q}`, client) }
	add(w.three, "", given(w.three))
	is(w.three, hunts.PendingClients)
	add(w.three, ", relaunch=TRUE", given(w.three))
	s.wantLog("already: pending")
	w.ingest(flowOf(key, w.one), ended(0, 0))
	w.ingest(flowOf(key, w.two), failed())
	add(w.one, "", given(w.one))
	s.wantLog("already: completed")
	add(w.two, "", given(w.two))
	s.wantLog("already: errored")
	is(w.two, hunts.ErroredClients)
	add(w.two, ", relaunch=TRUE", given(w.two))
	is(w.two, hunts.PendingClients)
	add(w.one, ", relaunch=TRUE", `{"A":null}`)
	s.wantLog("which completed it: not available")
	add(w.one, ", flow_id='F.1'", `{"A":null}`)
	stranger, err := ids.ParseClient("C.0000000000000001")
	must(t, err)
	add(stranger, "", `{"A":null}`)
	s.wantLog(clients.ErrUnknownClient.Error())
	want := []string{
		fmt.Sprintf("inv hunt.add %s map[clients:1 which:%s]", key.Hunt, w.three),
		fmt.Sprintf("inv hunt.rerun %s map[clients:1 which:%s]", key.Hunt, w.two),
	}
	if fmt.Sprint(w.audit) != fmt.Sprint(want) {
		t.Errorf("audit %q", w.audit)
	}
	w.apply(w.hunts.PlanStop(key, false, "ada", time.Now()))
	w.apply(w.flows.PlanDelete(flowOf(key, w.one), "ada"))
	add(w.one, "", `{"A":null}`)
	s.wantLog("which is stopped")
}

func TestHuntUpdateEditsThenMoves(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs")
	s := w.as("inv", "investigator")
	id := key.Hunt.String()
	update := func(args string, want bool) {
		t.Helper()
		row := `{"U":null}`
		if want {
			row = fmt.Sprintf(`{"U":%q}`, id)
		}
		s.want(`SELECT hunt_update(hunt_id='`+id+`', `+args+`) AS U FROM scope()`, row)
	}
	is := func(state hunts.State, description string) {
		t.Helper()
		if one, err := w.hunts.Hunt(key); err != nil || one.State != state || one.Description != description {
			t.Errorf("hunt %+v, %v", one, err)
		}
	}
	update(`stop=TRUE`, true)
	is(hunts.Stopped, "test")
	update(`stop=TRUE`, false)
	s.wantLog("which is stopped")
	update(`description='again', start=TRUE`, true)
	is(hunts.Running, "again")
	w.expire(key)
	update(`start=TRUE`, false)
	s.wantLog("it expired at")
	update(`expires=timestamp(epoch=4000000000), start=TRUE`, true)
	is(hunts.Running, "again")
	update(`description=''`, true)
	is(hunts.Running, "")
	update(`add_labels=['b', 'a', 'b']`, true)
	update(`add_labels='c', del_labels='a'`, true)
	s.want(`SELECT tags FROM hunts()`, `{"tags":["b","c"]}`)
	entries := len(w.ledger.Entries())
	for args, why := range map[string]string{
		`description='x', add_labels=' a'`: "tag: label",
		`start=TRUE, stop=TRUE`:            "expected one of them",
		`start=FALSE`:                      "nothing to change",
		`expires=timestamp(epoch=1000000)`: "not in the future",
	} {
		update(args, false)
		s.wantLog(why)
	}
	if n := len(w.ledger.Entries()); n != entries {
		t.Errorf("%d changes although all were refused", n-entries)
	}
	if got := strings.Join(w.audit, "\n"); strings.Count(got, "hunt.change") != 5 || strings.Count(got, "hunt.start") != 2 || strings.Count(got, "hunt.stop") != 1 {
		t.Errorf("audit:\n%s", got)
	}
}
