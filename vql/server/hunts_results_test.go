package server_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"raptorpack/flows"
	"raptorpack/hunts"
	"raptorpack/proto/wirepb"
	"raptorpack/vql"
)

// rowsOf are the rows that numbered made, as hunt_results() shows them.
func rowsOf(key flows.Key, fqdn string, first, count int) []string {
	var out []string
	for i := first; i < first+count; i++ {
		out = append(out, told(fmt.Sprintf(`"n":%d,`, i), key, fqdn))
	}
	return out
}

// Two clients speak to one node, the third to the other, and one of them to both.
func TestHuntResultsAreThoseOfAllNodes(t *testing.T) {
	w := newHuntWorld(t)
	const name, many = "Linux.Test.Procs", 2500
	key := w.hunt(name, w.one, w.two, w.three)
	one, two, three := flowOf(key, w.one), flowOf(key, w.two), flowOf(key, w.three)
	w.ingest(one, numbered(name, 0, many), ended(many, 0))
	w.ingest(two, numbered(name, 0, 2))
	w.ingestAt(w.other, two, numbered(name, 0, 2), numbered(name, 2, 3), ended(5, 0)) // some of it again
	w.ingestAt(w.other, three, numbered(name, 0, 3), ended(3, 0))
	want := slices.Concat(rowsOf(one, "web-1.example", 0, many), rowsOf(two, "db-1", 0, 5), rowsOf(three, "", 0, 3))
	s := w.as("rex", "reader")
	at := `hunt_id='` + key.Hunt.String() + `'`
	got := s.rows(`SELECT * FROM hunt_results(%s)`, at)
	whole := slices.Clone(got)
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("%d rows, want %d, log:\n%s", len(got), len(want), s.log())
	}
	for args, part := range map[string][]string{
		"":                            whole,
		", artifact='" + name + "'":   whole,
		", start_row=2400":            whole[2400:],
		", start_row=999, count=1002": whole[999:2001],
		", count=1":                   whole[:1],
		", start_row=2507":            whole[2507:],
		", start_row=2508":            nil,
		", start_row=-3, count=1000":  whole[:1000],
	} {
		if got := s.rows(`SELECT * FROM source(%s%s)`, at, args); !slices.Equal(got, part) {
			t.Errorf("source(%s): %d rows, want %d", args, len(got), len(part))
		}
	}
	s.want(`SELECT * FROM hunt_results(`+at+`, brief=TRUE) WHERE ClientId = '`+w.three.String()+`' AND n = 1`,
		fmt.Sprintf(`{"n":1,"FlowId":%q,"ClientId":%q}`, three.Flow, w.three))
	s.want(`SELECT * FROM hunt_results(` + at + `, orgs='O123')`)
	s.wantLog("their own org only")
	s.want(`SELECT * FROM source(` + at + `, client_id='` + w.one.String() + `')`)
	s.wantLog("hunt_id goes without client_id and flow_id")
}

func TestHuntResultsChooseAsFlowsDo(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Listing", w.one)
	w.ingest(flowOf(key, w.one), numbered("Linux.Test.Listing/Users", 0, 1), ended(1, 0))
	s := w.as("rex", "reader")
	row := rowsOf(flowOf(key, w.one), "web-1.example", 0, 1)
	for args, want := range map[string][]string{
		"": row, ", source='Users'": row, ", artifact='Linux.Test.Listing', source='Users'": row, ", artifact='Linux.Test.Listing/Users'": row,
		", source='Files'": nil, ", artifact='Linux.Test.Procs'": nil,
	} {
		s.want(`SELECT * FROM hunt_results(hunt_id='`+key.Hunt.String()+`'`+args+`)`, want...)
	}
	s.wantLog("hunt " + key.Hunt.String() + " has several results (Linux.Test.Listing/Files, Linux.Test.Listing/Users): reading Linux.Test.Listing/Users")
	s.wantLog(`has no result of artifact "Linux.Test.Procs"`)
	s.want(`SELECT * FROM hunt_results(hunt_id='H.123')`)
	s.wantLog("no such hunt")
}

