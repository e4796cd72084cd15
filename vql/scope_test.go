package vql_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"raptorpack/vql"
)

func wantRows(t *testing.T, got []string, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("rows (-want +got)\n%s", diff)
	}
}

func TestPanicsBecomeLogLines(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "SELECT boom() AS A, 1 AS B FROM scope() SELECT n FROM boomrows() SELECT object().Panics AS P FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":null,"B":1}`, `{"n":1}`, `{"P":null}`)
	if !l.contain("ERROR:PANIC: boom: kaboom") || !l.contain("ERROR:PANIC: boomrows: kaboom") {
		t.Errorf("the log says %q", l.all())
	}
}

func TestErrorsBecomeLogLinesAndNull(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{Permissions: noPermissions{}})
	got, err := query(t, scope, "SELECT fails() AS A, elsewhere() AS B, guarded() AS C, version(function='elsewhere') AS D FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":null,"B":null,"C":null,"D":null}`)
	for _, want := range []string{
		"DEFAULT:fails: it is broken",
		"DEFAULT:elsewhere: not available on " + runtime.GOOS,
		"ERROR:guarded: permission denied: EXECVE is needed",
	} {
		if !slices.Contains(l.all(), want) {
			t.Errorf("no line %q in %q", want, l.all())
		}
	}
}

func TestWhatAMachineCannotHasNoVersion(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "SELECT unable() AS A, version(function='unable') AS B, able() AS C, version(function='able') AS D FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":null,"B":null,"C":1,"D":1}`)
	if !slices.Contains(l.all(), "DEFAULT:unable: this machine cannot") {
		t.Errorf("the log says %q", l.all())
	}
}

type noPermissions struct{}

func (noPermissions) Allowed(string) bool { return false }

func TestArgumentsAreConverted(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Accessors: map[string]vql.Accessor{"auto": opaque{"auto"}, "x": opaque{"x"}}})
	got, err := query(t, scope, `
SELECT every(need='', s=5, ss=('a', 2, dict(k='v')), i=2.9, u=TRUE, f=1, b='x', t=5, d=dict(a=1), any=NULL, aa=1,
             opt=0, l='x=>x * 2', p='a', accessor='x', query=(1, 2, NULL)) AS R FROM scope()
SELECT every(need='', ss='one', s=('only',), aa=(1, 2), p='b', pp=('c', 'd'), query=5, i=NULL) AS R FROM scope()
SELECT every(need=1, p='b', pp=('c', 'd'), query=5).p AS R FROM scope()`)
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got,
		`{"R":{"s":"5","ss":["a","2","v","{\"k\":\"v\"}"],"i":2,"u":1,"f":1,"b":true,"t":"1970-01-01T00:00:05Z","d":{"a":1},"any":null,"aa":[1],"opt":0,"l":8,"p":"/x/a","n":2}}`,
		`{"R":null}`,
		`{"R":"/auto/b"}`,
	)
}

func TestArgumentMistakesAreNamed(t *testing.T) {
	for call, want := range map[string]string{
		"every()":                                "every: Field need is required",
		"every(need='', foo=1)":                  "every: Unexpected arg foo",
		"every(need='', i='x')":                  "every: Field i should be an int not string.",
		"every(need='', f=(1,2))":                "every: Field f should be a float not []types.Any.",
		"every(need='', d=5)":                    "every: Field d should be a dict not int64.",
		"every(need='', d=NULL)":                 "every: Field d should be a dict not types.Null.",
		"every(need='', l='((')":                 "every: Field l should be a lambda",
		"every(need='', p='x', accessor='nope')": "every: Field p unknown accessor nope",
	} {
		scope, l := session(t, vql.SessionOptions{})
		got, err := query(t, scope, "SELECT "+call+" AS A FROM scope()")
		if err != nil {
			t.Fatal(err)
		}
		wantRows(t, got, `{"A":null}`)
		if !l.contain(want) {
			t.Errorf("%s: no line with %q in %q", call, want, l.all())
		}
	}
}

func TestStarStarReplacesTheArguments(t *testing.T) {
	wantRows(t, rows(t, "SELECT dict(`**`=dict(a=1)) AS A, len(`**`=dict(list='ab')) AS B FROM scope()"),
		`{"A":{"**":{"a":1}},"B":2}`)
}

func TestHostObjectsShowTheirMembers(t *testing.T) {
	got := rows(t, `
