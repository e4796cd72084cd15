package server_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"raptorpack/flows"
	"raptorpack/ids"
	"raptorpack/vql"
)

func TestClientsAreFoundAndShaped(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	s.want(`SELECT os_info.hostname AS H, os_info.fqdn AS F, agent_information.version AS V, labels, last_ip FROM clients(search='host:web*')`,
		`{"H":"web-1","F":"web-1.example","V":"0.1","labels":[],"last_ip":""}`)
	for _, all := range []string{"", "search='all'", "search=''"} {
		if got := s.rows(`SELECT client_id FROM clients(%s)`, all); len(got) != 2 {
			t.Errorf("clients(%s) gave %v", all, got)
		}
	}
	s.want(`SELECT client_id, first_seen_at > 1600000000000000 AS T FROM clients(client_id='`+w.two.String()+`')`,
		fmt.Sprintf(`{"client_id":%q,"T":true}`, w.two))
	s.want(`SELECT client_info(client_id='`+w.one.String()+`').os_info.system AS S, client_info(client_id='C.0000000000000001') AS N FROM scope()`,
		`{"S":"linux","N":null}`)
	s.wantLog("unknown client")
	if got := s.rows(`SELECT * FROM clients(search='what:')`); len(got) != 0 {
		t.Errorf("a search without meaning gave %v", got)
	}
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	s.want(`SELECT in_flight_flows FROM clients(search='host:web*') WHERE in_flight_flows.` + "`" + key.Flow.String() + "`" + ` > 0 AND FALSE`)
	if got := s.rows(`SELECT in_flight_flows FROM clients(search='host:web*')`); len(got) != 1 || !strings.Contains(got[0], key.Flow.String()) {
		t.Errorf("in flight: %v", got)
	}
}

func TestLabelsAreSetCheckedRemovedAndAudited(t *testing.T) {
	w := newWorld(t)
	s := w.as("ann", "analyst")
	id := w.one.String()
	call := func(op string) string {
		return fmt.Sprintf(`SELECT label(client_id='%s', labels=['Prod', 'x'], op='%s') AS L FROM scope()`, id, op)
	}
	s.want(call("check"), `{"L":false}`)
	s.want(call("set"), fmt.Sprintf(`{"L":{"ClientId":%q,"Labels":["Prod","x"],"Op":"set"}}`, id))
	s.want(call("check"), fmt.Sprintf(`{"L":{"ClientId":%q,"Labels":["Prod","x"],"Op":"check"}}`, id))
	s.want(`SELECT label(client_id='`+id+`', labels='PROD', op='check').Op AS L FROM scope()`, `{"L":"check"}`)
	s.want(`SELECT labels FROM clients(search='label:prod')`, `{"labels":["Prod","x"]}`)
	s.want(call("remove"), fmt.Sprintf(`{"L":{"ClientId":%q,"Labels":["Prod","x"],"Op":"remove"}}`, id))
	s.want(call("check"), `{"L":false}`)
	s.want(call("paint"), `{"L":null}`)
	s.wantLog(`op "paint"`)
	entries := w.ledger.Entries()
	if last := entries[len(entries)-1]; last.Mutation.Principal != "ann" {
		t.Errorf("the ledger says %q did it", last.Mutation.Principal)
	}
	if len(w.audit) != 2 || !strings.HasPrefix(w.audit[0], "ann label "+id+" map[add:Prod,x") {
		t.Errorf("audit %q", w.audit)
	}
}

