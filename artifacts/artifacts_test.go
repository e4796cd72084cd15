package artifacts_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"

	"raptorpack/artifacts"
	"raptorpack/ids"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
)

func parse(t testing.TB, text string) *artifacts.Definition {
	t.Helper()
	d, err := artifacts.Parse("a.yaml", []byte(text))
	if err != nil {
		t.Fatalf("parse: %v\n%s", err, text)
	}
	return d
}

const sample = `name: Custom.Linux.LoginShells
description: Accounts that may log in.
parameters:
  - name: PasswdFile
    default: /etc/passwd
  - name: ShellRegex
    type: regex
    default: (bash|zsh|sh)$
precondition: SELECT OS FROM info() WHERE OS = 'linux'
sources:
  - name: Accounts
    query: |
      LET lines = SELECT * FROM split_records(filenames=PasswdFile, regex=':',
          columns=['User', 'X', 'Uid', 'Gid', 'Info', 'Home', 'Shell'])
      SELECT User, Uid, Shell FROM lines WHERE Shell =~ ShellRegex
`

func TestSampleParses(t *testing.T) {
	d := parse(t, sample)
	if d.Name != "Custom.Linux.LoginShells" || d.Type != artifacts.Client || len(d.Parameters) != 2 || d.Parameters[1].Type != "regex" {
		t.Errorf("parsed %+v", d)
	}
	if got := d.ResultName(&d.Sources[0]); got != "Custom.Linux.LoginShells/Accounts" {
		t.Errorf("result name %s", got)
	}
}