SELECT object().Name AS A, object().other AS B, object().Double AS C, object().Broken AS D, object().Needs AS E,
       object().Mode + 0 AS F, object().Duration AS G, object().List[1] AS H FROM scope()
SELECT Name, Double FROM objects()
LET O = odd() SELECT O.u + 1 AS A, O.f * 2 AS B, O.u = 5 AS C, O.m > 7 AS D, O.d - 1 AS E, O.bytes AS F, O.nil AS G, O.big AS H, O.list AS I, O.u =~ '5' AS J FROM scope()
SELECT lazycell().x AS A, lazycell() AS B FROM scope()`)
	wantRows(t, got,
		`{"A":"n","B":7,"C":"twice","D":"half","E":null,"F":420,"G":1000000000,"H":2}`,
		`{"Name":"row","Double":"twice"}`,
		`{"A":6,"B":3,"C":true,"D":true,"E":2,"F":"aGk=","G":null,"H":9223372036854775808,"I":[1,2],"J":true}`,
		`{"A":"late","B":{"x":"late"}}`)
}

func TestPathsInQueries(t *testing.T) {
	got := rows(t, `
LET P = path(p='/a/b/c')
SELECT P + 'x' AS A, P + '/x/y' AS B, P[-1] AS C, P[0] AS D, P[1:] AS E, P =~ 'B/C$' AS F, P = '/a/b/c' AS G,
       P.Basename AS H, P.Dirname AS I, P.Components AS J, P[9] AS K, format(format='%v', args=P) AS L FROM scope()`)
	wantRows(t, got, `{"A":"/a/b/c/x","B":"/a/b/c/x/y","C":"c","D":"a","E":"/b/c","F":true,"G":true,"H":"c","I":"/a/b","J":["a","b","c"],"K":null,"L":"/a/b/c"}`)
}

func TestRepeatedMessagesComeOnceWithTheirCount(t *testing.T) {
	l := &logs{}
	scope := engine().NewScope(vql.SessionOptions{Log: l.add})
	if _, err := query(t, scope, "SELECT nosuch FROM range(end=50)"); err != nil {
		t.Fatal(err)
	}
	if n := len(l.all()); n != 1 {
		t.Errorf("%d lines while running: %q", n, l.all())
	}
	scope.Close()
	if !l.contain("(repeated 49 times)") || len(l.all()) != 2 {
		t.Errorf("after closing: %q", l.all())
	}
	if !strings.HasPrefix(l.all()[0], "ERROR:Symbol nosuch not found. Current Scope is [") {
		t.Errorf("the line is %q", l.all()[0])
	}
}

func TestLogFunctionKeepsItsOwnCount(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	_, err := query(t, scope, `
SELECT log(message='once') FROM range(end=5)
SELECT log(message='always', dedup=-1, level='warn') FROM range(end=3)`)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"DEFAULT:once", "WARN:always", "WARN:always", "WARN:always"}
	if diff := cmp.Diff(want, l.all()); diff != "" {
		t.Error(diff)
	}
}

// cancelled runs a program that never ends and cancels it after its first row,
// or once it was started when it has none.
func cancelled(t *testing.T, text string, afterRow bool) {
	t.Helper()
	scope, _ := session(t, vql.SessionOptions{})
	p, err := vql.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	if !afterRow {
		time.AfterFunc(20*time.Millisecond, cancel)
	}
	done := make(chan error, 1)
	go func() {
		done <- scope.RunProgram(ctx, p, func(*vql.Dict) error { cancel(); return nil })
	}()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: got %v", text, err)
		}
	case <-time.After(20 * time.Second):
		t.Fatalf("%s did not stop", text)
	}
}

func TestCancellationStopsEverything(t *testing.T) {
	for _, text := range []string{
		"SELECT * FROM endless()",
		"SELECT * FROM foreach(row={SELECT * FROM endless()}, query={SELECT * FROM endless()}, workers=5)",
		"SELECT * FROM chain(a={SELECT * FROM endless()}, b={SELECT * FROM endless()}, async=TRUE)",
		"LET q = SELECT * FROM endless() SELECT * FROM q WHERE sleep(ms=1)",
		"SELECT * FROM clock(ms=1)",
		"SELECT * FROM delay(query={SELECT * FROM endless()}, delay=0)",
		"LET S = generate(query={SELECT * FROM endless()}, delay=1) SELECT * FROM S",
	} {
		cancelled(t, text, true)
	}
	for _, text := range []string{
		"SELECT * FROM endless() WHERE FALSE",
		"SELECT * FROM endless() ORDER BY i",
		"SELECT count() AS N FROM endless() GROUP BY 1",
		"LET x <= SELECT * FROM endless()",
		"SELECT sleep(time=3600) FROM scope()",
		"SELECT * FROM waits()",
		"SELECT len(list={SELECT * FROM endless()}) AS A FROM scope()",
		"LET Q = SELECT * FROM endless() SELECT Q.i AS A FROM scope()",
		"LET Q = SELECT * FROM endless() WHERE FALSE SELECT if(condition=Q, then=1) AS A FROM scope()",
		"LET Q = SELECT * FROM endless() WHERE FALSE SELECT Q[3] AS A, Q + Q AS B FROM scope()",
		"LET f(n) = f(n=n + 1) + f(n=n + 1) SELECT f(n=1) AS A FROM scope()",
		"SELECT * FROM batch(query={SELECT * FROM endless() WHERE FALSE}, batch_size=5)",
		"SELECT * FROM diff(query={SELECT * FROM range(end=0)}, key='a', period=3600)",
	} {
		cancelled(t, text, false)
	}
}

func TestRowLimit(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{Limits: vql.Limits{MaxRows: 3}})
	got, err := query(t, scope, "SELECT i FROM endless()")
	if !errors.Is(err, vql.ErrRowLimit) {
		t.Errorf("got %v", err)
	}
	if len(got) != 3 || !l.contain("ERROR:row limit reached") {
		t.Errorf("got %q, log %q", got, l.all())
	}
}

func TestTimeLimits(t *testing.T) {
	for want, limits := range map[error]vql.Limits{
		vql.ErrTimeout:    {Timeout: 30 * time.Millisecond},
		vql.ErrNoProgress: {ProgressTimeout: 30 * time.Millisecond},
	} {
		scope, _ := session(t, vql.SessionOptions{Limits: limits})
		if _, err := query(t, scope, "SELECT * FROM waits()"); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestMemoryLimit(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Limits: vql.Limits{MaxMemory: 1}})
	if _, err := query(t, scope, "SELECT * FROM endless() WHERE FALSE"); !errors.Is(err, vql.ErrMemory) {
		t.Errorf("got %v", err)
	}
}

type countingThrottle struct{ n int }

var errThrottle = errors.New("enough")

func (c *countingThrottle) Charge(context.Context) error {
	if c.n++; c.n > 100 {
		return errThrottle
	}
	return nil
}

func TestThrottleMayEndTheQuery(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Limits: vql.Limits{Throttle: &countingThrottle{}}})
	got, err := query(t, scope, "SELECT i FROM endless()")
	if !errors.Is(err, errThrottle) || len(got) < 90 || len(got) > 100 {
		t.Errorf("%d rows and %v", len(got), err)
	}
}

func TestEmitErrorsEndTheQuery(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{})
	p, _ := vql.Parse("SELECT * FROM endless()")
	mine := errors.New("mine")
	for want, give := range map[error]error{mine: mine, nil: vql.ErrStop} {
		if err := scope.Run(context.Background(), p.Statements()[0], func(*vql.Dict) error { return give }); !errors.Is(err, want) {
			t.Errorf("got %v, want %v", err, want)
		}
	}
}

func TestPanicsOfEmitAreTheCallers(t *testing.T) {
	for _, text := range []string{
		"SELECT * FROM endless()",
		"SELECT * FROM foreach(row={SELECT * FROM endless()}, query={SELECT * FROM range(end=3)}, workers=4)",
	} {
		scope, l := session(t, vql.SessionOptions{})
		p, _ := vql.Parse(text)
		func() {
			defer func() {
				if r := recover(); r != "mine" {
					t.Errorf("%s: recovered %v", text, r)
				}
			}()
			_ = scope.Run(context.Background(), p.Statements()[0], func(*vql.Dict) error { panic("mine") })
			t.Errorf("%s: Run returned", text)
		}()
		if l.contain("PANIC") {
			t.Errorf("%s: log %q", text, l.all())
		}
	}
}

func TestCloseStopsARunningQuery(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{})
	p, _ := vql.Parse("SELECT * FROM endless()")
	err := scope.Run(context.Background(), p.Statements()[0], func(*vql.Dict) error { go scope.Close(); return nil })
	if !errors.Is(err, vql.ErrClosed) {
		t.Errorf("got %v", err)
	}
	if err := scope.Run(context.Background(), p.Statements()[0], nil); !errors.Is(err, vql.ErrClosed) {
		t.Errorf("after closing: %v", err)
	}
}

func TestCounters(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{})
	if _, err := query(t, scope, "SELECT len(list='a') AS A FROM range(end=10) WHERE _value > 4 SELECT * FROM query(query='SELECT * FROM range(end=5)')"); err != nil {
		t.Fatal(err)
	}
	s := scope.Stats()
	if s.RowsScanned != 20 || s.PluginsCalled != 3 || s.FunctionsCalled < 5 || s.RowsEmitted != 10 {
		t.Errorf("%+v", s)
	}
}

func TestScopeOnCloseAndAtExit(t *testing.T) {
	l := &logs{}
	scope := engine().NewScope(vql.SessionOptions{Log: l.add})
	scope.OnClose(func() { scope.Log(vql.LevelInfo, "root closes") })
	scope.OnRootClose(func() { panic("in a clean-up") })
	_, err := query(t, scope, `
