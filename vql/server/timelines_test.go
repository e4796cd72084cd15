package server_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/ids"
	"raptorpack/internal/testkit"
	"raptorpack/notebooks"
	"raptorpack/proto/buspb"
	"raptorpack/vql"
	"raptorpack/vql/server"
)

const addLogins = `SELECT timeline_add(notebook_id='N.ONE', timeline='Super', name='logins', key='When', message_column='User', ts_desc_column='What', query={
	SELECT When, User, What, N FROM parse_csv(accessor='data', filename='When,User,What,N
2024-01-02T00:00:00Z,bob,login,2
not a time,eve,login,3
1704067200,ann,login,1
,zoe,login,4
2024-01-02T00:00:00.5+01:00,cat,logout,5
')}).name AS Name FROM scope()`

const addFiles = `SELECT timeline_add(timeline='Super', name='files', key='Timestamp', query={
	SELECT * FROM foreach(row=[
		dict(Timestamp=timestamp(epoch=1704153600), Message='late', _Source='x', Deep=dict(a=[1, NULL], b=2.5)),
		dict(Timestamp=1704067200.25, Message='early', Size=7)])
}).timelines.name AS Names FROM scope()`

// in is an administrator whose query runs in a notebook.
func (w *world) in(notebook string) *session {
	w.t.Helper()
	return w.session(roles{"administrator"}, vql.NewDict().Set("NotebookId", notebook), w.host("ada"))
}

func TestTimelinesAreAddedAndMerged(t *testing.T) {
	w := newWorld(t)
	s := w.in("N.ONE")
	s.want(addLogins, `{"Name":"Super"}`)
	s.wantLog("WARN: timeline_add: logins: 2 rows are left out, as When is no time in them")
	s.want(addFiles, `{"Names":["files","logins"]}`)
	const (
		cat   = `{"Timestamp":"2024-01-01T23:00:00.5Z","Message":"cat","Description":"logout","When":"2024-01-02T00:00:00.5+01:00","User":"cat","What":"logout","N":5,"_Source":"logins"}`
		bob   = `{"Timestamp":"2024-01-02T00:00:00Z","Message":"bob","Description":"login","When":"2024-01-02T00:00:00Z","User":"bob","What":"login","N":2,"_Source":"logins"}`
		ann   = `{"Timestamp":"2024-01-01T00:00:00Z","Message":"ann","Description":"login","When":1704067200,"User":"ann","What":"login","N":1,"_Source":"logins"}`
		early = `{"Timestamp":"2024-01-01T00:00:00.25Z","Message":"early","Description":"","Size":7,"_Source":"files"}`
		late  = `{"Timestamp":"2024-01-02T00:00:00Z","Message":"late","Description":"","row__Source":"x","Deep":{"a":[1,null],"b":2.5},"_Source":"files"}`
	)
	s.want(`SELECT * FROM timeline(timeline='Super')`, ann, early, cat, late, bob)
	s.want(`SELECT * FROM timeline(timeline='Super', components='files')`, early, late)
	s.want(`SELECT * FROM timeline(timeline='Super', components=['files', 'logins', 'nothing'], skip='files', start='2024-01-01T23:00:00Z')`, cat, bob)
	s.wantLog("WARN: timeline: Super has no nothing")
	s.want(`SELECT Message FROM timeline(timeline='Super', start=1704153600, notebook_id='N.ONE')`, `{"Message":"late"}`, `{"Message":"bob"}`)
	s.want(`SELECT Message FROM timeline(timeline='Super') LIMIT 1`, `{"Message":"ann"}`)
	s.want(`SELECT name, timelines.name AS Names, timelines[1].rows AS Rows, timelines[1].key AS Key, timelines[1].message_column AS M, timelines[1].ts_desc_column AS D,
		timelines[1].start_time AS First, timelines[1].end_time AS Last, timelines[1].added_by AS By FROM timelines()`,
		`{"name":"Super","Names":["files","logins"],"Rows":3,"Key":"When","M":"User","D":"What","First":"2024-01-01T00:00:00Z","Last":"2024-01-02T00:00:00Z","By":"ada"}`)
}