func TestMetadataIsSetModifiedAndRemoved(t *testing.T) {
	w := newWorld(t)
	s := w.as("inv", "investigator")
	id := w.one.String()
	set := func(args, want string) {
		t.Helper()
		s.want(`SELECT client_set_metadata(client_id='`+id+`', `+args+`) AS T FROM scope()`, `{"T":true}`)
		s.want(`SELECT client_metadata(client_id='`+id+`') AS M FROM scope()`, `{"M":`+want+`}`)
	}
	set(`metadata=dict(a='1', b=2)`, `{"a":"1","b":"2"}`)
	set(`c='3', b=NULL`, `{"a":"1","c":"3"}`)
	set(`modify="x=>dict(a=x.a + '!')"`, `{"a":"1!","c":"3"}`)
	set(`modify="x=>dict()"`, `{"a":"1!","c":"3"}`)
	set(`metadata=dict()`, `{"a":"1!","c":"3"}`)
	s.want(`SELECT client_set_metadata(client_id='`+id+`') AS T FROM scope()`, `{"T":null}`)
	s.want(`SELECT client_metadata(client_id='server') AS M FROM scope()`, `{"M":null}`)
	s.wantLog("SERVER_ADMIN is needed")
}

func TestTheServerHasMetadataOfItsOwn(t *testing.T) {
	w := newWorld(t)
	admin := w.admin()
	admin.want(`SELECT client_metadata(client_id='server') AS M, server_metadata() AS S FROM scope()`, `{"M":{},"S":{}}`)
	admin.want(`SELECT server_set_metadata(metadata=dict(a=1, b='x')) AS T FROM scope()`, `{"T":true}`)
	admin.want(`SELECT server_set_metadata(metadata=dict(a=NULL), c='3') AS T FROM scope()`, `{"T":true}`)
	admin.want(`SELECT server_metadata(d='4') AS S, client_metadata(client_id='server') AS M FROM scope()`,
		`{"S":{"b":"x","c":"3","d":"4"},"M":{"b":"x","c":"3","d":"4"}}`)
	admin.want(`SELECT client_set_metadata(client_id='server', modify="x=>dict(b=x.b + '!')", c=NULL) AS T, server_metadata().b AS B FROM scope()`,
		`{"T":true,"B":"x!"}`)
	admin.want(`SELECT server_set_metadata() AS T FROM scope()`, `{"T":null}`)
	admin.wantLog("nothing to set")
	if last := w.audit[len(w.audit)-1]; !strings.HasPrefix(last, "ada metadata server map[b:x!]") {
		t.Errorf("audit %q", w.audit)
	}
	other := w.as("inv", "investigator")
	other.want(`SELECT server_metadata() AS A, server_set_metadata(a=1) AS B, client_set_metadata(client_id='server', a=1) AS C FROM scope()`,
		`{"A":null,"B":null,"C":null}`)
	other.wantLog("SERVER_ADMIN is needed")
	if got := w.clients.ServerMetadata(ids.RootOrg); len(got) != 2 || got["a"] != "" {
		t.Errorf("somebody without the permission set %v", got)
	}
}