SELECT * FROM endless() LIMIT 1
SELECT atexit(query={SELECT log(message='last words') FROM scope()}), atexit(query='SELECT log(message=A) FROM scope()', env=dict(A='text')) FROM scope()`)
	if err != nil {
		t.Fatal(err)
	}
	scope.Close()
	for _, want := range []string{"endless closed", "root closes", "PANIC: clean-up", "last words", "DEFAULT:text"} {
		if !l.contain(want) {
			t.Errorf("no %q in %q", want, l.all())
		}
	}
}

func TestServicesAndCache(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Services: []any{5, "text", error(vql.ErrStop)}})
	if s, ok := vql.Service[string](scope); !ok || s != "text" {
		t.Errorf("got %q, %v", s, ok)
	}
	if e, ok := vql.Service[error](scope); !ok || e == nil {
		t.Errorf("got %v, %v", e, ok)
	}
	if _, ok := vql.Service[float64](scope); ok {
		t.Error("found a service that is not there")
	}
	calls := 0
	for range 3 {
		v, err := scope.Cache().Get("k", func() (any, error) { calls++; return calls, nil })
		if v != 1 || err != nil {
			t.Errorf("got %v, %v", v, err)
		}
	}
	if _, err := scope.Cache().Get("bad", func() (any, error) { return nil, errThrottle }); !errors.Is(err, errThrottle) {
		t.Errorf("got %v", err)
	}
	if v, err := scope.Cache().Get("bad", func() (any, error) { return 2, nil }); v != 2 || err != nil {
		t.Errorf("an error was kept: %v, %v", v, err)
	}
}

func TestEnvironmentAndZone(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{Env: vql.NewDict().Set("TZ", "Europe/Berlin").Set("X", "5")})
	got, err := query(t, scope, "SELECT X, timestamp(epoch=1700000000) AS T, timestamp(string='2023-11-14 23:13:20') = 1700000000 AS U FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"X":"5","T":"2023-11-14T23:13:20+01:00","U":true}`)
	if scope.LookupInt("X", 1) != 5 || scope.LookupInt("Y", 1) != 1 || scope.LookupString("X") != "5" {
		t.Error("look-ups differ")
	}
}

