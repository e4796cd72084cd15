package vql_test

import (
	"regexp"
	"strings"
	"testing"

	"raptorpack/vql"
)

func TestTemplatesAreBounded(t *testing.T) {
	grow := `{{$x := "0123456789"}}` + strings.Repeat(`{{$x = print $x $x}}`, 60)
	nest := `{{$x := list 1}}` + strings.Repeat(`{{$x = list $x $x}}`, 60)
	for _, text := range []string{
		`{{repeat 10000000000 "x"}}`, `{{until 10000000000 | len}}`, `{{untilStep 0 10000000000 1 | len}}`,
		`{{seq 1 10000000000}}`, `{{randAlpha 10000000000}}`, `{{indent 10000000000 "x"}}`,
		`{{$x := repeat 1000000 "x"}}{{replace "x" $x $x}}`, `{{$x := repeat 1000000 "x"}}{{regexReplaceAll "x" $x $x}}`,
		`{{$x := repeat 1000000 "x"}}{{join $x (until 100000)}}`,
		`{{printf "` + strings.Repeat(`%1000000d`, 2000) + `"}}`,
		grow, nest + `{{$x}}`, nest + `{{toJson $x}}`,
		`{{$d := dict}}{{$_ := set $d "a" $d}}{{$d}}`,
	} {
		for _, html := range []string{"TRUE", "FALSE"} {
			scope, l := session(t, vql.SessionOptions{Env: vql.NewDict().Set("T", text)})
			got, err := query(t, scope, "SELECT template(template=T, expansion=dict(), html="+html+") AS A FROM scope()")
			if err != nil {
				t.Fatal(err)
			}
			wantRows(t, got, `{"A":null}`)
			if !l.contain("too large") {
				t.Errorf("%.50s: log %q", text, l.all())
			}
		}
	}
	wantRows(t, rows(t, `SELECT template(template='{{repeat 3 "x"}} {{until 3}} {{printf "%5d|%s" 7 .a}} {{join "," (list 1 2)}} {{indent 2 "y"}} {{replace "a" "b" "aa"}} {{seq 3}} {{splitList "," "p,q"}} {{regexReplaceAll "b+" "abb" "<$0>"}} {{list .a (dict "k" 1)}}', expansion=dict(a='A')) AS A FROM scope()`),
		`{"A":"xxx [0 1 2]     7|A 1,2   y bb 1 2 3 [p q] a<bb> [A map[k:1]]"}`)
}

func TestTextsAreBounded(t *testing.T) {
	wantRows(t, rows(t, `
LET Wide = '%[1]1000000d' * 20000
LET Again = '%[1]s' * 1000000
LET Long = 'x' * 1000000
SELECT format(format=Wide, args=1) AS A, format(format=Again, args=Long) AS B, format(format='%*d', args=(5, 7)) AS C,
       len(list=format(format='%s%s', args=(Long, Long))) AS D, log(message=Wide, args=1) AS E,
       join(array='x,' * 10000, sep=Long) = 'x,' * 10000 AS F, join(array=split(string='x,' * 10000, sep_string=','), sep=Long) AS G FROM scope()`),
		`{"A":false,"B":false,"C":"    7","D":2000000,"E":null,"F":true,"G":null}`)
	// The buffer of rows is not made as large as it is asked for.
	wantRows(t, rows(t, "SELECT * FROM delay(query={SELECT 1 AS A FROM scope()}, delay=0, buffer_size=10000000000)"), `{"A":1}`)
}

func TestReplacementsAreBounded(t *testing.T) {
	x, long := regexp.MustCompile("x"), strings.Repeat("x", 20_000)
	if _, err := vql.ReplaceAll(x, long, long); err == nil {
		t.Error("a text was made thousands of times as long")
	}
	if _, err := vql.ReplaceAllFunc(x, long, func(string) string { return long }); err == nil {
		t.Error("a text was made thousands of times as long by a function")
	}
	got, err := vql.ReplaceAll(regexp.MustCompile("^x(x)"), long, "${1}y"+long)
	if err != nil || len(got) != 40_000 {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
}