// Every rule names its line.
func TestParseRefusesWithFileAndLine(t *testing.T) {
	cases := map[string]struct{ text, want string }{
		"unknown field":        {"name: A\nfoo: 1\n", "a.yaml:2: foo: unknown field"},
		"nested unknown":       {"name: A\nsources:\n- name: x\n  qurey: y\n", "a.yaml:4: sources[0].qurey: unknown field"},
		"no name":              {"description: x\n", "name:"},
		"bad name":             {"name: A..B\n", "a.yaml:1: name:"},
		"digit part":           {"name: A.1b\n", "a.yaml:1: name:"},
		"bad type":             {"name: A\ntype: MAGIC\n", "a.yaml:2: type:"},
		"two preconditions":    {"name: A\nprecondition: SELECT * FROM info()\nsources:\n- precondition: SELECT * FROM info()\n  query: SELECT 1 FROM scope()\n", "a.yaml:4: sources[0]: has a precondition"},
		"let at the end":       {"name: A\nsources:\n- query: |\n    LET x = 1\n\n    LET y = 2\n", "a.yaml:6: sources[0].query: the last statement"},
		"select in the middle": {"name: A\nsources:\n- query: |\n    SELECT 1 FROM scope()\n    SELECT 2 FROM scope()\n", "a.yaml:4: sources[0].query: only the last"},
		"syntax":               {"name: A\nsources:\n- query: |\n    LET x = 1\n    SELEC y FROM scope()\n", "a.yaml:5: sources[0].query:"},
		"select in export":     {"name: A\nexport: |\n  SELECT 1 FROM scope()\n", "a.yaml:3: export:"},
		"permission":           {"name: A\nrequired_permissions:\n- EXECVE\n- FLY\n", "a.yaml:4: required_permissions: unknown permission"},
		"not yaml":             {"name: [\n", "yaml_error"},
		"a list":               {"- a\n", "expected one artifact"},
		"twice":                {"name: A\nname: B\n", "yaml_error"},
		"text for a number":    {"name: A\nresources:\n  timeout: soon\n", "a.yaml:3: resources.timeout: expected a whole number"},
		"cell type":            {"name: A\nsources:\n- query: SELECT 1 FROM scope()\n  notebook:\n  - type: poem\n", "a.yaml:5: sources[0].notebook[0]: unknown type"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := artifacts.Parse("a.yaml", []byte(c.text))
			if !errors.Is(err, artifacts.ErrInvalid) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestScalarsKeepTheirText(t *testing.T) {
	d := parse(t, "name: A\nparameters:\n- {name: a, default: Y}\n- {name: b, default: 20}\n- {name: c, default: 2020-01-01}\n- {name: d, default: 0x1F}\n- {name: e, default: true}\n- {name: f, default: 1.50}\n")
	var got []string
	for _, p := range d.Parameters {
		got = append(got, p.Default)
	}
	if diff := cmp.Diff([]string{"Y", "20", "2020-01-01", "0x1F", "true", "1.50"}, got); diff != "" {
		t.Error(diff)
	}
}

// A few kilobytes of aliases stand for billions of texts.
func TestParseBoundsWhatAliasesRepeat(t *testing.T) {
	text := "name: A\nreports:\n- &r {parameters: [&p {choices: [x" + strings.Repeat(", x", 1999) + "]}" + strings.Repeat(", *p", 1999) + "]}\n" +
		strings.Repeat("- *r\n", 1999)
	if _, err := artifacts.Parse("a.yaml", []byte(text)); !errors.Is(err, artifacts.ErrInvalid) || !strings.Contains(err.Error(), "aliases counted") {
		t.Errorf("error %.200v", err)
	}
	if d := parse(t, "name: A\nparameters:\n- &p {name: a, default: x}\n- *p\n"); len(d.Parameters) != 2 {
		t.Errorf("parameters %+v", d.Parameters)
	}
}

func TestBareQueryKeepsItsLines(t *testing.T) {
	text := "name: A\r\nsources:\r\n  - query:\r\n      -- a comment\r\n      SELECT 1 AS X -- another\r\n      FROM scope()\r\n"
	d := parse(t, text)
	s := newSession(t, repository(t, text))
	if rows := s.run("SELECT * FROM Artifact.A()", nil); len(rows) != 1 {
		t.Errorf("%d rows of %q", len(rows), d.Sources[0].Query)
	}
	old := parse(t, "name: B\nsources:\n- queries:\n  - LET x = SELECT 1 AS A -- note\n      FROM scope()\n  - SELECT * FROM x\n")
	if got := strings.Join(old.Sources[0].Queries, "|"); !strings.Contains(got, "note\n") {
		t.Errorf("queries %q", got)
	}
}

func repository(t testing.TB, texts ...string) *artifacts.Repository {
	t.Helper()
	r := artifacts.NewRepository(nil)
	for _, text := range texts {
		if err := r.Add(parse(t, text)); err != nil {
			t.Fatal(err)
		}
	}
	return r
}

// One of each type, from text as it travels and from a real value.
func TestParametersOfEachType(t *testing.T) {
	file := func(kind string) string {
		return "name: A\nparameters:\n- name: P\n  type: " + kind + "\nsources:\n- query: SELECT P FROM scope()\n"
	}
	cases := []struct{ kind, call, want string }{
		{"int", "P='0x10'", `16`},
		{"int", "P=7", `7`},
		{"float", "P='1.5'", `1.5`},
		{"bool", "P='Y'", `true`},
		{"bool", "P='nope'", `false`},
		{"bool", "P=TRUE", `true`},
		{"bool", "", `false`},
		{"timestamp", "P='2026-11-21T12:00:00Z'", `"2026-11-21T12:00:00Z"`},
		{"timestamp", "P=1700000000", `"2023-11-14T22:13:20Z"`},
		{"csv", "P='A,B\n1,x\n'", `[{"A":1,"B":"x"}]`},
		{"csv", "P=(dict(A=1),)", `[{"A":1}]`},
		{"json", `P='{"a": [1]}'`, `{"a":[1]}`},
		{"json", "P=dict(a=1)", `{"a":1}`},
		{"json_array", `P='["a"]'`, `["a"]`},
		{"json_array", `P=("a", "b")`, `["a","b"]`},
		{"regex_array", `P='["x"]'`, `["x"]`},
		{"multichoice", `P='["x", "y"]'`, `["x","y"]`},
		{"regex", "P='a|b'", `"a|b"`},
		{"hidden", "P=dict(x=1)", `{"x":1}`},
		{"no such type", "P='text'", `"text"`},
		{"upload", "P=''", `null`},
	}
	for _, c := range cases {
		t.Run(c.kind+" "+c.call, func(t *testing.T) {
			s := newSession(t, repository(t, file(c.kind)))
			rows := s.run("SELECT * FROM Artifact.A("+c.call+")", nil)
			if len(rows) != 1 {
				t.Fatalf("%d rows, log %v", len(rows), s.logs)
			}
			got, _ := rows[0].Get("P")
			if text := string(vql.AppendJSON(nil, got)); text != c.want {
				t.Errorf("P = %s, want %s (log %v)", text, c.want, s.logs)
			}
		})
	}
}

func TestParameterNamesNeedNotBeIdentifiers(t *testing.T) {
	s := newSession(t, repository(t, "name: A\nparameters:\n- {name: my size, type: int, default: 3}\n- {name: 9lives, type: int, default: 9}\n- {name: select, type: int, default: 1}\nsources:\n- query: SELECT `my size` + `9lives` + `select` AS X FROM scope()\n"))
	rows := s.run("SELECT * FROM Artifact.A(`my size`='4')", nil)
	if got, _ := rows[0].Get("X"); fmt.Sprint(got) != "14" {
		t.Errorf("X = %v, log %v", got, s.logs)
	}
}

const two = `name: Two
sources:
- name: First
  query: |
    LET x = 5
    SELECT x FROM scope()
- name: Second
  query: SELECT x + 1 AS y FROM scope()
`

func TestSerialSourcesShareAScopeAndNameTheirRows(t *testing.T) {
	s := newSession(t, repository(t, two))
	rows := s.run("SELECT * FROM Artifact.Two()", nil)
	var got []string
	for _, row := range rows {
		got = append(got, string(vql.AppendJSON(nil, row)))
	}
	if diff := cmp.Diff([]string{`{"x":5,"_Source":"Two/First"}`, `{"y":6,"_Source":"Two/Second"}`}, got); diff != "" {
		t.Error(diff)
	}
	if rows := s.run("SELECT * FROM Artifact.Two(source='First')", nil); len(rows) != 1 {
		t.Errorf("one source gives %d rows", len(rows))
	}
}

func TestParallelSourcesDoNotShareAScope(t *testing.T) {
	text := strings.Replace(two, "- name: Second\n", "- name: Second\n  precondition: SELECT * FROM info()\n", 1)
	s := newSession(t, repository(t, text))
	rows := s.run("SELECT * FROM Artifact.Two()", nil)
	if got, _ := rows[1].Get("y"); !vql.IsNull(got) {
		t.Errorf("y = %v", got)
	}
	request, err := repository(t, text).Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "Two"}}})
	if err != nil || len(request.Queries) != 2 || request.Queries[1].Precondition == "" || request.Queries[0].Precondition != "" {
		t.Errorf("compiled %v, %v", request, err)
	}
}