type fakeArtifacts struct{}

func (fakeArtifacts) Known(name string) (exact, prefix bool) {
	return name == "Linux.Test", strings.HasPrefix("Linux.Test", name)
}

func (a fakeArtifacts) CallArtifact(ctx context.Context, scope *vql.Scope, call vql.ArtifactCall, emit vql.Emit) error {
	clean := scope.Clean(call.Args)
	defer clean.Close()
	if v, ok := clean.Lookup("outer"); ok {
		return fmt.Errorf("the caller's variable shows: %v", v)
	}
	if v, ok := call.Args.Get("again"); ok && !vql.IsNull(v) {
		return a.CallArtifact(ctx, clean, vql.ArtifactCall{Name: call.Name, Args: vql.NewDict().Set("p", clean.ArtifactDepth())}, emit)
	}
	p, _ := call.Args.Get("p")
	return emit(vql.NewDict().Set("P", p).Set("Depth", clean.ArtifactDepth()))
}

func TestArtifactsAreCalled(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{Artifacts: fakeArtifacts{}})
	got, err := query(t, scope, "LET outer = 1 SELECT * FROM Artifact.Linux.Test(p=5) SELECT * FROM Artifact.Linux.Test "+
		"SELECT Artifact.Linux.Test(p=6) AS A, Artifact.Linux.Test(p=7).P AS B FROM scope() "+
		"SELECT * FROM Artifact.Linux.Test(again=1) SELECT * FROM Artifact.Linux.Nope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"P":5,"Depth":1}`, `{"P":null,"Depth":1}`, `{"A":[{"P":6,"Depth":1}],"B":[7]}`, `{"P":1,"Depth":2}`)
	if !l.contain("ERROR:Unknown artifact Linux.Nope") {
		t.Errorf("log %q", l.all())
	}
}