// Another node reads what this one wrote.
func TestTimelinesAreReadOnOtherNodes(t *testing.T) {
	w := newWorld(t)
	w.in("N.ONE").want(addLogins, `{"Name":"Super"}`)
	other := w.host("ada")
	other.Timelines = w.timelines[1]
	s := w.session(roles{"reader"}, nil, other)
	s.want(`SELECT Message FROM timeline(notebook_id='N.ONE', timeline='Super', start='2024-01-02')`, `{"Message":"bob"}`)
}

func TestTimelinesAreReplacedAndDeleted(t *testing.T) {
	w := newWorld(t)
	s := w.in("N.H.ABC")
	add := func(name, message string) {
		t.Helper()
		s.want(fmt.Sprintf(`SELECT timeline_add(timeline='S', name=%q, key='T', query={SELECT 1700000000 AS T, %q AS Message FROM scope()}).name AS N FROM scope()`, name, message), `{"N":"S"}`)
	}
	add("a", "old")
	add("b", "b")
	add("a", "new")
	s.want(`SELECT Message FROM timeline(timeline='S')`, `{"Message":"new"}`, `{"Message":"b"}`)
	s.want(`SELECT timeline_delete(timeline='S', name='a') AS Gone FROM scope()`, `{"Gone":true}`)
	s.want(`SELECT timeline_delete(timeline='S', name='a') AS Gone FROM scope()`, `{"Gone":null}`)
	s.wantLog(`timeline_delete: timeline "S" of notebook N.H.ABC has no child "a"`)
	s.want(`SELECT name, timelines.name AS C FROM timelines()`, `{"name":"S","C":["b"]}`)
	s.want(`SELECT timeline_delete(timeline='S') AS Gone FROM scope()`, `{"Gone":true}`)
	s.want(`SELECT * FROM timelines()`)
	s.want(`SELECT * FROM timeline(timeline='S')`)
	s.wantLog(`timeline: timeline "S" of notebook N.H.ABC: no such timeline`)
	for _, want := range []string{
		"ada timeline.add N.H.ABC map[name:a rows:1 timeline:S]", "ada timeline.delete N.H.ABC map[name:a timeline:S]", "ada timeline.delete N.H.ABC map[name: timeline:S]",
	} {
		if all := strings.Join(w.audit, "\n"); !strings.Contains(all, want) {
			t.Errorf("the audit trail lacks %s:\n%s", want, all)
		}
	}
}

func (w *world) notebookFiles() (out []string) {
	w.t.Helper()
	err := filepath.WalkDir(filepath.Join(w.store.Root(), "notebooks"), func(name string, e os.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			out = append(out, name)
		}
		return err
	})
	must(w.t, err)
	return out
}

func TestNotebooksAreDeleted(t *testing.T) {
	w := newWorld(t)
	s := w.in("N.ONE")
	s.want(addLogins, `{"Name":"Super"}`)
	s.want(addFiles, `{"Names":["files","logins"]}`)
	// Of something that broke off before the entry.
	half := w.timelines[0].Begin(notebooks.Wish{Key: w.notebook("N.ONE"), Timeline: "S", Name: "half"}, 0)
	must(t, half.Append(t.Context(), w.notebooks.Timelines(w.notebook("N.ONE"))[0].Children[0].First, []byte(`{}`)))
	_, err := half.Close(t.Context())
	must(t, err)

	listed := []string{`{"type":"SuperTimeline","error":""}`, `{"type":"Unnamed","error":""}`, `{"type":"Timeline","error":""}`, `{"type":"Timeline","error":""}`}
	s.want(`SELECT type, error FROM notebook_delete(notebook_id='N.ONE')`, listed...)
	s.want(`SELECT data.name AS N FROM notebook_delete(notebook_id='N.ONE') WHERE type = 'SuperTimeline'`, `{"N":"Super"}`)
	s.want(`SELECT read_file(filename=data.VFSPath, accessor='fs', length=2) = unhex(string='1f8b') AS Gzip FROM notebook_delete(notebook_id='N.ONE') WHERE type =~ 'Unnamed'`, `{"Gzip":true}`)
	if len(w.notebookFiles()) != 3 || len(w.notebooks.Timelines(w.notebook("N.ONE"))) != 1 {
		t.Error("a dry run deleted something")
	}
	s.want(`SELECT type, error FROM notebook_delete(notebook_id='N.ONE', really_do_it=TRUE)`, listed...)
	s.want(`SELECT * FROM timelines()`)
	for _, u := range w.notebooks.Unused() {
		must(t, w.timelines[1].Sweep(t.Context(), u)) // as the leader does
	}
	if left := w.notebookFiles(); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	s.want(`SELECT * FROM notebook_delete(notebook_id='N.ONE')`)
	s.wantLog("notebook_delete: notebook N.ONE: no such timeline")
	if last := w.audit[len(w.audit)-1]; last != "ada notebook.delete N.ONE map[]" {
		t.Errorf("audit: %s", last)
	}
}