func TestPreconditionsCountOnlyWhenAsked(t *testing.T) {
	text := "name: A\nprecondition: SELECT * FROM info() WHERE OS = 'plan9'\nsources:\n- query: SELECT 1 AS X FROM scope()\n"
	s := newSession(t, repository(t, text))
	if rows := s.run("SELECT * FROM Artifact.A()", nil); len(rows) != 1 {
		t.Errorf("called plainly: %d rows", len(rows))
	}
	if rows := s.run("SELECT * FROM Artifact.A(preconditions=TRUE)", nil); len(rows) != 0 {
		t.Errorf("with preconditions: %d rows", len(rows))
	}
}

func TestExportsAndImports(t *testing.T) {
	lib := "name: Lib\nexport: |\n  LET double(n) = n * 2\n  LET called = SELECT * FROM Artifact.Leaf()\n"
	leaf := "name: Leaf\nsources:\n- query: SELECT 21 AS N FROM scope()\n"
	user := "name: User\nimports:\n- Lib\nsources:\n- query: SELECT double(n=N) AS X FROM called\n"
	s := newSession(t, repository(t, lib, leaf, user))
	rows := s.run("SELECT * FROM Artifact.User()", nil)
	if len(rows) != 1 {
		t.Fatalf("%d rows, log %v", len(rows), s.logs)
	}
	if got, _ := rows[0].Get("X"); fmt.Sprint(got) != "42" {
		t.Errorf("X = %v", got)
	}
	request, err := s.repo.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "User"}}})
	if err != nil {
		t.Fatal(err)
	}
	var bundled []string
	for _, a := range request.Queries[0].Artifacts {
		bundled = append(bundled, a.Name)
	}
	if diff := cmp.Diff([]string{"Leaf"}, bundled); diff != "" {
		t.Error(diff)
	}
	if _, err := repository(t, user).Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "User"}}}); !errors.Is(err, artifacts.ErrUnknown) {
		t.Errorf("import of nothing: %v", err)
	}
}

