package server_test

import (
	"strings"
	"testing"
)

func TestVerifyJudgesByNameAndByText(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	s.want(`SELECT verify(artifact='Linux.Test.Listing') AS V FROM scope()`,
		`{"V":{"Artifact":"Linux.Test.Listing","Permissions":["FILESYSTEM_READ"],"Errors":[],"Warnings":[],"Definitions":[],"Suppressions":[]}}`)
	s.want(`LET Text = "name: A.B\nsources:\n- query: |\n    // linter: invalid_arg:stat\n    LET X = 1\n    SELECT X, stat(nothing=1), upload(file='/x') FROM clients()\n"
		LET V <= verify(artifact=Text)
		SELECT V.Artifact AS A, V.Definitions AS D, V.Suppressions AS S, V.Permissions AS P FROM scope()`,
		`{"A":"A.B","D":["X"],"S":["invalid_arg"],"P":["FILESYSTEM_READ"]}`)
	got := s.rows(`LET Text = "name: A.B\nsources:\n- query: SELECT gone(), http_client(url='http://x') FROM clients()\n"
		SELECT verify(artifact=Text).Errors AS E FROM scope()`)
	for _, want := range []string{"gone: unknown function", "clients: unknown plugin"} {
		if len(got) != 1 || !strings.Contains(got[0], want) {
			t.Errorf("%v lacks %q", got, want)
		}
	}
	// On the server the same call is known.
	s.want(`SELECT verify(artifact="name: A.B\ntype: SERVER\nsources:\n- query: SELECT * FROM clients()\n").Errors AS E FROM scope()`, `{"E":[]}`)
}

func TestVerifyTellsWhatIsWrongWithATextOrAName(t *testing.T) {
	w := newWorld(t)
	s := w.as("rex", "reader")
	for text, want := range map[string]string{
		`"name: A.B\nwhat: x\n"`: "what", `"name: [\n"`: "yaml_error", `"name: A\nsources:\n- query: LET x = 1\n"`: "artifact_vql_error",
	} {
		got := s.rows(`SELECT verify(artifact=%s) AS V FROM scope()`, text)
		if len(got) != 1 || !strings.Contains(got[0], want) || strings.Contains(got[0], `"Errors":[]`) {
			t.Errorf("%s gave %v", text, got)
		}
	}
	s.want(`SELECT verify(artifact='No.Such') AS A, verify(artifact='Linux.Test.Procs', repository='mine') AS B FROM scope()`, `{"A":null,"B":null}`)
	const text = `artifact="name: Linux.Test.Procs\nsources:\n- query: SELECT * FROM info()\n"`
	s.want(`SELECT len(list=verify(`+text+`).Errors) AS A, len(list=verify(`+text+`, disable_override=TRUE).Errors) AS B FROM scope()`, `{"A":0,"B":1}`)
}
