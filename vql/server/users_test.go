package server_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"raptorpack/users"
)

func (w *world) account(name string, granted ...string) {
	w.t.Helper()
	w.apply(w.users.PlanSet(name, granted, nil, false))
}

func TestAdministratorsManageAccountsBelowThem(t *testing.T) {
	w := newWorld(t)
	for _, a := range []string{"ada administrator", "root org_admin", "rex reader"} {
		name, role, _ := strings.Cut(a, " ")
		w.account(name, role)
	}
	s := w.admin()
	s.want(`SELECT user_create(user='bob', roles='analyst', password='long enough') AS U FROM scope()`, `{"U":"bob"}`)
	if _, err := w.users.SignIn(t.Context(), "bob", "long enough"); err != nil {
		t.Errorf("bob cannot sign in: %v", err)
	}
	s.want(`SELECT user_grant(user='bob', roles=['reader', 'api']) AS U FROM scope()`, `{"U":"bob"}`)
	if _, err := w.users.SignIn(t.Context(), "bob", "long enough"); err != nil {
		t.Errorf("a change of roles took the password: %v", err)
	}
	s.want(`SELECT name, roles, effective_policy.any_query AS Q, stats.has_password AS P FROM gui_users() WHERE name = 'bob'`,
		`{"name":"bob","roles":["api","reader"],"Q":true,"P":true}`)
	s.want(`SELECT user_delete(user='bob') AS U FROM scope()`, `{"U":"bob"}`)
	if _, err := w.users.Account("bob"); err != nil {
		t.Fatalf("a dry run deleted bob: %v", err)
	}
	s.want(`SELECT user_delete(user='bob', really_do_it=TRUE) AS U FROM scope()`, `{"U":"bob"}`)
	if _, err := w.users.Account("bob"); !errors.Is(err, users.ErrUnknownUser) {
		t.Errorf("bob is there: %v", err)
	}
	before := len(w.ledger.Entries())
	for _, call := range []string{
		`user_create(user='eve', roles='org_admin')`, `user_create(user='root', roles='reader')`,
		`user_create(user='root', roles='administrator', password='long enough')`, `user_grant(user='root', roles='reader')`,
		`user_grant(user='nobody', roles='reader')`, `user_delete(user='root', really_do_it=TRUE)`,
		`passwd(user='root', password='long enough')`, `user_create(user='eve', roles='emperor')`,
		`user_create(user='eve', roles='reader', sub='x')`, `user_create(user='eve', roles='reader', orgs='O123')`,
		`user_create(user='eve', roles='reader', password='short')`, `passwd(password='')`,
	} {
		s.want(`SELECT `+call+` AS U FROM scope()`, `{"U":null}`)
	}
	if after := len(w.ledger.Entries()); after != before {
		t.Errorf("%d changes were made", after-before)
	}
	for _, line := range w.audit {
		if strings.Contains(line, "long enough") {
			t.Errorf("a password is in the audit trail: %s", line)
		}
	}
}

func TestALockedAccountStaysLocked(t *testing.T) {
	w := newWorld(t)
	w.apply(w.users.PlanSet("bob", []string{"reader"}, nil, true))
	w.admin().want(`SELECT user_create(user='bob', roles='reader', password='long enough') AS U FROM scope()`, `{"U":"bob"}`)
	if a, err := w.users.Account("bob"); err != nil || !a.Locked {
		t.Errorf("account %+v, %v", a, err)
	}
}

func TestPeopleSeeAndChangeTheirOwnAccount(t *testing.T) {
	w := newWorld(t)
	w.account("ada", "administrator")
	w.account("rex", "reader")
	s := w.as("rex", "reader")
	s.want(`SELECT whoami() AS W FROM scope()`, `{"W":"rex"}`)
	s.want(`SELECT name FROM gui_users()`, `{"name":"rex"}`)
	s.want(`SELECT name FROM users()`, `{"name":"rex"}`)
	s.want(`SELECT passwd(password='long enough') AS U FROM scope()`, `{"U":"rex"}`)
	if _, err := w.users.SignIn(t.Context(), "rex", "long enough"); err != nil {
		t.Error(err)
	}
	s.want(`SELECT passwd(user='ada', password='long enough') AS U FROM scope()`, `{"U":null}`)
	s.wantLog("SERVER_ADMIN is needed")
	local := w.as("local:root", "org_admin")
	local.want(`SELECT passwd(password='long enough') AS U FROM scope()`, `{"U":null}`)
}