// What a callee imports is bundled although nothing calls it.
func TestImportsOfACalleeAreBundled(t *testing.T) {
	r := repository(t,
		"name: A\nsources:\n- query: SELECT * FROM Artifact.B()\n",
		"name: B\nimports:\n- C\nsources:\n- query: SELECT double(n=21) AS X FROM scope()\n",
		"name: C\nexport: |\n  LET double(n) = n * 2\n")
	request, err := r.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "A"}}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := artifacts.FromWire(request.Queries[0].Artifacts)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, client)
	rows := s.run(request.Queries[0].Query[0].Vql, nil)
	if len(rows) != 1 {
		t.Fatalf("%d rows, log %v", len(rows), s.logs)
	}
	if got, _ := rows[0].Get("X"); fmt.Sprint(got) != "42" {
		t.Errorf("X = %v", got)
	}
}

// What the server keeps of itself is laid over defaults, in called artifacts too, and
// under what the collection says.
func TestServerMetadataIsADefault(t *testing.T) {
	asks := "parameters:\n- {name: URL, type: server_metadata, default: none}\n- {name: Key, type: server_metadata, default: none}\n- {name: Other, default: none}\n"
	r := repository(t, "name: A\n"+asks+"sources:\n- query: SELECT * FROM Artifact.B()\n", "name: B\n"+asks+"sources:\n- query: SELECT URL FROM scope()\n")
	request, err := r.Compile(artifacts.Collect{
		Artifacts: []artifacts.Spec{{Name: "A", Parameters: []artifacts.Value{{Name: "Key", Value: "given"}}}},
		Metadata:  map[string]string{"URL": "https://x", "Key": "kept", "Other": "not asked for"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, e := range request.Queries[0].Env {
		got[e.Key] = e.Value
	}
	for _, p := range request.Queries[0].Artifacts[0].Parameters {
		got["B."+p.Name] = p.Default
	}
	want := map[string]string{"URL": "https://x", "Key": "given", "Other": "none", "B.URL": "https://x", "B.Key": "kept", "B.Other": "none"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Calls need their artifact; what only looks like one is bundled if it exists.
func TestOnlyCallsAreDependencies(t *testing.T) {
	leaf := "name: Leaf\nsources:\n- query: SELECT 1 AS N FROM scope()\n"
	for query, want := range map[string]string{
		"SELECT * FROM Artifact.Gone()":                                   "error",
		"SELECT len(list=Artifact.Gone(x=1)) FROM scope()":                "error",
		"SELECT * FROM Artifact.Leaf()":                                   "Leaf",
		"LET q = Artifact.Leaf\n    SELECT * FROM q":                      "Leaf",
		"SELECT query(query='SELECT * FROM Artifact.Leaf()')":             "Leaf",
		"SELECT 'see Artifact.Gone() for more' AS Help":                   "",
		"-- Artifact.Gone() was here\n    SELECT 1 AS X":                  "",
		"SELECT Artifact.Name AS Name":                                    "",
		"SELECT 'https://example.org/MyArtifact.Leaf/Artifact.Leaf' AS X": "",
	} {
		if !strings.Contains(query, "FROM scope()") && !strings.Contains(query, "FROM q") && !strings.HasPrefix(query, "SELECT *") {
			query += " FROM scope()"
		}
		r := repository(t, leaf, "name: A\nsources:\n- query: |\n    "+query+"\n")
		got := "error"
		if request, err := r.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "A"}}}); err == nil {
			got = ""
			for _, a := range request.Queries[0].Artifacts {
				got += a.Name
			}
		} else if !errors.Is(err, artifacts.ErrUnknown) {
			t.Errorf("%s: %v", query, err)
		}
		if got != want {
			t.Errorf("%s: bundled %q, want %q", query, got, want)
		}
	}
}

func TestCallsThatAreWrongGiveNoRowsAndALine(t *testing.T) {
	s := newSession(t, repository(t, two, "name: Deep\nparameters: [{name: N, type: int}]\nsources:\n- query: SELECT * FROM Artifact.Deep(N=N + 1)\n"))
	for query, want := range map[string]string{
		"SELECT * FROM Artifact.Two(bogus=1)":    "unknown parameter",
		"SELECT * FROM Artifact.Two(source='x')": "no source",
		"SELECT * FROM Artifact.Three()":         "Three",
		"SELECT * FROM Artifact.Deep(N=0)":       "10",
	} {
		s.logs = nil
		if rows := s.run(query, nil); len(rows) != 0 {
			t.Errorf("%s: %d rows", query, len(rows))
		}
		if text := strings.Join(s.logs, "\n"); !strings.Contains(text, want) {
			t.Errorf("%s: log %q, want %q", query, text, want)
		}
	}
}

func TestEventSourcesRunTogether(t *testing.T) {
	text := "name: E\ntype: CLIENT_EVENT\nsources:\n- name: Never\n  query: SELECT * FROM clock(period=3600)\n- name: Now\n  query: SELECT 1 AS X FROM scope()\n"
	s := newSession(t, repository(t, text))
	if rows := s.run("SELECT * FROM Artifact.E() LIMIT 1", nil); len(rows) != 1 {
		t.Errorf("%d rows, log %v", len(rows), s.logs)
	}
	request, err := s.repo.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "E"}}})
	if err != nil || len(request.Queries) != 2 {
		t.Errorf("compiled %v, %v", request, err)
	}
}

