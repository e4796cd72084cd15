package vql_test

import "testing"

// What a primitive puts into a column may be a slice of its own structs: those are
// rows as dicts are, wherever a value acts as rows.
func TestValuesWithFieldsAreRows(t *testing.T) {
	for _, tc := range []struct {
		name, query string
		want        []string
	}{
		{"structs", "SELECT * FROM foreach(row=H.structs)", []string{`{"A":1,"B":"x"}`, `{"A":2,"B":"y"}`}},
		{"pointers", "SELECT A, b FROM foreach(row=H.pointers)", []string{`{"A":1,"b":"x"}`, `{"A":2,"b":"y"}`}},
		{"one struct", "SELECT * FROM foreach(row=H.one)", []string{`{"A":3,"B":"z"}`}},
		{"structs by value", "SELECT _value.A AS A, B FROM foreach(row=H.structs)", []string{`{"A":1,"B":"x"}`, `{"A":2,"B":"y"}`}},
		{"structs by value in a query", "SELECT * FROM foreach(row=H.objects, query={SELECT _value.n + n AS N FROM scope()})", []string{`{"N":8}`, `{"N":10}`}},
		{"dicts have no value", "SELECT _value FROM foreach(row=H.dicts)", []string{`{"_value":null}`, `{"_value":null}`}},
		{"maps", "SELECT * FROM foreach(row=H.maps)", []string{`{"a":1,"b":2}`, `{}`}},
		{"a map", "SELECT *, H.texts.k AS K FROM foreach(row=H.texts)", []string{`{"k":"v","K":"v"}`}},
		{"dicts", "SELECT * FROM foreach(row=H.dicts)", []string{`{"a":1}`, `{"a":2}`}},
		{"objects", "SELECT * FROM foreach(row=H.objects)", []string{`{"n":4}`, `{"n":5}`}},
		{"times", "SELECT * FROM foreach(row=H.times)", []string{`{"_value":"1970-01-01T00:00:05Z"}`}},
		{"paths", "SELECT * FROM foreach(row=H.paths)", []string{`{"_value":"/a/b"}`}},
		{"pathspecs", "SELECT _value.Path AS P FROM foreach(row=H.pathspecs)", []string{`{"P":"/a"}`, `{"P":"/b"}`}},
		{"modes", "SELECT _value + 0 AS V FROM foreach(row=H.modes)", []string{`{"V":420}`}},
		{"ints", "SELECT * FROM foreach(row=H.ints)", []string{`{"_value":7}`, `{"_value":8}`}},
		{"mixed", "SELECT * FROM foreach(row=H.mixed)", []string{`{"_value":1}`, `{"A":2,"B":"y"}`, `{"a":3}`, `{"_value":[4]}`}},
		{"one dict", "SELECT * FROM foreach(row=dict(a=1))", []string{`{"a":1}`}},
		{"an empty dict", "SELECT * FROM foreach(row=dict())", []string{`{}`}},
		{"a list of one dict", "SELECT * FROM foreach(row=[dict(a=1)])", []string{`{"a":1}`}},
		{"an array of one dict", "SELECT * FROM foreach(row=[dict(a=1),])", []string{`{"a":1}`}},
		{"with a query", "SELECT * FROM foreach(row=H.structs, query={SELECT A * 10 AS T, B FROM scope()})", []string{`{"T":10,"B":"x"}`, `{"T":20,"B":"y"}`}},
		{"with workers", "SELECT sum(item=A) AS S FROM foreach(row=H.structs, query={SELECT A FROM scope()}, workers=2) GROUP BY 1", []string{`{"S":3}`}},
		{"with a column", "SELECT * FROM foreach(row={SELECT H.one AS O FROM scope()}, column='O')", []string{`{"A":3,"B":"z"}`}},
		{"sorted", "SELECT B FROM foreach(row=H.structs) ORDER BY B DESC", []string{`{"B":"y"}`, `{"B":"x"}`}},
		{"flatten", "SELECT * FROM flatten(query={SELECT H.structs AS S, 1 AS N FROM scope()})", []string{`{"S":{"A":1,"b":"x"},"N":1}`, `{"S":{"A":2,"b":"y"},"N":1}`}},
		{"flatten one", "SELECT S.A AS V FROM flatten(query={SELECT H.one AS S FROM scope()})", []string{`{"V":3}`}},
		{"items", "SELECT _key, _value.B AS B FROM items(item=H.structs)", []string{`{"_key":0,"B":"x"}`, `{"_key":1,"B":"y"}`}},
		{"items of one", "SELECT * FROM items(item=H.one)", []string{`{"_key":"A","_value":3}`, `{"_key":"B","_value":"z"}`}},
		{"items of a map", "SELECT * FROM items(item=H.texts)", []string{`{"_key":"k","_value":"v"}`}},
		{"chain", "SELECT * FROM chain(a=H.structs, b=H.one, c=H.texts, d=H.times, e=dict(), f=H.objects)", []string{
			`{"A":1,"B":"x"}`, `{"A":2,"B":"y"}`, `{"A":3,"B":"z"}`, `{"k":"v"}`, `{"_value":"1970-01-01T00:00:05Z"}`, `{"_value":{}}`, `{"n":4}`, `{"n":5}`,
		}},
		{"a variable", "LET X = H.structs SELECT * FROM X", []string{`{"A":1,"B":"x"}`, `{"A":2,"B":"y"}`}},
		{"a kept variable", "LET X <= H.maps SELECT * FROM X", []string{`{"a":1,"b":2}`, `{}`}},
		{"a member", "SELECT * FROM H.objects", []string{`{"n":4}`, `{"n":5}`}},
		{"if", "SELECT * FROM if(condition=TRUE, then=H.structs)", []string{`{"A":1,"B":"x"}`, `{"A":2,"B":"y"}`}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			wantRows(t, rows(t, "LET H <= hosts() "+tc.query), tc.want...)
		})
	}
}