func (w *world) notebook(text string) notebooks.Key {
	w.t.Helper()
	id, err := ids.ParseNotebook(text)
	must(w.t, err)
	return notebooks.Key{Notebook: id}
}

func TestTimelinesNeedTheirPermissions(t *testing.T) {
	w := newWorld(t)
	w.in("N.ONE").want(addLogins, `{"Name":"Super"}`)
	for _, c := range []struct{ permission, query, lacks string }{
		{"NOTEBOOK_EDITOR", `SELECT * FROM timelines(notebook_id='N.ONE')`, "READ_RESULTS"},
		{"NOTEBOOK_EDITOR", `SELECT * FROM timeline(notebook_id='N.ONE', timeline='Super')`, "READ_RESULTS"},
		{"NOTEBOOK_EDITOR", `SELECT * FROM foreach(row={SELECT timeline_add(notebook_id='N.ONE', timeline='X', name='x', key='T', query={SELECT 1 AS T FROM scope()}) AS X FROM scope()}) WHERE X`, "READ_RESULTS"},
		{"READ_RESULTS", `SELECT timeline_delete(notebook_id='N.ONE', timeline='Super') AS X FROM scope() WHERE X`, "NOTEBOOK_EDITOR"},
		{"NOTEBOOK_EDITOR", `SELECT * FROM notebook_delete(notebook_id='N.ONE', really_do_it=TRUE)`, "SERVER_ADMIN"},
	} {
		s := w.session(only(c.permission), nil, w.host("eve"))
		s.want(c.query)
		s.wantLog("permission denied: " + c.lacks + " is needed")
	}
	if all := w.notebooks.Timelines(w.notebook("N.ONE")); len(all) != 1 {
		t.Errorf("%d timelines", len(all))
	}
	s := w.session(only("READ_RESULTS"), nil, w.host("eve"))
	s.want(`SELECT name FROM timelines(notebook_id='N.ONE')`, `{"name":"Super"}`)
}

func TestBadTimelinesAreToldClearly(t *testing.T) {
	w := newWorld(t)
	s := w.admin() // in no notebook
	add := func(notebook, timeline, name string) string {
		return fmt.Sprintf(`SELECT timeline_add(notebook_id='%s', timeline=%q, name=%q, key='T', query={SELECT 1 AS T FROM scope()}) AS X FROM scope()`, notebook, timeline, name)
	}
	for query, text := range map[string]string{
		add("", "S", "a"):                   "timeline_add: notebook_id is needed outside of notebooks (the variable NotebookId is not set)",
		`SELECT NULL AS X FROM timelines()`: "timelines: notebook_id is needed outside of notebooks",
		add("N.../../x", "S", "a"):          "timeline_add: notebook id \"N.../../x\": invalid identifier",
		add("C.0123456789abcdef", "S", "a"): "timeline_add: notebook id",
		add("N.ONE", "S", "a\nb"):           "is not 1 to 250 bytes of printable text",
		add("N.ONE", "", "a"):               "is not 1 to 250 bytes of printable text",
		`SELECT NULL AS X FROM timeline(notebook_id='N.ONE', timeline='S')`: `timeline: timeline "S" of notebook N.ONE: no such timeline`,
	} {
		for _, row := range s.rows("%s", query) {
			if row != `{"X":null}` {
				t.Errorf("%s gave %s", query, row)
			}
		}
		s.wantLog(text)
	}
	s.rows("%s", add("N.ONE", "../../S", ".."))
	s.want(`SELECT * FROM timeline(notebook_id='N.ONE', timeline='../../S', start='whenever')`)
	s.wantLog(`timeline: start "whenever" is no time`)
	s.want(`SELECT _Source FROM timeline(notebook_id='N.ONE', timeline='../../S')`, `{"_Source":".."}`)
	top, err := os.ReadDir(filepath.Join(w.store.Root(), "notebooks"))
	if must(t, err); len(top) != 1 || top[0].Name() != "N.ONE" {
		t.Errorf("folders: %v", top)
	}
	bare := w.session(nil, nil, &server.Host{})
	bare.want(`SELECT * FROM timelines(notebook_id='N.ONE')`)
	bare.wantLog("timelines: notebooks: not available in this version")
}