func TestCompileHidesNamesAndFillsTheEnvironment(t *testing.T) {
	r := repository(t, sample)
	collect := artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "Custom.Linux.LoginShells", Parameters: []artifacts.Value{{Name: "ShellRegex", Value: "zsh"}, {Name: "Extra", Value: "1"}}}}}
	request, err := r.Compile(collect)
	if err != nil {
		t.Fatal(err)
	}
	q := request.Queries[0]
	var env []string
	for _, e := range q.Env {
		env = append(env, e.Key+"="+e.Value)
	}
	if diff := cmp.Diff([]string{"PasswdFile=/etc/passwd", "ShellRegex=zsh", "Extra=1"}, env); diff != "" {
		t.Error(diff)
	}
	last := q.Query[len(q.Query)-1]
	if request.Names[last.Name] != "Custom.Linux.LoginShells/Accounts" || strings.Contains(last.Name, "Login") {
		t.Errorf("token %q stands for %q", last.Name, request.Names[last.Name])
	}
	if !strings.Contains(q.Precondition, "linux") || q.MaxRow != 1000 || request.MaxUploadBytes != 1<<30 || q.QueryId != 1 || q.TotalQueries != 1 {
		t.Errorf("request %+v", q)
	}
	collect.ClearNames = true
	if request, err = r.Compile(collect); err != nil || request.Names["Custom.Linux.LoginShells/Accounts"] == "" {
		t.Errorf("clear names: %v, %v", request.Names, err)
	}
}

