package vql_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"raptorpack/vql"
)

// Artifacts hand primitives whatever a host has: what cannot be used gives a plain
// value, and a line in the log where the author should know.
func TestFunctionsBearWhatTheyCannotUse(t *testing.T) {
	for call, want := range map[string]struct{ value, log string }{
		"int(int='x')":                                     {"0", ""},
		"int(int=dict(a=1))":                               {"0", ""},
		"atoi(string='12x')":                               {"0", ""},
		"atoi(string=[1,2])":                               {"0", ""},
		"parse_float(string=NULL)":                         {"0", ""},
		"parse_float(string='1e400')":                      {"null", ""},
		"str(str=NULL)":                                    {`"Null"`, ""},
		"len(list=5)":                                      {"0", ""},
		"to_dict(item=5)":                                  {"{}", ""},
		"to_dict(item={SELECT 1 AS X FROM scope()})":       {"{}", ""},
		"version(function='nosuch')":                       {"null", ""},
		"version()":                                        {"0", "One of plugin or function should be specified"},
		"lowcase(string=NULL)":                             {`""`, ""},
		"upcase(string=5)":                                 {`"5"`, ""},
		"base64encode(string=NULL)":                        {`""`, ""},
		"base64decode(string='!!')":                        {"null", "base64decode: decode: illegal base64 data"},
		"strip(string=NULL)":                               {`""`, ""},
		"commandline_split(command='a \"b c')":             {`["a","b c"]`, ""},
		"commandline_split(command='a \"b', bash_style=1)": {"null", "EOF found when expecting closing quote"},
		"rand(range=-5) >= 0":                              {"true", ""},
		"sleep(time=-1)":                                   {"true", ""},
		"array(_=5)":                                       {"[5]", ""},
		"utf16(string='abc')":                              {`"扡"`, ""},
		"utf16_encode(string=NULL)":                        {`""`, ""},
		"url(parse='http://[::1')":                         {"null", "url: parse"},
		"substr(str='hello', start=3, end=1)":              {`""`, ""},
		"substr(str='hello', start=-1)":                    {"null", "start and end may not be negative"},
		"substr(str='hello', start=2, end=99)":             {`"llo"`, ""},
		"any(items=[1,2])":                                 {"null", "one of filter or regex is needed"},
		"any(items=NULL, regex='x')":                       {"false", ""},
		"any(items=['a'], regex='a')":                      {"true", ""},
		"any(items=5, regex='5')":                          {"true", ""},
		"any(items='a', filter='x=>x = \"a\"')":            {"true", ""},
		"any(items=dict(k='a'), regex='a')":                {"true", ""},
		"all(items='a', regex='b')":                        {"false", ""},
		"any(items=['a'], regex='[')":                      {"false", "missing closing ]"},
		"rate(x='a', y=1)":                                 {"null", "Field x should be a float not string"},
		"slice(list=[1,2,3], start=2, end=1)":              {"[]", ""},
		"slice(list=5, start=0, end=1)":                    {"null", "list should be a list or a string"},
		"alert(name='x', condition=FALSE)":                 {"false", ""},
		"alert()":                                          {"null", "Field name is required"},
		"humanize()":                                       {"null", "one of bytes, ibytes, time or comma is needed"},
		"timestamp(epoch='nonsense')":                      {"null", "nonsense is no time"},
		"get(item=dict(a=1), member='a.b.c')":              {"null", ""},
		"set(item=5, field='a', value=1)":                  {"null", "item should be a dict"},
		"filter(list=[1], regex='[')":                      {"[]", "missing closing ]"},
		"ip(parse='999.1.1.1')":                            {"null", "IPv4 field has value >255"},
		"template(template='{{', expansion=dict())":        {"null", "unclosed action"},
		"serialize(item=dict(a=1), format='nosuch')":       {"null", "unknown format nosuch"},
		"join(array=5, sep=',')":                           {`"5"`, ""},
		"format(format='%v %v', args=1)":                   {`"1 %!v(MISSING)"`, ""},
		"get(item=memoize(query={SELECT 1 AS X FROM scope()}, key='nosuch'), field='1')": {"null", "left out 1 rows without the column nosuch"},
	} {
		t.Run(call, func(t *testing.T) {
			scope, l := session(t, vql.SessionOptions{})
			got, err := query(t, scope, "SELECT "+call+" AS A FROM scope()")
			if err != nil {
				t.Fatal(err)
			}
			wantRows(t, got, `{"A":`+want.value+`}`)
			if log := strings.Join(l.all(), "\n"); !strings.Contains(log, want.log) || want.log == "" && log != "" {
				t.Errorf("log %q, want %q", log, want.log)
			}
		})
	}
}

func TestPluginsBearWhatTheyCannotUse(t *testing.T) {
	one := "query={SELECT 1 AS X FROM scope()}"
	for call, want := range map[string]struct{ rows, log string }{
		"items(item=5)":                           {"", ""},
		"items()":                                 {"", ""},
		"switch()":                                {"", ""},
		"switch(a={SELECT * FROM range(end=0)})":  {"", ""},
		"combine()":                               {"", ""},
		"delay(delay=-1, " + one + ")":            {`{"X":1}`, ""},
		"column_filter(" + one + ")":              {`{"X":1}`, ""},
		"column_filter(include='[', " + one + ")": {"", "missing closing ]"},
		"column_filter(exclude='X', " + one + ")": {`{}`, ""},
		"diff(key='nosuch', " + one + ")":         {"", "the query has no column nosuch"},
		"chain(a=" + strings.TrimPrefix(one, "query=") + ", b=5)": {"{\"X\":1}\n{\"_value\":5}", ""},
	} {
		t.Run(call, func(t *testing.T) {
			scope, l := session(t, vql.SessionOptions{})
			got, err := query(t, scope, "SELECT * FROM "+call)
			if err != nil {
				t.Fatal(err)
			}
			if rows := strings.Join(got, "\n"); rows != want.rows {
				t.Errorf("rows %s, want %s", rows, want.rows)
			}
			if log := strings.Join(l.all(), "\n"); !strings.Contains(log, want.log) || want.log == "" && log != "" {
				t.Errorf("log %q, want %q", log, want.log)
			}
		})
	}
}

func TestDiffTellsWhatCameAndWent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int64
		host := vql.NewPlugin(vql.Spec{Name: "processes"}, func(_ context.Context, _ *vql.Scope, _ *noArgs, emit vql.Emit) error {
			for _, name := range [][]string{{"a", "b"}, {"b", "c"}, {"b", "c"}, {}}[min(reads.Add(1)-1, 3)] {
				if err := emit(vql.NewDict().Set("Name", name)); err != nil {
					return err
				}
			}
			return nil
		})
		e, err := vql.NewEngine(nil, []*vql.Plugin{host})
		if err != nil {
			t.Fatal(err)
		}
		scope := e.NewScope(vql.SessionOptions{Limits: vql.Limits{TempDir: t.TempDir()}})
		defer scope.Close()
		began := time.Now()
		got, err := query(t, scope, "SELECT * FROM diff(query={SELECT * FROM processes()}, key='Name', period=10) LIMIT 6")
		if err != nil {
			t.Fatal(err)
		}
		wantRows(t, got, `{"Name":"a","Diff":"added"}`, `{"Name":"b","Diff":"added"}`,
			`{"Name":"c","Diff":"added"}`, `{"Name":"a","Diff":"removed"}`,
			`{"Name":"b","Diff":"removed"}`, `{"Name":"c","Diff":"removed"}`)
		if waited := time.Since(began); waited != 30*time.Second { // in the bubble
			t.Errorf("four readings took %v", waited)
		}
	})
}