func TestExplainTraces(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "EXPLAIN SELECT _value FROM range(end=2) WHERE _value > 0")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"_value":1}`)
	want := []string{
		"DEBUG:Explain start query: EXPLAIN SELECT _value FROM range(end=2) WHERE _value > 0",
		"DEBUG:  arg parsing: {end: 2}",
		"DEBUG: plugin range() sent row: [{int _value 0}]",
		"DEBUG: REJECTED by _value > 0",
		"DEBUG: plugin range() sent row: [{int _value 1}]",
		"DEBUG: SELECT: emitting row: [{int _value 1}]",
	}
	if diff := cmp.Diff(want, l.all()); diff != "" {
		t.Error(diff)
	}
}

func TestReferenceListsEverything(t *testing.T) {
	entries := engine().Reference()
	for _, e := range entries {
		if e.Name == "range" {
			if len(e.Args) != 3 || !e.Args[1].Required || e.Args[1].Type != "int" || e.Args[1].Doc == "" || e.Columns[0] != "_value" {
				t.Errorf("%+v", e)
			}
		}
		if !strings.HasPrefix(e.Name, "boom") && e.Description == "" && engineHas(e.Name) {
			t.Errorf("%s has no description", e.Name)
		}
	}
	if len(entries) < 90 {
		t.Errorf("%d entries", len(entries))
	}
	if len(rows(t, "SELECT * FROM help() WHERE name = 'len'")) != 1 {
		t.Error("help does not know len")
	}
}

func engineHas(name string) bool {
	for _, f := range vql.CoreFunctions() {
		if f.Spec.Name == name {
			return true
		}
	}
	return false
}

func TestEngineRefusesDoubles(t *testing.T) {
	f := testFunctions()[0]
	if _, err := vql.NewEngine([]*vql.Function{f, f}, nil); err == nil {
		t.Error("two functions of one name were taken")
	}
}

func TestOverlappingStatementsEndOnTheirOwn(t *testing.T) {
	scope, _ := session(t, vql.SessionOptions{})
	endless, _ := vql.Parse("SELECT * FROM endless()")
	ctx, cancel := context.WithCancel(context.Background())
	started, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		first := true
		ended <- scope.Run(ctx, endless.Statements()[0], func(*vql.Dict) error {
			if first {
				first = false
				close(started)
			}
			return nil
		})
	}()
	<-started
	p, _ := vql.Parse("SELECT * FROM range(end=3)")
	err := scope.Run(context.Background(), p.Statements()[0], func(*vql.Dict) error {
		cancel()
		<-ended // the first one ends while this one runs
		ended <- nil
		return nil
	})
	if err != nil {
		t.Errorf("the second statement: %v", err)
	}
	if got, err := query(t, scope, "SELECT * FROM range(end=2)"); err != nil || len(got) != 2 {
		t.Errorf("afterwards: %d rows, %v", len(got), err)
	}
}

func TestEnumerateOfManyRowsIsLinear(t *testing.T) {
	got := rows(t, "SELECT len(list=E) AS L FROM foreach(row={SELECT enumerate(items=_value) AS E FROM range(end=20000) GROUP BY 1})")
	wantRows(t, got, `{"L":20000}`)
}

// nested runs the body of an artifact as a statement inside the caller's.
type nested struct{ body string }

func (nested) Known(name string) (exact, prefix bool) { return name == "X", false }

func (n nested) CallArtifact(ctx context.Context, scope *vql.Scope, call vql.ArtifactCall, emit vql.Emit) error {
	clean := scope.Clean(call.Args)
	defer clean.Close()
	p, err := vql.Parse(n.body)
	if err != nil {
		return err
	}
	return clean.RunProgram(ctx, p, func(row *vql.Dict) error { return emit(row) })
}

func TestCalledArtifactsEndAlone(t *testing.T) {
	for _, test := range []struct {
		text   string
		limits vql.Limits
		want   int
	}{
		// The row source is ahead of the called artifact and starts its plugins meanwhile.
		{text: "SELECT * FROM foreach(row={SELECT * FROM foreach(row={SELECT * FROM range(end=200)}, query={SELECT _value AS N FROM range(end=2)})}, query={SELECT * FROM Artifact.X()})", want: 1200},
		{text: "SELECT * FROM foreach(row={SELECT * FROM range(end=200)}, query={SELECT * FROM Artifact.X()}, workers=4)", want: 600},
		// The source waits for its turn while artifacts come and go.
		{text: "SELECT * FROM foreach(row={SELECT * FROM range(end=20)}, query={SELECT * FROM Artifact.X()}, workers=4)", limits: vql.Limits{OpsPerSecond: 1000}, want: 60},
		// What asks only for a first row leaves the statement around it alone.
		{text: "LET Q = SELECT * FROM Artifact.X() LIMIT 1 SELECT * FROM range(end=200) WHERE Q AND upcase(string='x') = 'X'", want: 200},
		{text: "LET Q = SELECT * FROM Artifact.X() SELECT * FROM range(end=200) WHERE Q AND upcase(string='x') = 'X'", want: 200},
		{text: "LET Q = SELECT * FROM Artifact.X() SELECT * FROM range(end=200) WHERE Q[0]._value = 0 AND upcase(string='x') = 'X'", want: 200},
		{text: "LET Q = SELECT * FROM Artifact.X() SELECT * FROM foreach(row={SELECT * FROM range(end=200)}, query={SELECT Q._value AS V FROM scope() WHERE len(list=V) = 3}, workers=4)", want: 200},
	} {
		scope, l := session(t, vql.SessionOptions{Artifacts: nested{"SELECT * FROM range(end=3)"}, Limits: test.limits})
		got, err := query(t, scope, test.text)
		if err != nil || len(got) != test.want {
			t.Errorf("%s: %d rows of %d, error %v, log %q", test.text, len(got), test.want, err, l.all())
		}
	}
}

func TestCleanUpWaitsForPrimitives(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var closed, early atomic.Bool
		lingers := vql.NewPlugin(vql.Spec{Name: "lingers"}, func(_ context.Context, scope *vql.Scope, _ *noArgs, emit vql.Emit) error {
			scope.OnRootClose(func() { closed.Store(true) })
			err := emit(vql.NewDict().Set("A", 1))
			for err == nil {
				err = emit(vql.NewDict())
			}
			time.Sleep(time.Second) // uses what clean-up takes away
			early.Store(closed.Load())
			return err
		})
		e, err := vql.NewEngine(nil, []*vql.Plugin{lingers})
		if err != nil {
			t.Fatal(err)
		}
		scope := e.NewScope(vql.SessionOptions{Limits: vql.Limits{TempDir: t.TempDir()}})
		got, err := query(t, scope, "SELECT * FROM lingers() LIMIT 1")
		if err != nil {
			t.Fatal(err)
		}
		wantRows(t, got, `{"A":1}`)
		scope.Close()
		if early.Load() || !closed.Load() {
			t.Errorf("cleaned up early %v, at all %v", early.Load(), closed.Load())
		}
	})
}

func TestForeachWorkersAreBounded(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "SELECT count() AS N FROM foreach(row={SELECT * FROM range(end=2000)}, query={SELECT _value AS V FROM scope()}, workers=1000) GROUP BY 1")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"N":2000}`)
	if !l.contain("Creating 900 workers") {
		t.Errorf("log %q", l.all())
	}
}
