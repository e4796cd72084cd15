package main

import (
	"fmt"
	"strings"
)

// workload is a program that both sides run with N as the number of rows.
type workload struct {
	name string
	text string
	// share of the rows that the program gets: dear rows are fewer.
	share float64
	// aim is the ratio of the host's processor time to the engine's that is asked
	// for.
	aim float64
	// json: each row is written as a JSON line.
	json bool
	// load, when set, is measured in place of a query.
	load func() (host, bare func() error, err error)
}

// notSlower is the aim of whatever the host only passes on.
const notSlower = 1.05

func workloads() []workload {
	return []workload{
		{name: "filter", share: 1, aim: notSlower, text: "SELECT _value FROM range(end=N) WHERE _value < 100"},
		{name: "regex", share: 1, aim: notSlower, text: "SELECT _value FROM range(end=N) WHERE 'svchost-worker-17.exe' =~ 'host.*[0-9]+' AND _value < 100"},
		{name: "group-10", share: 1, aim: 0.5, text: "SELECT G, count() AS C, sum(item=_value) AS S FROM numbers(end=N) GROUP BY G"},
		{name: "group-100000", share: 3.4, aim: 0.5, text: "SELECT W, count() AS C, sum(item=_value) AS S FROM numbers(end=N) GROUP BY W"},
		{name: "order-by", share: 1, aim: 0.5, text: "SELECT W, G, _value FROM numbers(end=N) ORDER BY W"},
		{name: "nested-foreach", share: 1, aim: notSlower, text: "SELECT * FROM foreach(row={SELECT _value AS X FROM range(end=N)}, query={SELECT X, _value FROM range(end=2)})"},
		{name: "let-function", share: 1, aim: notSlower, text: "LET f(a, b) = a + b * 2 SELECT f(a=_value, b=3) AS A FROM range(end=N)"},
		{name: "format", share: 1, aim: notSlower, text: "SELECT format(format='%d of %v: %s', args=(_value, 7, 'text')) AS A FROM range(end=N)"},
		{name: "parse-json", share: 0.5, aim: notSlower, text: `SELECT parse_json(data='{"a":1,"b":[1,2,{"c":"text"}],"d":{"e":1.5,"f":null,"g":true}}') AS A FROM range(end=N)`},
		{name: "dict", share: 1, aim: notSlower, text: "SELECT dict(a=_value, b='x', c=3, d=dict(e=1)) AS A FROM range(end=N)"},
		{name: "sub-select", share: 0.5, aim: notSlower, text: "SELECT {SELECT _value FROM range(end=3)} AS A FROM range(end=N)"},
		{name: "lambda", share: 1, aim: notSlower, text: "SELECT eval(func='x=>x * 2 + 1', args=_value) AS A FROM range(end=N)"},
		{name: "json-10", share: 1, aim: 1.0 / 3, json: true, text: "SELECT _value AS A, W AS B, 'some text' AS C, 1.5 AS D, TRUE AS E, G AS F, 'C:\\\\Windows\\\\System32\\\\x.exe' AS G, NULL AS H, _value AS I, W AS J FROM numbers(end=N)"},
		{name: "parse-artifact", aim: notSlower, load: artifactLoad},
	}
}

// artifactSize is about how long the measured artifact is, in bytes.
const artifactSize = 250 << 10

// bigArtifact makes an artifact as the community writes them, only longer.
func bigArtifact() string {
	var b strings.Builder
	b.WriteString("name: Bench.Large\ndescription: A long artifact.\nparameters:\n- name: Glob\n  default: /etc/*\nsources:\n- query: |\n")
	for i := 0; b.Len() < artifactSize; i++ {
		fmt.Fprintf(&b, "    LET files_%d(Glob) = SELECT OSPath, Size, timestamp(epoch=Mtime) AS Modified, hash(path=OSPath).SHA256 AS Hash\n", i)
		fmt.Fprintf(&b, "      FROM glob(globs=Glob)\n      WHERE NOT IsDir AND Size > %d AND OSPath =~ 'conf_%d' -- of interest\n\n", i, i)
	}
	b.WriteString("    SELECT * FROM files_0(Glob=Glob) ORDER BY Size LIMIT 50\n")
	return b.String()
}