func TestLimitsFromWeakToStrong(t *testing.T) {
	r := repository(t, "name: A\nresources: {timeout: 10, max_rows: 5, cpu_limit: 20}\nsources:\n- query: SELECT 1 FROM scope()\n", "name: B\nresources: {max_rows: 50}\nsources:\n- query: SELECT 1 FROM scope()\n")
	both := []artifacts.Spec{{Name: "A", Resources: artifacts.Resources{Timeout: 20}}, {Name: "B"}}
	request, err := r.Compile(artifacts.Collect{Artifacts: both, Resources: artifacts.Resources{CPULimit: 7}})
	if err != nil {
		t.Fatal(err)
	}
	if request.MaxRows != 50 || request.Queries[0].Timeout != 20 || request.Queries[0].CpuLimit != 7 {
		t.Errorf("max rows %d, %v", request.MaxRows, request.Queries[0])
	}
	if _, err := r.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "A"}, {Name: "A"}}}); !errors.Is(err, artifacts.ErrInvalid) {
		t.Errorf("the same artifact twice: %v", err)
	}
}

func TestBundledArtifactsRunOnTheClient(t *testing.T) {
	server := repository(t, two, "name: Caller\nsources:\n- query: SELECT * FROM Artifact.Two()\n")
	request, err := server.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "Caller"}}})
	if err != nil {
		t.Fatal(err)
	}
	client, err := artifacts.FromWire(request.Queries[0].Artifacts)
	if err != nil {
		t.Fatal(err)
	}
	s := newSession(t, client)
	if rows := s.run(request.Queries[0].Query[0].Vql, nil); len(rows) != 2 {
		t.Errorf("%d rows, log %v", len(rows), s.logs)
	}
}

func TestCustomOverride(t *testing.T) {
	r := repository(t, "name: A\nsources: [{query: SELECT 1 AS X FROM scope()}]\n", "name: Custom.A\nsources: [{query: SELECT 2 AS X FROM scope()}]\n")
	for allow, want := range map[bool]string{false: "A", true: "Custom.A"} {
		request, err := r.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: "A"}}, AllowCustom: allow, ClearNames: true})
		if err != nil || request.Names[want] != want {
			t.Errorf("allow %v: %v, %v", allow, request.Names, err)
		}
	}
}

func TestRepositoryKeepsNamesApart(t *testing.T) {
	r := repository(t, "name: A\naliases: [Old.A]\n")
	if d, err := r.Lookup("Old.A"); err != nil || d.Name != "A" {
		t.Errorf("alias: %v, %v", d, err)
	}
	if err := r.Add(parse(t, "name: B\naliases: [A]\n")); !errors.Is(err, artifacts.ErrInvalid) {
		t.Errorf("alias that is taken: %v", err)
	}
	over := artifacts.NewRepository(r)
	if err := over.Add(parse(t, "name: Old.A\n")); !errors.Is(err, artifacts.ErrBuiltIn) {
		t.Errorf("replace a built-in: %v", err)
	}
	if err := r.Remove("Old.A"); err != nil || len(r.List()) != 0 {
		t.Errorf("remove by alias: %v, %v", err, r.List())
	}
}

func TestLoadFSReportsTheBrokenAndLoadsTheRest(t *testing.T) {
	tree := fstest.MapFS{
		"a/good.yaml": {Data: []byte("name: Good\n")}, "b/bad.yml": {Data: []byte("name: [\n")}, "readme.txt": {Data: []byte("x")},
	}
	r := artifacts.NewRepository(nil)
	loaded, err := r.LoadFS(tree, false)
	if loaded != 1 || err == nil || !strings.Contains(err.Error(), "b/bad.yml:") {
		t.Errorf("%d loaded, %v", loaded, err)
	}
}

