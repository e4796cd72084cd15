package vql_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"raptorpack/vql"
)

func TestParseTellsStatementsApart(t *testing.T) {
	p, err := vql.Parse("-- first\nLET a = SELECT * FROM x() LET `b c`(p, q=2) = p + q /* mid */\nLET m <= SELECT 1 FROM scope()\n  EXPLAIN SELECT  a , b as C from foo(x={ select 1 from y() }, z=[1,2]) where not 1=2 limit 3")
	if err != nil {
		t.Fatal(err)
	}
	type brief struct {
		Kind       vql.Kind
		Name       string
		Normal     string
		Line, Col  int
		Parameters []vql.Parameter
	}
	var got []brief
	for _, s := range p.Statements() {
		got = append(got, brief{s.Kind, s.Name, s.Normal, s.Start.Line, s.Start.Column, s.Parameters})
	}
	want := []brief{
		{vql.KindLet, "a", "LET a = SELECT * FROM x()", 2, 1, nil},
		{vql.KindLet, "b c", "LET `b c`(p, q=2) = p + q", 2, 27, []vql.Parameter{{Name: "p"}, {Name: "q", Default: true}}},
		{vql.KindMaterialise, "m", "LET m <= SELECT 1 FROM scope()", 3, 1, nil},
		{vql.KindExplain, "", "EXPLAIN SELECT a, b AS C FROM foo(x={ SELECT 1 FROM y() }, z=[1, 2]) WHERE NOT 1 = 2 LIMIT 3", 4, 3, nil},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	comments := []vql.Comment{
		{Text: "-- first", Start: vql.Position{Offset: 0, Line: 1, Column: 1}},
		{Text: "/* mid */", Start: vql.Position{Offset: 61, Line: 2, Column: 53}},
	}
	if diff := cmp.Diff(comments, p.Comments()); diff != "" {
		t.Error(diff)
	}
}

func TestNormalFormParsesToItself(t *testing.T) {
	for _, e := range examples(t) {
		p, err := vql.Parse(e.text)
		if err != nil {
			continue
		}
		for _, s := range p.Statements() {
			again, err := vql.Parse(s.Normal)
			if err != nil {
				t.Errorf("%s: %v", s.Normal, err)
				continue
			}
			if got := again.Statements()[0].Normal; got != s.Normal {
				t.Errorf("%s came back as %s", s.Normal, got)
			}
		}
	}
}

func TestCallSites(t *testing.T) {
	p, err := vql.Parse("LET f(a, b=g(x=1)) = a + -b.c\nSELECT x.y AS Z, h(a=z, `b c`={ SELECT q FROM Artifact.A.B(p=1) }), (u, v = w)[i] FROM src WHERE NOT r GROUP BY k ORDER BY o")
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, s := range p.Statements() {
		for _, c := range s.CallSites {
			text := p.Text()[c.Start.Offset:c.End.Offset]
			got = append(got, fmt.Sprintf("%s %s %v %d:%d %s", c.Kind, c.Name, c.Args, c.Start.Line, c.Start.Column, text))
		}
	}
	want := []string{
		"function g [x] 1:12 g", "symbol a [] 1:22 a", "symbol b.c [] 1:26 -b.c",
		"symbol x.y [] 2:8 x.y", "function h [a b c] 2:18 h", "symbol z [] 2:22 z",
		"symbol q [] 2:40 q", "plugin Artifact.A.B [p] 2:47 Artifact.A.B",
		"symbol u [] 2:70 u", "symbol v [] 2:73 v", "symbol w [] 2:77 w", "symbol i [] 2:80 i",
		"symbol src [] 2:88 src", "symbol r [] 2:102 r", "symbol k [] 2:113 k",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestSyntaxErrorsHaveTheirPlace(t *testing.T) {
	for text, want := range map[string]string{
		"":                                       "1:1: there is no statement",
		"SELECT 1 FROM scope()\nSELECT ; FROM x": "2:8: statements stand one after the other, without a mark between them",
		"SELECT 1 FROM scope()\nSELECT ! FROM x": "2:8: invalid character",
		"SELECT 1 FROM scope()\n SELECT a FRM b": "2:11: ",
		"LET é = 1":                              "1:5: invalid",
		"SELECT 'abc FROM scope()":               "1:8: the string or name that begins here has no end",
		"SELECT 2-1 FROM scope()":                "1:9: ",
		"foo":                                    "1:1: ",
		"SELECT a FROM b LIMIT 99999999999999999999": "1:",
	} {
		_, err := vql.Parse(text)
		var syntax *vql.SyntaxError
		if !errors.As(err, &syntax) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q gives %v, want %s", text, err, want)
		}
	}
}

func TestDeepTextsAreRefusedNotFatal(t *testing.T) {
	const n = 30_000
	for name, text := range map[string]string{
		"brackets": "SELECT " + strings.Repeat("(", n) + "1" + strings.Repeat(")", n) + " FROM scope()",
		"open":     "SELECT " + strings.Repeat("(", n),
		"nots":     "SELECT " + strings.Repeat("NOT ", n) + "1 FROM scope()",
		"braces":   strings.Repeat("SELECT * FROM x(a={", n/10),
		"index":    "SELECT a" + strings.Repeat("[b", n) + " FROM scope()",
		"mixed":    "SELECT " + strings.Repeat("NOT (", n) + " FROM scope()",
	} {
		if _, err := vql.Parse(text); err == nil {
			t.Errorf("%s were taken", name)
		}
	}
	lambda := strings.Repeat("a,", 30_000) + "a=>1"
	scope, _ := session(t, vql.SessionOptions{})
	if _, err := scope.ParseLambda(lambda); err == nil {
		t.Error("a lambda with many parameters was taken")
	}
}

// TestRecursionInDeepExpressionsEnds would end the whole process by stack overflow
// if the depth of scopes were not bounded by the nesting of statements.
func TestRecursionInDeepExpressionsEnds(t *testing.T) {
	for _, open := range []string{"if(condition=1, then=", "(1 > "} {
		text := "LET f(n) = " + strings.Repeat(open, 149) + "f(n=1)" + strings.Repeat(")", 149) + " SELECT f(n=1) AS A FROM scope()"
		scope, l := session(t, vql.SessionOptions{})
		got, err := query(t, scope, text)
		if err != nil || len(got) != 1 || !l.contain("Stack Overflow") {
			t.Errorf("%s: %v, %d rows, %.200q", open, err, len(got), l.all())
		}
	}
}

func TestLongTextsAreTaken(t *testing.T) {
	var many strings.Builder
	for i := range 500 {
		fmt.Fprintf(&many, "LET v%d = %d\n", i, i)
	}
	sum := "SELECT 1" + strings.Repeat(" + 1", 5000) + " AS S FROM scope()"
	nested := "SELECT " + strings.Repeat("(", 100) + "7" + strings.Repeat(")", 100) + " AS N FROM scope()"
	data := "LET D = '" + strings.Repeat("x", 500_000) + "' SELECT len(list=D) AS L FROM scope()"
	start := time.Now()
	got := rows(t, many.String()+sum+" "+nested+" "+data)
	wantRows(t, got, `{"S":5001}`, `{"N":7}`, `{"L":500000}`)
	t.Logf("took %v", time.Since(start))
}

func TestReformat(t *testing.T) {
	got, err := vql.Reformat("/* head */ select a,b from  info( x=1 ) where c -- tail\n")
	if err != nil {
		t.Fatal(err)
	}
	if want := "/* head */\nSELECT a,\n       b\nFROM info(x=1)\nWHERE c\n-- tail\n"; got != want {
		t.Errorf("%s", got)
	}
	for _, lost := range []string{
		"SELECT a -- between\nFROM info()",
		"SELECT * FROM info(x=1 /* inside */)",
	} {
		if got, err := vql.Reformat(lost); err == nil && !strings.Contains(got, "between") && !strings.Contains(got, "inside") {
			t.Errorf("%s became %s", lost, got)
		}
	}
	if _, err := vql.Reformat("SELECT"); err == nil {
		t.Error("no error")
	}
}

// TestRewrite holds the engine to what rewrite.go relies on: rewritten nodes
// print as before and evaluate as the language says.
func TestRewrite(t *testing.T) {
	for expression, want := range map[string]string{
		"-x * -x > -x":                 "true",
		"x * (x + 1)":                  "6",
		"2 >= x":                       "true",
		"(x > 1, x >= 3, -x)":          "[true,false,-2]",
		"-dict(a=5).a":                 "null",
		"-len(list='abc')":             "-3",
		"-d.k":                         "-4",
		"-f(n=3)":                      "-6",
		"NOT x > 5":                    "true",
		"x > 1 AND TRUE > 0 || 0":      "true",
		"if(condition=x > 1, then=-x)": "-2",
		"'ab' * x":                     `"abab"`,
		"-b":                           "false",
		"-nosuch":                      "null",
	} {
		text := "LET x = 2 LET d = dict(k=4) LET b = TRUE LET f(n) = n * x SELECT " + expression + " AS R, " + expression + " FROM range(end=3)"
		p, err := vql.Parse(text)
		if err != nil {
			t.Fatalf("%s: %v", expression, err)
		}
		last := p.Statements()[len(p.Statements())-1]
		scope, l := session(t, vql.SessionOptions{})
		for _, s := range p.Statements() {
			err = scope.Run(context.Background(), s, func(row *vql.Dict) error {
				v, _ := row.Get("R")
				if got := string(vql.AppendJSON(nil, v)); got != want {
					t.Errorf("%s gives %s, want %s", expression, got, want)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if l.contain("PANIC") {
			t.Errorf("%s: %q", expression, l.all())
		}
		if again, err := vql.Parse(last.Normal); err != nil || again.Statements()[0].Normal != last.Normal {
			t.Errorf("%s prints as %s: %v", expression, last.Normal, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, e := range examples(f) {
		f.Add(e.text)
	}
	f.Add("SELECT (((((((((( FROM")
	f.Add("LET x(a, b={SELECT * FROM y()}) <= 'a' =~ -`b c`.d[1:2] -- c")
	f.Fuzz(func(t *testing.T, text string) {
		p, err := vql.Parse(text)
		if err != nil {
			var syntax *vql.SyntaxError
			if !errors.As(err, &syntax) {
				t.Fatalf("%T: %v", err, err)
			}
			return
		}
		for _, s := range p.Statements() {
			if _, err := vql.Parse(s.Normal); err != nil && !strings.ContainsAny(text, "`\\") {
				t.Errorf("%q has the normal form %q: %v", s.Text, s.Normal, err)
			}
			for _, c := range s.CallSites {
				if c.Start.Offset < s.Start.Offset || c.End.Offset > s.End.Offset {
					t.Errorf("%q: call site %+v lies outside", s.Text, c)
				}
			}
		}
		_, _ = vql.Reformat(text) // must not panic
	})
}

// FuzzRun evaluates whatever parses: nothing may panic or run for ever.
func FuzzRun(f *testing.F) {
	for _, e := range examples(f) {
		if !strings.Contains(e.text, "sleep") {
			f.Add(e.text)
		}
	}
	f.Fuzz(func(t *testing.T, text string) {
		p, err := vql.Parse(text)
		if err != nil || len(text) > 2000 || strings.Contains(text, "sleep") || strings.Contains(text, "clock") {
			return
		}
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		defer cancel()
		l := &logs{}
		scope := engine().NewScope(vql.SessionOptions{Log: l.add, Limits: vql.Limits{MaxRows: 500, TempDir: t.TempDir()}})
		defer scope.Close()
		_ = scope.RunProgram(ctx, p, func(row *vql.Dict) error {
			vql.AppendJSON(nil, row)
			return nil
		})
		if l.contain("PANIC: ") && !strings.Contains(text, "boom") && !strings.Contains(text, "Panics") {
			t.Errorf("%q panicked: %q", text, l.all())
		}
	})
}