func TestSourceTakesTheHuntOfTheScope(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one, w.two)
	w.ingest(flowOf(key, w.one), numbered("Linux.Test.Procs", 0, 1), ended(1, 0))
	w.ingest(flowOf(key, w.two), numbered("Linux.Test.Procs", 0, 1), ended(1, 0))
	env := vql.NewDict().Set("HuntId", key.Hunt.String()).Set("ArtifactName", "Linux.Test.Procs")
	s := w.session(roles{"reader"}, env, w.host("rex"))
	if got := s.rows(`SELECT * FROM source()`); len(got) != 2 {
		t.Errorf("gave %v, log:\n%s", got, s.log())
	}
	// A flow is nearer: each of these gives one client's rows.
	s.want(`SELECT * FROM source(client_id='`+w.one.String()+`', flow_id='`+key.Hunt.Flow(0).String()+`')`,
		fmt.Sprintf(`{"ClientId":%q,"FlowId":%q,"n":0}`, w.one, key.Hunt.Flow(0)))
	got := s.rows(`SELECT * FROM foreach(row={ SELECT * FROM hunt_flows(hunt_id=HuntId) }, query={ SELECT ClientId, n FROM source() })`)
	if len(got) != 2 || got[0] == got[1] {
		t.Errorf("flow by flow: %v", got)
	}
}

// A client's own columns do not pass for the server's, and are kept.
func TestHuntResultsKeepClientsFromSpeakingForOthers(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one)
	w.ingest(flowOf(key, w.one), lines("Linux.Test.Procs", 0, 1,
		`{"ClientId":"C.1","a":1,"Fqdn":"evil","FlowId":"F.1","client_Fqdn":"x","_OrgId":"O1"}`+"\n"), ended(1, 0))
	w.as("rex", "reader").want(`SELECT * FROM hunt_results(hunt_id='`+key.Hunt.String()+`')`, told(
		`"client_ClientId":"C.1","a":1,"client_FlowId":"F.1","client_Fqdn":"x","client_client_Fqdn":"evil","client__OrgId":"O1",`,
		flowOf(key, w.one), "web-1.example"))
}

func TestHuntResultsLeaveOutWhatWasDeleted(t *testing.T) {
	w := newHuntWorld(t)
	const name = "Linux.Test.Procs"
	key := w.hunt(name, w.one, w.two, w.three)
	all := []flows.Key{flowOf(key, w.one), flowOf(key, w.two), flowOf(key, w.three)}
	for _, f := range all {
		w.ingest(f, numbered(name, 0, 3), ended(3, 0))
	}
	w.apply(w.clients.PlanDelete(key.Org, w.one))
	w.apply(w.flows.PlanDelete(all[1], "ada"))
	s := w.as("rex", "reader")
	at := `hunt_id='` + key.Hunt.String() + `'`
	left := rowsOf(all[2], "", 0, 3)
	s.want(`SELECT * FROM hunt_results(`+at+`)`, left...)
	s.wantLog("6 rows of clients or flows that were deleted are left out")
	s.want(`SELECT * FROM source(`+at+`, start_row=1, count=1)`, left[1])
}

func TestHuntResultsTellWhatIsMissing(t *testing.T) {
	w := newHuntWorld(t)
	const name = "Linux.Test.Procs"
	key := w.hunt(name, w.one)
	w.ingest(flowOf(key, w.one), numbered(name, 0, 3), numbered(name, 5, 2), ended(7, 0))
	s := w.as("rex", "reader")
	if got := s.rows(`SELECT * FROM hunt_results(hunt_id='%s')`, key.Hunt); len(got) != 5 {
		t.Errorf("rows %v", got)
	}
	s.wantLog(fmt.Sprintf("WARN: %s of %s, client %s: rows 3 to 4 are missing", name, key.Hunt, w.one))
}

// huntWithUploads is a hunt over three clients, of which one still runs.
func (w *huntWorld) huntWithUploads() hunts.Key {
	w.t.Helper()
	const name = "Linux.Test.Procs"
	key := w.hunt(name, w.one, w.two, w.three)
	w.ingest(flowOf(key, w.one), append([]*wirepb.VeloMessage{numbered(name, 0, 2), logLine("x")}, append(upload(0, "hello"), ended(2, 1))...)...)
	w.ingestAt(w.other, flowOf(key, w.two), append([]*wirepb.VeloMessage{numbered(name, 0, 2)}, append(upload(0, "there"), ended(2, 1))...)...)
	return key
}

