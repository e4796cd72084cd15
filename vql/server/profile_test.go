package server_test

import (
	"slices"
	"strings"
	"testing"

	"raptorpack/ids"
	"raptorpack/users"
)

func TestOptionsAreOnesOwn(t *testing.T) {
	w := newWorld(t)
	w.account("ann", "reader")
	s := w.as("ann", "reader")
	s.want(`SELECT user_options(user='ann', theme='dark', links={ SELECT 'Wiki' AS text, 'https://w/' AS url FROM scope() }) AS O FROM scope()`,
		`{"O":{"theme":"dark","timezone":"","lang":"","org":"","links":[{"text":"Wiki","url":"https://w/"}]}}`)
	s.want(`SELECT user_options(user='ann', lang='en').theme AS T FROM scope()`, `{"T":"dark"}`)
	w.admin().want(`SELECT user_options(user='ann', timezone='UTC', theme='').timezone AS T FROM scope()`, `{"T":"UTC"}`)
	if got := w.users.Options("ann"); got.Theme != "" || got.Lang != "en" || len(got.Links) != 1 {
		t.Errorf("kept %+v", got)
	}
	for query, reason := range map[string]string{
		`user='ann', default_password='x'`: "not kept in a form that can be read", `user='ann', org='O123'`: "own org only",
		`user='bob', theme='x'`: "SERVER_ADMIN is needed", `user='ann', timezone='Mars/X'`: "time zone",
	} {
		s.want(`SELECT user_options(`+query+`) AS O FROM scope()`, `{"O":null}`)
		s.wantLog(reason)
	}
	w.admin().want(`SELECT user_options(user='nobody', theme='x') AS O FROM scope()`, `{"O":null}`)
}

func TestMessagesReachTheirUser(t *testing.T) {
	w := newWorld(t)
	w.account("ann", "reader")
	w.account("bob", "reader")
	s := w.as("bob", "reader")
	s.want(`SELECT user_message(user='ann', message=dict(text='done'), hunt='H.1') AS T FROM scope()`, `{"T":true}`)
	s.want(`SELECT user_message(user='nobody', text='x') AS A, user_message(user='ann') AS B FROM scope()`, `{"A":null,"B":null}`)
	s.want(`SELECT * FROM user_messages()`)
	s.want(`SELECT * FROM user_messages(user='ann')`)
	s.wantLog("SERVER_ADMIN is needed")
	const told = `{"Sender":"bob","Message":{"hunt":"H.1","text":"done"},"T":true}`
	w.as("ann", "reader").want(`SELECT Sender, Message, Timestamp > 0 AS T FROM user_messages()`, told)
	w.admin().want(`SELECT Sender, Message, Timestamp > 0 AS T FROM user_messages(user='ann')`, told)
	if !slices.ContainsFunc(w.audit, func(line string) bool { return strings.HasPrefix(line, "bob user.message ann") }) {
		t.Errorf("audit %q", w.audit)
	}
}

func TestFavoritesAreOnesOwn(t *testing.T) {
	w := newWorld(t)
	w.account("ann", "reader")
	s := w.as("ann", "reader")
	s.want(`SELECT favorites_save(name='Triage', description='First look', type='CLIENT',
		specs={ SELECT 'Linux.Test.Procs' AS artifact, dict(Path='/etc', N=1) AS parameters FROM scope() }) AS F FROM scope()`,
		`{"F":{"name":"Triage","spec":[{"artifact":"Linux.Test.Procs","parameters":{"Path":"/etc","N":1}}]}}`)
	s.want(`SELECT favorites_save(name='Triage', type='SERVER', specs=[]).name AS F FROM scope()`, `{"F":"Triage"}`)
	s.want(`SELECT name, description, type, spec[0].parameters.N AS N FROM favorites_list(type='CLIENT')`,
		`{"name":"Triage","description":"First look","type":"CLIENT","N":1}`)
	s.want(`SELECT type FROM favorites_list()`, `{"type":"CLIENT"}`, `{"type":"SERVER"}`)
	w.admin().want(`SELECT * FROM favorites_list()`)
	w.admin().want(`SELECT favorites_save(name='x', type='CLIENT', specs=1) AS F FROM scope()`, `{"F":null}`) // has no account here
	s.want(`SELECT favorites_delete(name='Triage', type='CLIENT') AS A, favorites_delete(name='Triage', type='CLIENT') AS B FROM scope()`,
		`{"A":true,"B":null}`)
	s.wantLog(users.ErrUnknownFavorite.Error())
	if left := w.users.Favorites("ann"); len(left) != 1 || left[0].Type != "SERVER" {
		t.Errorf("left %+v of org %s", left, ids.RootOrg)
	}
}