func TestCheckerFindsEachKindAndHonoursSuppressions(t *testing.T) {
	known := artifacts.Primitives{
		Plugins:   map[string]artifacts.Primitive{"glob": {Args: []string{"globs"}, Required: []string{"globs"}}, "scope": {}, "execve": {Args: []string{"argv"}, Permission: "EXECVE"}},
		Functions: map[string]artifacts.Primitive{"len": {Args: []string{"list"}}, "dict": {AnyArgs: true}},
	}
	text := `name: A
imports:
- Nothing
parameters:
- name: P
sources:
- query: |
    LET plain = 1
    SELECT frob(x=1), len(lost=1), plain(a=1), len, dict(any=1)
    FROM glob(wrong=1)
    WHERE Artifact.Gone.Away.x
- query: |
    SELECT * FROM execve(argv=P)
- query: |
    SELECT * FROM nosuch()
`
	r := repository(t, text)
	rules := func(text string) map[string]int {
		out := map[string]int{}
		for _, p := range r.Check("a.yaml", parse(t, text), known) {
			out[p.Rule]++
			if p.Line < 2 {
				t.Errorf("no line: %v", p)
			}
		}
		return out
	}
	want := map[string]int{
		"invalid_import": 1, "unknown_plugin": 2, "invalid_arg": 2, "required_arg_missing": 1, "call_as_function": 1,
		"unknown_artifact_in_query": 1, "required_permissions": 1, "symbol_mask_warn": 1,
	}
	if diff := cmp.Diff(want, rules(text)); diff != "" {
		t.Error(diff)
	}
	quiet := strings.Replace(text, "LET plain = 1", `LET plain = 1 -- linter: unknown_plugin:"frob|nosuch"`, 1)
	if got := rules(quiet)["unknown_plugin"]; got != 0 {
		t.Errorf("%d findings that were suppressed", got)
	}
	if got := rules(strings.Replace(text, "LET plain = 1", `LET plain = 1 -- linter: what:"x"`, 1))["invalid_suppression"]; got != 1 {
		t.Errorf("%d invalid suppressions", got)
	}
}