func TestUploadsOfAHunt(t *testing.T) {
	w := newHuntWorld(t)
	key := w.huntWithUploads()
	s := w.admin()
	got := s.rows(`SELECT ClientId, FlowId, file_size, read_file(filename=vfs_path, accessor='fs') AS Data FROM uploads(hunt_id='%s')`, key.Hunt)
	want := []string{
		fmt.Sprintf(`{"ClientId":%q,"FlowId":%q,"file_size":5,"Data":"hello"}`, w.one, key.Hunt.Flow(0)),
		fmt.Sprintf(`{"ClientId":%q,"FlowId":%q,"file_size":5,"Data":"there"}`, w.two, key.Hunt.Flow(0)),
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, log:\n%s", got, s.log())
	}
	s.want(`SELECT * FROM uploads(hunt_id='` + key.Hunt.String() + `', flow_id='F.1')`)
	s.wantLog("hunt_id goes without client_id and flow_id")
}

func TestHuntDeleteListsThenDeletes(t *testing.T) {
	w := newHuntWorld(t)
	key := w.huntWithUploads()
	s := w.admin()
	at := `hunt_id='` + key.Hunt.String() + `'`
	dry := s.rows(`SELECT type, data.VFSPath AS P, error FROM hunt_delete(%s)`, at)
	text := strings.Join(dry, "\n")
	for kind, n := range map[string]int{"Result": 2, "Log": 1, "Upload": 2, "UploadMetadata": 2, "FlowRecord": 2, "HuntRecord": 1} {
		if got := strings.Count(text, `{"type":"`+kind+`","P":"`); got != n {
			t.Errorf("%d of %s, want %d, in:\n%s", got, kind, n, text)
		}
	}
	if one, err := w.hunts.Hunt(key); err != nil || one.State != hunts.Running || len(w.audit) != 0 {
		t.Fatalf("a dry run left %+v, %v, %q", one, err, w.audit)
	}
	if got := s.rows(`SELECT type, data.VFSPath AS P, error FROM hunt_delete(%s, really_do_it=TRUE, workers=2)`, at); !slices.Equal(got, dry) {
		t.Errorf("deleting lists\n%s\nwant\n%s", strings.Join(got, "\n"), text)
	}
	if want := fmt.Sprintf("[ada hunt.stop %[1]s map[cancel:true] ada hunt.delete %[1]s map[]]", key.Hunt); fmt.Sprint(w.audit) != want {
		t.Errorf("audit %q, want %s", w.audit, want)
	}
	s.want(`SELECT * FROM hunts()`)
	s.want(`SELECT * FROM hunt_delete(` + at + `, really_do_it=TRUE)`)
	s.wantLog("is being deleted")
	for range 5 { // cancels, deletes, forgets
		w.manage()
	}
	if _, err := w.hunts.Hunt(key); !errors.Is(err, hunts.ErrNotFound) || len(slices.Collect(w.flows.HuntFlows(key.Org, key.Hunt))) != 0 {
		t.Errorf("the hunt is there: %v", err)
	}
}

func TestHuntDeleteTellsWhyNot(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs")
	h := w.host("ada")
	h.Ledger = refusing{}
	s := w.session(roles{"administrator"}, nil, h)
	s.want(`SELECT type, error =~ 'no ledger today' AS E FROM hunt_delete(hunt_id='`+key.Hunt.String()+`', really_do_it=TRUE)`, `{"type":"HuntRecord","E":true}`)
	s.wantLog("ERROR: hunt_delete: no ledger today")
	s.want(`SELECT type, error =~ 'no ledger today' AS E FROM hunt_delete(hunt_id='`+key.Hunt.String()+`', really_do_it=TRUE, archive=TRUE)`,
		`{"type":"HuntRecord","E":true}`)
}

func TestHuntDeleteMayOnlyArchive(t *testing.T) {
	w := newHuntWorld(t)
	key := w.hunt("Linux.Test.Procs", w.one)
	s := w.admin()
	is := func(want hunts.State) {
		t.Helper()
		if one, err := w.hunts.Hunt(key); err != nil || one.State != want {
			t.Errorf("hunt %+v, %v, want %s", one, err, want)
		}
	}
	at := `hunt_id='` + key.Hunt.String() + `', archive=TRUE`
	s.want(`SELECT type, error FROM hunt_delete(`+at+`)`, `{"type":"HuntRecord","error":""}`)
	is(hunts.Running)
	s.want(`SELECT type, error FROM hunt_delete(`+at+`, really_do_it=TRUE)`, `{"type":"HuntRecord","error":""}`)
	is(hunts.Archived)
	if f, err := w.flows.Flow(flowOf(key, w.one)); err != nil || f.State.Final() {
		t.Errorf("archiving touched the flow: %+v, %v", f, err)
	}
}