func TestOrgTellsItsNonceToAdministratorsOnly(t *testing.T) {
	w := newWorld(t)
	w.admin().want(`SELECT org() AS O FROM scope()`, `{"O":{"name":"<root>","id":"root","nonce":"n0nce","_client_config":{"version":1,"Client":{"server_urls":["https://one/"],"nonce":"n0nce"}}}}`)
	rex := w.as("rex", "reader")
	rex.want(`SELECT org() AS O FROM scope()`, `{"O":{"name":"<root>","id":"root","nonce":"","_client_config":null}}`)
	rex.want(`SELECT Name, OrgId FROM orgs()`, `{"Name":"<root>","OrgId":"root"}`)
}

// The matrix: which of our primitives each role gets past the permission check.
func TestPermissionMatrix(t *testing.T) {
	w := newWorld(t)
	key := w.flowWithUpload()
	w.account("bob", "reader")
	m, _, err := w.artifacts.PlanSet(key.Org, custom, "ada")
	w.apply(m, err)
	at := fmt.Sprintf("client_id='%s', flow_id='%s'", key.Client, key.Flow)
	client := fmt.Sprintf("client_id='%s'", key.Client)
	all := "reader api basic analyst investigator artifact_writer administrator org_admin"
	const admins = "administrator org_admin"
	cases := []struct{ query, roles string }{
		{`SELECT * FROM clients()`, all},
		{`SELECT client_info(` + client + `) AS X FROM scope()`, all},
		{`SELECT client_metadata(` + client + `) AS X FROM scope()`, all},
		{`SELECT client_metadata(client_id='server') AS X FROM scope()`, admins},
		{`SELECT * FROM flows(` + client + `)`, all},
		{`SELECT get_flow(` + at + `) AS X FROM scope()`, all},
		{`SELECT * FROM source(` + at + `)`, all},
		{`SELECT * FROM flow_results(` + at + `)`, all},
		{`SELECT * FROM flow_logs(` + at + `)`, all},
		{`SELECT * FROM uploads(` + at + `)`, all},
		{`SELECT * FROM enumerate_flow(` + at + `)`, all},
		{`SELECT * FROM artifact_definitions()`, all},
		{`SELECT label(` + client + `, labels='x') AS X FROM scope()`, "analyst investigator " + admins},
		{`SELECT client_set_metadata(` + client + `, a='x') AS X FROM scope()`, "investigator " + admins},
		{`SELECT collect_client(` + client + `, artifacts='Linux.Test.Procs') AS X FROM scope()`, "investigator " + admins},
		{`SELECT cancel_flow(` + at + `) AS X FROM scope()`, "investigator " + admins},
		{`SELECT artifact_set(definition='''` + custom + `''') AS X FROM scope()`, "artifact_writer " + admins},
		{`SELECT artifact_delete(name='nobody') AS X FROM scope()`, "artifact_writer " + admins},
		{`SELECT * FROM delete_flow(` + at + `)`, admins},
		{`SELECT * FROM client_delete(` + client + `)`, admins},
		{`SELECT server_metadata() AS X FROM scope()`, admins},
		{`SELECT user_create(user='tom', roles='reader') AS X FROM scope()`, admins},
		{`SELECT user_grant(user='bob', roles='reader') AS X FROM scope()`, admins},
		{`SELECT user_delete(user='bob') AS X FROM scope()`, admins},
		{`SELECT passwd(user='bob', password='short') AS X FROM scope()`, admins},
		{`SELECT read_file(filename='clients', accessor='fs') AS X FROM scope()`, admins},
		{`SELECT whoami() AS X, org() AS Y FROM scope()`, all + " nothing"},
	}
	for _, role := range strings.Fields(all + " nothing") {
		for _, c := range cases {
			s := w.as("somebody", role)
			s.rows("%s", c.query)
			may := strings.Contains(" "+c.roles+" ", " "+role+" ")
			if denied := strings.Contains(s.log(), "permission denied"); denied == may {
				t.Errorf("%s, %s: denied %v, may %v\n%s", role, c.query, denied, may, s.log())
			}
		}
	}
}

// version() answers truthfully: what this build lacks is NULL.
func TestVersionKnowsWhatIsThere(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	s.want(`SELECT version(plugin='clients') AS C, version(function='collect_client') AS D, version(plugin='glob') AS G,
		version(plugin='hunts') AS H, version(plugin='watch_monitoring') AS M, version(function='hunt') AS F FROM scope()`,
		`{"C":1,"D":1,"G":1,"H":1,"M":1,"F":1}`)
}