func TestCollectClientHandsOverTheWholeWish(t *testing.T) {
	w := newWorld(t)
	s := w.as("inv", "investigator")
	got := s.rows(`LET T = SELECT * FROM foreach(row=[dict(A='x,y', B=1), dict(A='z', B=NULL)])
		LET C <= collect_client(client_id='%s', artifacts=['Linux.Test.Listing', 'Linux.Test.Procs'],
			env=dict(Path='/etc', Deep=TRUE), spec=dict(`+"`Linux.Test.Listing`"+`=dict(Path='/tmp', Table=T, Names=[1, 2])),
			timeout=60, cpu_limit=5.5, max_rows=10, max_bytes=1000, urgent=TRUE)
		SELECT C.flow_id AS F, C.request.artifacts AS A FROM scope()`, w.one)
	if len(got) != 1 || len(w.asked) != 1 {
		t.Fatalf("gave %v, asked %v, log:\n%s", got, w.asked, s.log())
	}
	c := w.asked[0]
	listing := []flows.Parameter{{Name: "Path", Value: "/tmp"}, {Name: "Deep", Value: "Y"}, {Name: "Table", Value: "A,B\n\"x,y\",1\nz,\n"}, {Name: "Names", Value: "[1,2]"}}
	if c.Client != w.one || !c.Urgent || c.TimeoutSeconds != 60 || c.CPUPercent != 5.5 || c.MaxRows != 10 || c.MaxUploadBytes != 1000 {
		t.Errorf("asked for %+v", c)
	}
	if !slices.Equal(c.Artifacts[0].Parameters, listing) {
		t.Errorf("parameters %+v", c.Artifacts[0].Parameters)
	}
	if want := []flows.Parameter{{Name: "Path", Value: "/etc"}}; !slices.Equal(c.Artifacts[1].Parameters, want) {
		t.Errorf("parameters of the second %+v", c.Artifacts[1].Parameters)
	}
	for _, bad := range []string{
		`client_id='C.zz', artifacts='Linux.Test.Procs'`,
		fmt.Sprintf(`client_id='%s', artifacts='A', spec=dict(B=dict())`, w.one), fmt.Sprintf(`client_id='%s', artifacts=[]`, w.one),
		fmt.Sprintf(`client_id='%s', artifacts='Linux.Test.Procs', org_id='O123'`, w.one),
		fmt.Sprintf(`client_id='%s', artifacts='Linux.Test.Procs', timeout=-1`, w.one),
		fmt.Sprintf(`client_id='%s', artifacts='Linux.Test.Procs', env=dict(Deep=TRUE)`, w.one),
		fmt.Sprintf(`client_id='%s', artifacts='Linux.Test.Procs', flow_id='F.1'`, w.one),
	} {
		if got := s.rows(`SELECT collect_client(%s) AS C FROM scope()`, bad); got[0] != `{"C":null}` {
			t.Errorf("%s gave %v", bad, got)
		}
	}
	if len(w.asked) != 1 {
		t.Errorf("bad wishes were asked for: %v", w.asked[1:])
	}
}

func TestCancelFlow(t *testing.T) {
	w := newWorld(t)
	key := w.start(w.one, flows.Artifact{Name: "Linux.Test.Procs"})
	s := w.as("inv", "investigator")
	query := fmt.Sprintf(`SELECT cancel_flow(client_id='%s', flow_id='%s') AS C FROM scope()`, key.Client, key.Flow)
	s.want(query, fmt.Sprintf(`{"C":{"flow_id":%q}}`, key.Flow))
	f, err := w.flows.Flow(key)
	if err != nil || f.State != flows.Cancelled || f.CancelledBy != "inv" {
		t.Fatalf("flow %+v, %v", f, err)
	}
	s.want(query, `{"C":null}`)
	s.wantLog("flow has ended already")
}

func TestOtherOrgsAreOutOfReach(t *testing.T) {
	w := newWorld(t)
	other, err := ids.ParseOrg("O123")
	must(t, err)
	h := w.host("ada")
	h.Org = other
	s := w.session(roles{"administrator"}, nil, h)
	s.want(`SELECT * FROM clients()`)
	s.want(`SELECT client_info(client_id='`+w.one.String()+`') AS C FROM scope()`, `{"C":null}`)
	s.want(`SELECT label(client_id='`+w.one.String()+`', labels='x') AS C FROM scope()`, `{"C":null}`)
	s.want(`SELECT OrgId FROM orgs()`, `{"OrgId":"O123"}`)
	s.want(`SELECT * FROM glob(globs='/**', accessor='fs')`)
	s.want(`SELECT read_file(filename='/clients/x', accessor='fs') AS X FROM scope()`, `{"X":""}`)
}

func TestWithoutAHostEveryPrimitiveSaysSo(t *testing.T) {
	w := newWorld(t)
	s := w.session(nil, vql.NewDict())
	s.want(`SELECT whoami() AS W, org() AS O, client_info(client_id='C.1') AS C FROM scope()`, `{"W":null,"O":null,"C":null}`)
	s.want(`SELECT * FROM clients()`)
	s.wantLog("clients: this query does not run on a server")
}
