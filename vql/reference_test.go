package vql_test

import (
	"strings"
	"testing"

	"raptorpack/vql"
)

// Each line holds a sentence of the reference that once was not kept.
func TestSentencesOfTheReference(t *testing.T) {
	const q = "LET S = SELECT _value AS V FROM range(end=3) LET e = 1 + 1 "
	for _, c := range []struct{ query, want string }{
		// Queries and lazy members are made real inside arrays, too.
		{q + "SELECT (S, 1) AS A FROM scope()", `{"A":[[{"V":0},{"V":1},{"V":2}],1]}`},
		{q + "SELECT (lazy_dict(a=e), 1) AS A FROM scope()", `{"A":[{"a":2},1]}`},
		{q + "SELECT dict(a=(lazy_dict(a=e),)) AS A FROM scope()", `{"A":{"a":[{"a":2}]}}`},
		{q + "SELECT (lazy_dict(a=e), dict(a=3)).a AS A FROM scope()", `{"A":[2,3]}`},
		{q + "SELECT str(str=(timestamp(epoch=5), dict(a=1))) AS A FROM scope()", `{"A":"[1970-01-01T00:00:05Z {\"a\":1}]"}`},
		// CSV: containers as JSON.
		{q + "SELECT serialize(format='csv', item=(dict(a=(1, 2), b=S, c=NULL, d=2.0),)) AS A FROM scope()", `{"A":"a,b,c,d\n\"[1,2]\",\"[{\"\"V\"\":0},{\"\"V\"\":1},{\"\"V\"\":2}]\",,2\n"}`},
		// slice takes lists, and a query is the list of its rows.
		{q + "SELECT slice(list=S, start=1, end=2) AS A FROM scope()", `{"A":[{"V":1}]}`},
		// typeof names the value made real.
		{q + "SELECT typeof(a=S) AS A, typeof(a=(1,)) AS B, typeof(a=lazy_dict(a=1)) AS C FROM scope()", `{"A":"[]types.Any","B":"[]types.Any","C":"*ordereddict.Dict"}`},
	} {
		if got := rows(t, c.query); len(got) != 1 || got[0] != c.want {
			t.Errorf("%s\ngot  %s\nwant %s", c.query, strings.Join(got, "\n     "), c.want)
		}
	}
}

func TestClockPrintsNoMonotonicReading(t *testing.T) {
	for _, row := range rows(t, "SELECT String FROM clock(ms=1) LIMIT 1") {
		if strings.Contains(row, "m=") {
			t.Error(row)
		}
	}
}

func TestMemoizeTellsOfRowsWithoutItsKey(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{})
	got, err := query(t, scope, "LET M <= memoize(key='K', query={SELECT * FROM chain(a={SELECT 'k' AS K FROM scope()}, b={SELECT 1 AS V FROM range(end=2)})}) SELECT M.k AS A FROM scope()")
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":{"K":"k"}}`)
	if !l.contain("memoize: left out 2 rows without the column K") {
		t.Errorf("the log says %q", l.all())
	}
}

func TestPathArgumentsTakeQueriesAndRefuseOtherDicts(t *testing.T) {
	options := vql.SessionOptions{Accessors: map[string]vql.Accessor{"auto": opaque{"auto"}}}
	scope, l := session(t, options)
	got, err := query(t, scope, `
SELECT every(need='', pp={SELECT 'x' + str(str=_value) AS P FROM range(end=2)}).pp AS A, every(need='', p=dict(Path='y', DelegatePath='/z')).p AS B FROM scope()
SELECT every(need='', p=dict(a=1, b=2)) AS A FROM scope()
SELECT every(need='', pp=(dict(a=1, b=2), 'x')) AS A FROM scope()`)
	if err != nil {
		t.Fatal(err)
	}
	wantRows(t, got, `{"A":["/auto/x0","/auto/x1"],"B":"/auto/{\"Path\":\"y\",\"DelegatePath\":\"/z\"}"}`, `{"A":null}`, `{"A":null}`)
	if !l.contain("every: Field p Expecting a path arg type, not *ordereddict.Dict") {
		t.Errorf("the log says %q", l.all())
	}
}

func TestAlertsNameTheArtifactThatRaisesThem(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{Artifacts: nested{"SELECT alert(name='inner') FROM scope()"}})
	program, err := vql.Parse("SELECT alert(name='outer', n=1) FROM scope() SELECT alert(name='none', condition=FALSE) FROM scope() SELECT * FROM Artifact.X()")
	if err != nil {
		t.Fatal(err)
	}
	if err := scope.RunProgram(vql.InArtifact(t.Context(), "My.Artifact/Source"), program, func(*vql.Dict) error { return nil }); err != nil {
		t.Fatal(err)
	}
	log := l.all()
	if len(log) != 2 || !strings.Contains(log[1], `"artifact":"X"`) || !strings.HasPrefix(log[0], `ALERT:{"name":"outer","timestamp":"`) || !strings.HasSuffix(log[0], `Z","artifact":"My.Artifact","event_data":{"n":1}}`) {
		t.Errorf("the log says %q", log)
	}
}
