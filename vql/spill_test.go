package vql_test

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"raptorpack/vql"
)

// spilled runs a program with and without spilling and expects the same rows.
func spilled(t *testing.T, text string) []string {
	t.Helper()
	want := rows(t, text)
	dir := t.TempDir()
	for _, size := range []int64{1, 3000} {
		scope, l := session(t, vql.SessionOptions{Limits: vql.Limits{SpillBytes: size, TempDir: dir}})
		got, err := query(t, scope, text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s at %d bytes (-memory +spilled)\n%s\nlog %q", text, size, diff, l.all())
		}
		if scope.Stats().BytesSpilled == 0 {
			t.Errorf("%s at %d bytes: nothing was spilled", text, size)
		}
		scope.Close()
	}
	left, err := os.ReadDir(dir)
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files are left: %v, %v", left, err)
	}
	return want
}

func TestSortSpillsAndStaysStable(t *testing.T) {
	const source = "SELECT _value AS N, _value * 7 / 100 AS F, format(format='k%02d', args=_value * 13 - int(int=_value * 13 / 10) * 10) AS K FROM range(end=300)"
	for _, order := range []string{"K", "K DESC", "F", "N DESC", "Missing", "Missing DESC"} {
		got := spilled(t, fmt.Sprintf("SELECT * FROM foreach(row={%s}) ORDER BY %s", source, order))
		if len(got) != 300 {
			t.Errorf("ORDER BY %s: %d rows", order, len(got))
		}
	}
}

func TestSpillKeepsTypes(t *testing.T) {
	got := spilled(t, `
LET X = SELECT dict(k=2, s='2023-11-14T22:13:20Z', t=timestamp(epoch=1700000000), f=2.0, i=-1, b=TRUE, n=NULL, by='\xff\x00',
    d=dict(z=1, a=(1, 'x', dict(q=NULL))), p=path(p='/a/b'), o=odd(), ob=object()) AS D, 2 AS k FROM range(end=30)
LET Y <= SELECT D.s AS s, D.t AS t, D.f AS f, D.i AS i, D.b AS b, D.n AS n, D.by AS by, D.d AS d, D.p AS p, D.o AS o, D.ob AS ob, k FROM X
SELECT *, typeof(x=s) AS TS, typeof(x=t) AS TT, typeof(x=f) AS TF, typeof(x=i) AS TI, p.Basename AS PB, o.u + 1 AS U, ob.Name AS ON, ob.Double AS OD, d.a[2].q AS Q FROM Y ORDER BY k LIMIT 2`)
	for _, want := range []string{
		`"TS":"string"`, `"TT":"time.Time"`, `"TF":"float64"`, `"TI":"int64"`, `"PB":"b"`, `"U":6`, `"ON":"n"`, `"OD":"twice"`,
		`"by":"\ufffd\u0000"`, `"t":"2023-11-14T22:13:20Z"`, `"b":true`, `"big":9223372036854775808`,
	} {
		if !strings.Contains(got[0], want) {
			t.Errorf("no %s in %s", want, got[0])
		}
	}
}

func TestGroupsSpillAndKeepTheirOrderAndState(t *testing.T) {
	got := spilled(t, `
SELECT K, count() AS C, sum(item=N) AS S, min(item=N) AS Mi, max(item=N) AS Ma, enumerate(items=N) AS E
FROM foreach(row={SELECT _value AS N, _value * 7 - int(int=_value * 7 / 50) * 50 AS K FROM range(end=200)}) GROUP BY K`)
	if len(got) != 50 || got[0] != `{"K":0,"C":4,"S":300,"Mi":0,"Ma":150,"E":[0,50,100,150]}` || !strings.HasPrefix(got[1], `{"K":7,`) {
		t.Errorf("%d groups, the first %q", len(got), got[:2])
	}
	spilled(t, "SELECT K, count() AS C FROM foreach(row={SELECT _value, _value - int(int=_value / 30) * 30 AS K FROM range(end=100)}) GROUP BY K ORDER BY K DESC LIMIT 5")
}

func TestMaterialisedQueriesSpill(t *testing.T) {
	spilled(t, `
LET M <= SELECT _value AS V, format(format='text %d', args=_value) AS T FROM range(end=100)
SELECT M[0] AS A, M[-1].T AS B, M[3:5] AS C, M[100] AS D, len(list=M) AS E, M.V[99] AS F, len(list=M.T) AS G,
       if(condition=M, then=1) AS H, (0,) + M[1:2] AS I FROM scope()
SELECT * FROM M WHERE V > 97
SELECT count() AS N FROM foreach(row=M, query={SELECT * FROM M WHERE V = 5}) GROUP BY 1
LET N <= SELECT * FROM range(end=20)
SELECT N AS Whole, serialize(item=N, format='csv') AS Csv FROM scope()`)
}

func TestSpillFailureIsTold(t *testing.T) {
	scope, l := session(t, vql.SessionOptions{Limits: vql.Limits{SpillBytes: 1, TempDir: "/nonexistent/folder"}})
	if _, err := query(t, scope, "SELECT * FROM range(end=5) ORDER BY _value SELECT count() AS C FROM range(end=5) GROUP BY _value LET x <= SELECT * FROM range(end=4)"); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"ERROR:ORDER BY: make temporary file", "ERROR:GROUP BY: make temporary file", "ERROR:LET x <=: make temporary file"} {
		if !l.contain(want) {
			t.Errorf("no %q in %q", want, l.all())
		}
	}
}