func TestStateFollowsTheLedger(t *testing.T) {
	room := artifacts.NewRoom(builtIn(t))
	apply := func(m *buspb.Mutation, err error) error {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return room.Apply(&buspb.Entry{Time: 1700000000000000, Mutation: m})
	}
	m, d, err := room.PlanSet(ids.RootOrg, sample, "ada")
	if err := apply(m, err); err != nil || d.Name != "Custom.Linux.LoginShells" {
		t.Fatalf("set: %v, %v", d, err)
	}
	if _, err := room.Repository(ids.RootOrg).Lookup(d.Name); err != nil {
		t.Errorf("lookup: %v", err)
	}
	if _, _, err := room.PlanSet(ids.RootOrg, "name: Linux.Sys.Users\n", "ada"); !errors.Is(err, artifacts.ErrBuiltIn) {
		t.Errorf("replace a built-in: %v", err)
	}
	snapshot := viewBytes(t, room.View())
	other := artifacts.NewRoom(builtIn(t))
	if err := other.Restore(strings.NewReader(snapshot)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(snapshot, viewBytes(t, other.View())); diff != "" {
		t.Error(diff)
	}
	if err := apply(room.PlanDelete(ids.RootOrg, d.Name, "ada")); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := room.Repository(ids.RootOrg).Lookup(d.Name); !errors.Is(err, artifacts.ErrUnknown) {
		t.Errorf("after delete: %v", err)
	}
	if _, err := other.Repository(ids.RootOrg).Lookup(d.Name); err != nil {
		t.Errorf("the other node: %v", err)
	}
}

// Who may write a client artifact may not be allowed to write a server's: no name
// of another definition can be taken over, be it by name or by alias.
func TestNamesOfOthersAreNotTakenOver(t *testing.T) {
	room := artifacts.NewRoom(builtIn(t))
	at := int64(0)
	set := func(org ids.Org, text string) error {
		m, _, err := room.PlanSet(org, text, "ada")
		if err != nil {
			return err
		}
		at++
		return room.Apply(&buspb.Entry{Time: at, Mutation: m})
	}
	child, err := ids.ParseOrg("O1234")
	if err != nil {
		t.Fatal(err)
	}
	const server = "name: Custom.Srv\ntype: SERVER\naliases: [Custom.Old]\n"
	if err := set(ids.RootOrg, server); err != nil {
		t.Fatal(err)
	}
	if err := set(ids.RootOrg, server); err != nil {
		t.Errorf("set again: %v", err)
	}
	for _, text := range []string{
		"name: Custom.A\naliases: [Custom.Srv]\n", "name: Custom.A\naliases: [Custom.Old]\n", "name: Custom.Old\n",
	} {
		if err := set(ids.RootOrg, text); !errors.Is(err, artifacts.ErrInvalid) {
			t.Errorf("root org, %q: %v", text, err)
		}
		if err := set(child, text); !errors.Is(err, artifacts.ErrInvalid) {
			t.Errorf("child org, %q: %v", text, err)
		}
	}
	if err := set(child, server); !errors.Is(err, artifacts.ErrInvalid) {
		t.Errorf("child org replaces the root org's: %v", err)
	}
}

// An earlier version let definitions claim the same names, and two may be planned
// at once.
func TestOfTwoClaimsToANameOneHolds(t *testing.T) {
	known := builtIn(t)
	plan := func(text string) *buspb.Mutation {
		m, _, err := artifacts.NewRoom(known).PlanSet(ids.RootOrg, text, "ada")
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	room := artifacts.NewRoom(known)
	for i, text := range []string{
		"name: Custom.Z\naliases: [Custom.Common]\n", "name: Custom.A\naliases: [Custom.Srv]\n",
		"name: Custom.Srv\ntype: SERVER\n", "name: Custom.B\naliases: [Custom.Common]\n",
	} {
		if err := room.Apply(&buspb.Entry{Time: int64(i + 1), Mutation: plan(text)}); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{"Custom.Srv": "Custom.Srv", "Custom.Common": "Custom.Z"} {
		if d, err := room.Repository(ids.RootOrg).Lookup(name); err != nil || d.Name != want {
			t.Errorf("%s is %v, %v; want %s", name, d, err, want)
		}
	}
	m, err := room.PlanDelete(ids.RootOrg, "Custom.A", "ada") // left out, but not out of reach
	if err != nil {
		t.Fatal(err)
	}
	if err := room.Apply(&buspb.Entry{Time: 9, Mutation: m}); err != nil {
		t.Error(err)
	}
}

func viewBytes(t *testing.T, v io.WriterTo) string {
	t.Helper()
	var out bytes.Buffer
	if _, err := v.WriteTo(&out); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(sample))
	f.Add([]byte(two))
	f.Add([]byte("name: A\nsources:\n- query:\n    x\n- &a\n  name: *a\n"))
	f.Add([]byte("name: A\nsources:\n- queries:\n  - SELECT\n   x\n"))
	bad, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(bad) == 0 {
		f.Fatalf("%d bad files: %v", len(bad), err)
	}
	for _, name := range bad {
		text, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		d, err := artifacts.Parse("f.yaml", text)
		if err != nil {
			if !errors.Is(err, artifacts.ErrInvalid) {
				t.Errorf("error is not ErrInvalid: %v", err)
			}
			return
		}
		r := artifacts.NewRepository(nil)
		if err := r.Add(d); err != nil {
			return
		}
		r.Check("f.yaml", d, artifacts.Primitives{})
		// Whatever parses either compiles or says why.
		if _, err := r.Compile(artifacts.Collect{Artifacts: []artifacts.Spec{{Name: d.Name}}}); err != nil {
			return
		}
	})
}

// A mistake in a query is told with the line of the YAML file, what was found and
// expected, and the line itself.
func TestQueryMistakesAreShownInTheFile(t *testing.T) {
	const text = "name: A.B\nsources:\n- query: |\n    -- two lines\n    LET x = 1\n    SELECT x FRM scope()\n"
	_, err := artifacts.Parse("a.yaml", []byte(text))
	const want = "a.yaml:6: sources[0].query: found \"FRM\", expected FROM (artifact_vql_error)\n    SELECT x FRM scope()\n             ^"
	if err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("got %v, want %s", err, want)
	}
}