// refusal is a ledger that takes no entry.
type refusal struct{ err error }

func (r refusal) Propose(context.Context, *buspb.Mutation) error { return r.err }

// Rows that are surely not named go; where nobody knows, they stay.
func TestRowsOfARefusedTimelineAreDropped(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		err  error
		left int
	}{{notebooks.ErrDeleted, 0}, {errors.New("the bus broke"), 1}} {
		h := w.host("ada")
		h.Ledger = refusal{fmt.Errorf("propose: %w", c.err)}
		s := w.session(roles{"administrator"}, vql.NewDict().Set("NotebookId", "N.ONE"), h)
		s.want(addLogins, `{"Name":null}`)
		s.wantLog("timeline_add: propose: " + c.err.Error())
		left := 0
		if _, err := os.Stat(filepath.Join(w.store.Root(), "notebooks", "N.ONE")); err == nil {
			left = len(w.notebookFiles())
		}
		if left != c.left {
			t.Errorf("%v: %d files are left", c.err, left)
		}
	}
}

// A query that is told to stop leaves what was there before.
func TestABrokenOffQueryAddsNothing(t *testing.T) {
	w := newWorld(t)
	w.in("N.ONE").want(addLogins, `{"Name":"Super"}`)
	s := w.in("N.ONE")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1) // one value: how it ended
	go func() {
		ended <- s.each(ctx, `SELECT timeline_add(timeline='Super', name='logins', key='T', query={
			SELECT 1700000000 + _value AS T, log(message='begun') AS L FROM range(end=1000000000)}) AS X FROM scope()`,
			func(*vql.Dict) error { return nil })
	}()
	testkit.Eventually(t, "rows come", func() (any, bool) { return s.log(), strings.Contains(s.log(), "begun") })
	stop()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("it ended with %v", err)
	}
	w.in("N.ONE").want(`SELECT timelines[0].rows AS Rows FROM timelines()`, `{"Rows":3}`)
	if files := w.notebookFiles(); len(files) != 1 {
		t.Errorf("files: %v", files)
	}
}

// Rows that do not fit into the session's memory come back from its temporary file as
// they were.
func TestTimelinesAreSortedBeyondMemory(t *testing.T) {
	w := newWorld(t)
	s := &session{t: t, scope: w.engine.NewScope(vql.SessionOptions{
		Env: vql.NewDict().Set("NotebookId", "N.ONE"), Services: []any{w.host("ada")}, Limits: vql.Limits{TempDir: t.TempDir(), SpillBytes: 3000},
	})}
	defer s.scope.Close()
	s.want(`SELECT timeline_add(timeline='S', name='a', key='T', query={
		SELECT 1700000000.25 + (500 - _value) AS T, _value AS N FROM range(end=500)}).timelines[0].rows AS Rows FROM scope()`, `{"Rows":500}`)
	if s.scope.Stats().BytesSpilled == 0 {
		t.Error("nothing was spilled")
	}
	got := s.rows(`SELECT Timestamp, N FROM timeline(timeline='S') WHERE N > 497 OR N < 1`)
	want := `{"Timestamp":"2023-11-14T22:13:21.25Z","N":499} {"Timestamp":"2023-11-14T22:13:22.25Z","N":498} {"Timestamp":"2023-11-14T22:21:40.25Z","N":0}`
	if strings.Join(got, " ") != want {
		t.Errorf("%s", got)
	}
}
