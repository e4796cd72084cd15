package server_test

import (
	"errors"
	"strings"
	"testing"

	"raptorpack/artifacts"
	"raptorpack/ids"
)

const custom = `name: Linux.Mine
description: Mine.
sources:
  - query: SELECT * FROM scope()
`

const onServer = `name: Server.Mine
type: SERVER
sources:
  - query: SELECT * FROM clients()
`

func TestArtifactsAreSetAndDeletedByThoseWhoMay(t *testing.T) {
	w := newWorld(t)
	has := func(name string) bool {
		_, err := w.artifacts.Repository(ids.RootOrg).Lookup(name)
		return !errors.Is(err, artifacts.ErrUnknown)
	}
	set := func(s *session, text, more string) []string {
		return s.rows(`LET D = '''%s''' SELECT artifact_set(definition=D%s).name AS N FROM scope()`, text, more)
	}
	reader, writer, admin := w.as("rex", "reader"), w.as("wri", "artifact_writer"), w.admin()
	if got := set(reader, custom, ""); got[0] != `{"N":null}` || has("Linux.Mine") {
		t.Errorf("a reader set it: %v", got)
	}
	reader.wantLog("ARTIFACT_WRITER is needed")
	if got := set(writer, custom, ""); got[0] != `{"N":"Linux.Mine"}` || !has("Linux.Mine") {
		t.Errorf("the writer could not: %v\n%s", got, writer.log())
	}
	if got := set(writer, onServer, ""); got[0] != `{"N":null}` || has("Server.Mine") {
		t.Errorf("a writer set what runs on the server: %v", got)
	}
	writer.wantLog("SERVER_ARTIFACT_WRITER is needed")
	if got := set(admin, onServer, ", prefix='Custom.'"); got[0] != `{"N":"Custom.Server.Mine"}` || !has("Custom.Server.Mine") {
		t.Errorf("the administrator could not: %v\n%s", got, admin.log())
	}
	if got := set(writer, strings.Replace(custom, "Linux.Mine", "Custom.Linux.Test.Procs", 1), ""); got[0] != `{"N":null}` || has("Custom.Linux.Test.Procs") {
		t.Errorf("a writer set what the server runs by itself: %v", got)
	}
	taken := strings.Replace(custom, "Linux.Mine", "Custom.Server.Mine", 1)
	if got := set(writer, taken, ""); got[0] != `{"N":null}` {
		t.Errorf("a writer put a client artifact in a server artifact's place: %v", got)
	}
	if got := set(admin, strings.Replace(custom, "Linux.Mine", "Linux.Test.Procs", 1), ""); got[0] != `{"N":null}` {
		t.Errorf("a built-in was replaced: %v", got)
	}
	if got := set(admin, custom, ", repository='other'"); got[0] != `{"N":null}` {
		t.Errorf("another repository: %v", got)
	}
	if got := set(admin, custom, ", tags=['x', 'y']"); got[0] != `{"N":"Linux.Mine"}` {
		t.Errorf("with tags: %v", got)
	}
	admin.wantLog("tags are not kept in this version: x, y")
	remove := func(s *session, name string) string {
		return s.rows(`SELECT artifact_delete(name='%s') AS N FROM scope()`, name)[0]
	}
	if remove(reader, "Linux.Mine") != `{"N":null}` || remove(writer, "Custom.Server.Mine") != `{"N":null}` || !has("Linux.Mine") || !has("Custom.Server.Mine") {
		t.Error("deleted without permission")
	}
	if got := remove(writer, "Linux.Mine"); got != `{"N":"Linux.Mine"}` || has("Linux.Mine") {
		t.Errorf("delete: %s", got)
	}
	if remove(admin, "Linux.Test.Procs") != `{"N":null}` {
		t.Error("a built-in was deleted")
	}
}

func TestPrefixIsPutWhereTheNameStands(t *testing.T) {
	w := newWorld(t)
	s := w.admin()
	for text, want := range map[string]string{
		"name: A.B\nsources:\n- query: SELECT 1 AS name FROM scope()\n":                                               `{"N":"Custom.A.B"}`,
		"# name: X\ndescription: |\n  name: Y\nname:   \"A.B\" # it\nsources:\n- query: SELECT 1 AS X FROM scope()\n": `{"N":"Custom.A.B"}`,
		"name: Custom.A.B\nsources:\n- query: SELECT 1 AS X FROM scope()\n":                                           `{"N":"Custom.A.B"}`,
		"{name: A.B, sources: [{query: 'SELECT 1 AS X FROM scope()'}]}":                                               `{"N":null}`,
	} {
		if got := s.rows(`LET D = '''%s''' SELECT artifact_set(definition=D, prefix='Custom.').name AS N FROM scope()`, text); got[0] != want {
			t.Errorf("%q: %v, want %s\n%s", text, got, want, s.log())
		}
	}
}

func TestDefinitionsAreListedWithWhatTheyCall(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	s.want(`SELECT name, type, built_in, len(list=sources) AS S, parameters[0].name AS P FROM artifact_definitions()`,
		`{"name":"Linux.Test.Listing","type":"client","built_in":true,"S":2,"P":"Path"}`,
		`{"name":"Linux.Test.Logins","type":"client_event","built_in":true,"S":2,"P":"Deep"}`,
		`{"name":"Linux.Test.Procs","type":"client","built_in":true,"S":1,"P":"Path"}`)
	s.want(`SELECT name, description FROM artifact_definitions(names=['Linux.Test.Listing', 'Nobody'])`,
		`{"name":"Linux.Test.Listing","description":"Two sources."}`)
	s.wantLog("unknown artifact")
	s.want(`SELECT name FROM artifact_definitions(names='Linux.Test.Procs')`, `{"name":"Linux.Test.Procs"}`)
	s.want(`SELECT name, raw AS R, description AS D FROM artifact_definitions(names='Linux.Test.Procs', deps=TRUE, sanitize=TRUE)`,
		`{"name":"Linux.Test.Procs","R":null,"D":null}`, `{"name":"Linux.Test.Listing","R":null,"D":null}`)
}
