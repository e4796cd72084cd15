package vql_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"raptorpack/vql"
)

// Eight workers over many primitives give the rows that one gives, in some order.
func TestForeachWorkersGiveTheSameRows(t *testing.T) {
	const text = `
LET f(n) = n * 2 + 1
LET Sub(n) = SELECT _value + n AS V FROM range(end=3) WHERE V =~ ('[0-9]' + '')
LET Cache <= memoize(query={SELECT str(str=_value) AS K, _value AS V FROM range(end=100)}, key='K')
SELECT * FROM foreach(row={SELECT _value AS I FROM range(end=60)}, %s query={
  SELECT I, count() > 0 AS C, f(n=I) AS F, Sub(n=I).V AS S, {SELECT count() AS N FROM range(end=I) GROUP BY 1} AS N,
    format(format='%%05d', args=I) AS T, dict(a=I, b=(1, I)) + dict(c=TRUE) AS D, I =~ '1' AS M, eval(func='x=>x+1', args=I) AS L,
    get(item=Cache, field=str(str=I)) AS G, split(string='a,b', sep_string=',') AS P, timestamp(epoch=I) AS W,
    serialize(item=dict(a=I), format='json') AS J, regex(s=I) AS Missing, if(condition=I > 30, then='high', else='low') AS H,
    filter(list=(1, 2, I), condition='x=>x > 1') AS Q, base64encode(string='x') AS B, join(array=(1, I), sep='-') AS JJ
  FROM scope() ORDER BY I })`
	one := rows(t, fmt.Sprintf(text, ""))
	if len(one) != 60 {
		t.Fatalf("%d rows", len(one))
	}
	eight := rows(t, fmt.Sprintf(text, "workers=8,"))
	slices.Sort(one)
	slices.Sort(eight)
	if !slices.Equal(one, eight) {
		t.Errorf("one worker gives\n%s\neight give\n%s", strings.Join(one[:3], "\n"), strings.Join(eight[:min(3, len(eight))], "\n"))
	}
}

// What the engine does with stars, repeated names, WHERE and groups is what the
// host's own loop does: EXPLAIN leaves the query to the engine.
func TestOwnLoopGivesTheEnginesRows(t *testing.T) {
	for _, text := range []string{
		"*, _value + 1 AS _value, 9 AS Z FROM range(end=3)",
		"9 AS Z, *, 8 AS Y FROM range(end=3) WHERE Z = 9",
		"count() AS A, 2 AS B, count() AS A FROM range(end=3)",
		"*, count() AS _value FROM range(end=3)",
		"count() AS A, count() AS A FROM range(end=4) WHERE A > 1",
		"_value AS V, V AS W FROM range(end=3) WHERE V > 0",
		"_value AS V FROM range(end=5) WHERE V > 1 LIMIT 2",
		"* FROM range(end=5) LIMIT 0",
		"_value AS V FROM range(end=5) ORDER BY V DESC LIMIT 2",
		"count() AS C, _value > 2 AS K, * FROM range(end=6) GROUP BY K",
		"count() AS C, enumerate(items=_value) AS E FROM range(end=6) WHERE C != 3 GROUP BY C > 3",
		"count() AS C, _value FROM range(end=6) GROUP BY _value - int(int=_value / 2) * 2, C ORDER BY C DESC",
		"{SELECT _value FROM range(end=3)} AS A, {SELECT 1 AS P, 2 AS Q FROM scope()} AS B, {SELECT * FROM range(end=0)} AS C FROM range(end=2)",
		"* FROM objects()",
		"* FROM objects() WHERE Name = 'row'",
		"Nothing FROM range(end=1) WHERE Nothing OR TRUE",
		"* FROM nosuch()",
		"* FROM nosuch",
		"* FROM Q",
		"* FROM Q WHERE _value > 0",
		"* FROM P(n=2)",
		"* FROM P(m=2)",
		"* FROM D.rows",
		"* FROM M WHERE A > 0",
		"M[0].A AS X, Q._value AS Y, Q[1] AS Z, P(n=5).N AS N FROM scope()",
		"_value IN Q._value AS A, _value =~ format(format='%d', args=1) AS B, _value >= 1 AS C FROM range(end=2)",
		"* FROM foreach(row=Q, query={SELECT *, _value * 10 AS T FROM range(end=2)})",
		"* FROM if(condition=Q, then=M, else=Q)",
		"* FROM chain(a=Q, b={SELECT * FROM M}, c=D)",
		"lazycell().x AS X, odd() AS O FROM scope()",
	} {
		const lets = "LET Q = SELECT * FROM range(end=3) LET P(n, m=7) = SELECT n AS N, m AS M2, count() AS C FROM range(end=2) " +
			"LET D = dict(`rows`=(dict(z=1), dict(z=2))) LET M <= SELECT _value AS A FROM range(end=3) "
		own, ownLog := session(t, vql.SessionOptions{})
		got, err := query(t, own, lets+"SELECT "+text)
		if err != nil {
			t.Fatal(err)
		}
		engine, engineLog := session(t, vql.SessionOptions{})
		want, err := query(t, engine, lets+"EXPLAIN SELECT "+text)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s\ngives\n%s\nthe engine gives\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
		if a, b := mistakes(ownLog), mistakes(engineLog); !slices.Equal(a, b) {
			t.Errorf("%s\nlogs %q\nthe engine logs %q", text, a, b)
		}
	}
}

// mistakes are the errors and warnings of a log, without the list of the scope's
// variables.
func mistakes(l *logs) []string {
	var out []string
	for _, line := range l.all() {
		if strings.HasPrefix(line, "ERROR") || strings.HasPrefix(line, "WARN") {
			line, _, _ = strings.Cut(line, " Current Scope")
			out = append(out, line)
		}
	}
	return out
}
