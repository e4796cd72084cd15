package endpoint_test

import (
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"testing"

	"raptorpack/vql"
)

func TestParseStringWithRegex(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT parse_string_with_regex(string='Hello World 42', regex=['(?P<Word>w\\w+)', '(?P<Num>\\d+)', '(?P<None>xyz)', '(h)']) AS R FROM scope()`,
		`{"R":{"Word":"World","Num":"42","None":"","g1":"H"}}`)
	s.want(`SELECT parse_string_with_regex(string='x', regex='(') AS R FROM scope()`, `{"R":null}`)
	s.wantLog("parse_string_with_regex: compile")
}

func TestRegexReplace(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT regex_replace(source='a1b22', re='([0-9]+)', replace='<$1>') AS A, regex_replace(source='abc', re='B') AS B,
	   regex_replace(source='a1b22', re='[0-9]+', replace_lambda='x=>x + x') AS C,
	   regex_transform(source='abc', map=dict(a='b', b='c')) AS D FROM scope()`,
		`{"A":"a<1>b<22>","B":"ac","C":"a11b2222","D":"ccc"}`)
}

func TestParseJSON(t *testing.T) {
	s := newSession(t, map[string]any{"Deep": strings.Repeat("[", 2000) + strings.Repeat("]", 2000)})
	s.want(`SELECT parse_json(data='{"z": 1, "a": [1, 2.5, "x\\u00e9", null, true], "big": 18446744073709551615, "n": {"k": -1}}') AS A FROM scope()`,
		`{"A":{"z":1,"a":[1,2.5,"xé",null,true],"big":18446744073709551615,"n":{"k":-1}}}`)
	s.want(`SELECT parse_json(data='[1,2]') AS A, parse_json(data='3') AS B, parse_json(data='{bad') AS C, parse_json(data='') AS D, parse_json(data=Deep) AS E FROM scope()`,
		`{"A":[1,2],"B":3,"C":null,"D":null,"E":null}`)
	s.wantLog("parse_json: bad JSON")
	s.want(`SELECT parse_json_array(data='[1, {"a": 2}]') AS A, parse_json_array(data='{}') AS B FROM scope()`, `{"A":[1,{"a":2}],"B":null}`)
	s.want(`SELECT * FROM parse_json_array(data='[1, {"a": 2}]')`, `{"_value":1}`, `{"a":2}`)
	s.want(`SELECT * FROM parse_jsonl(accessor='data', filename='{"a":1}
not json

[2]
')`, `{"a":1}`, `{"_value":[2]}`)
	s.wantLog("skipped 1 lines")
}

func TestParseLines(t *testing.T) {
	s := newSession(t, map[string]any{"Long": strings.Repeat("x", 600) + "\nshort"})
	s.want(`SELECT * FROM parse_lines(accessor='data', filename='a

b'+'\r\n'+'c')`, `{"Line":"a"}`, `{"Line":""}`, `{"Line":"b"}`, `{"Line":"c"}`)
	s.want(`SELECT len(list=Line) AS L FROM parse_lines(accessor='data', filename=Long, buffer_size=256)`,
		`{"L":256}`, `{"L":256}`, `{"L":88}`, `{"L":5}`)
}

func TestParseCSV(t *testing.T) {
	s := newSession(t, nil)
	for _, c := range []struct {
		args, data string
		want       []string
	}{
		{"", "A,B\n1,x\n2.5,\"a,b\"\"c\"\n", []string{`{"A":1,"B":"x"}`, `{"A":2.5,"B":"a,b\"c"}`}},
		{"", "A,B\nshort\n1,2,3\n", []string{`{"A":"short","B":""}`, `{"A":1,"B":2}`}},
		{"auto_headers=TRUE,", "1,x\n2\n", []string{`{"Column0":1,"Column1":"x"}`, `{"Column0":2}`}},
		{"columns=['A'],", "1,x\n", []string{`{"A":1,"Column1":"x"}`}},
		{"separator=';', comment='#',", "# c\nA;B\n1;2\n", []string{`{"A":1,"B":2}`}},
		{"", "A,A,\n1,2,3\n", []string{`{"A":1,"A_2":2,"Column2":3}`}},
		{"", "A,B\n\"multi\nline\",2\n", []string{`{"A":"multi\nline","B":2}`}},
		{"", "A,B\n\"broken\" x,1\n3,4\n", []string{`{"A":3,"B":4}`}},
		{"", "A,B\n\"never closed,1\n3,4\n", []string{`{"A":3,"B":4}`}},
		{"", "A,B\nbare \"quote\",1\n0x10,1_0\n", []string{`{"A":"bare \"quote\"","B":1}`, `{"A":"0x10","B":"1_0"}`}},
		{"", "\ufeffA\nx", []string{`{"A":"x"}`}},
		{"", "", nil},
	} {
		s.scope.Set("Data", c.data)
		s.want(`SELECT * FROM parse_csv(`+c.args+` accessor='data', filename=Data)`, c.want...)
	}
	s.wantLog("skipped 1 broken lines")
}

func TestParseRecordsWithRegex(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT A, B, g1 FROM parse_records_with_regex(accessor='data', file='k1=v1 k2=v2', regex=['(?P<A>k\\d)=(?P<B>v\\d)', '(v2)'])`,
		`{"A":"k1","B":"v1","g1":null}`, `{"A":"k2","B":"v2","g1":null}`, `{"A":null,"B":null,"g1":"v2"}`)
	// A match at every place relative to the ends of blocks is found once.
	var data strings.Builder
	for range 500 {
		data.WriteString("some filler here\nrecord=abcdefghij;\n")
	}
	s.scope.Set("Data", data.String())
	if got := s.rows(`SELECT * FROM parse_records_with_regex(accessor='data', file=Data, buffer_size=300, regex='(?m)^record=(?P<R>[a-z]+);$')`); len(got) != 500 {
		t.Errorf("%d matches, want 500", len(got))
	}
	if got := s.rows(`SELECT * FROM parse_records_with_regex(accessor='data', file=Data, buffer_size=300, regex='filler (?P<R>here)')`); len(got) != 500 {
		t.Errorf("%d matches, want 500", len(got))
	}
}

func TestSplitRecords(t *testing.T) {
	s := newSession(t, map[string]any{"Passwd": "root:x:0\nbin:x\n"})
	s.want(`SELECT * FROM split_records(accessor='data', filenames=Passwd, regex=':', columns=['User', 'P', 'Uid'])`,
		`{"User":"root","P":"x","Uid":"0"}`, `{"User":"bin","P":"x","Uid":null}`)
	s.want(`SELECT * FROM split_records(accessor='data', filenames='A B
1  2
', first_row_is_headers=TRUE)`, `{"A":"1","B":"2"}`)
	s.want(`SELECT * FROM split_records(accessor='data', filenames='a b c', columns=['X', 'Rest'], count=2)`, `{"X":"a","Rest":"b c"}`)
	s.want(`SELECT * FROM split_records(accessor='data', filenames='a 1--b 2', record_regex='--')`,
		`{"Column0":"a","Column1":"1"}`, `{"Column0":"b","Column1":"2"}`)
}

func TestParseXML(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT parse_xml(accessor='data', file='<?xml version="1.0"?><a x="1"><b>t</b><b k="v">u</b><c/></a>') AS X FROM scope()`,
		`{"X":{"a":{"Attrx":"1","b":["t",{"Attrk":"v","#text":"u"}],"c":""}}}`)
	s.want(`SELECT parse_xml(accessor='data', file='no xml') AS X FROM scope()`, `{"X":null}`)
	s.scope.Set("Deep", strings.Repeat("<a>", 5000))
	s.want(`SELECT parse_xml(accessor='data', file=Deep) AS X FROM scope()`, `{"X":null}`)
	s.wantLog("nests deeper")
}

func TestParseYAML(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT parse_yaml(accessor='data', filename='z: 1
a: [x, 2.5, true]
base: &b {k: v}
more:
  <<: *b
  own: 1
') AS Y FROM scope()`, `{"Y":{"z":1,"a":["x",2.5,true],"base":{"k":"v"},"more":{"k":"v","own":1}}}`)
	var bomb strings.Builder
	bomb.WriteString("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n")
	for i := 1; i < 9; i++ {
		name, below := string(rune('0'+i)), string(rune('0'+i-1))
		bomb.WriteString("a" + name + ": &a" + name + " [" + strings.Repeat("*a"+below+",", 9) + "*a" + below + "]\n")
	}
	s.scope.Set("Bomb", bomb.String())
	s.want(`SELECT parse_yaml(accessor='data', filename=Bomb) AS Y FROM scope()`, `{"Y":null}`)
	s.wantLog("parse_yaml: ")
}

func TestGrok(t *testing.T) {
	s := newSession(t, nil)
	s.want(`SELECT grok(grok='%{IP:client} %{WORD:method} %{NUMBER:size}', data='10.1.2.3 GET 42') AS G,
	   grok(grok='%{PET:pet}', data='a cat', patterns=dict(PET='cat|dog')) AS P, grok(grok='%{NOSUCH:x}', data='x') AS N FROM scope()`,
		`{"G":{"client":"10.1.2.3","method":"GET","size":"42"},"P":{"pet":"cat"},"N":null}`)
}

func TestRecordsMatchAsInOneText(t *testing.T) {
	const pieces = "ab\n xy-é\n\xffxx7"
	data := make([]byte, 5000)
	for i, n := range rand.New(rand.NewPCG(1, 2)).Perm(len(data)) { //nolint:gosec // the same in every run
		data[i] = pieces[n%len(pieces)]
	}
	for _, regex := range []string{
		`^a`, `(?m)^.`, `(?m)^(a|x)?`, `\b\w`, `\bx`, `\Bx`, `x`, `xx`, `(?m)x$`, `a(b)?`, `x*`, `\bb|ab`, `(?m)^x|[^y]x`, `.`, `é|\b`, `\w+\s?x`, `a+?`, `(a)|(x)`,
	} {
		var want []string
		for _, m := range regexp.MustCompile("(?i)(?:"+regex+")").FindAllIndex(data, -1) {
			if m[0] < m[1] {
				want = append(want, string(data[m[0]:m[1]]))
			}
		}
		s := newSession(t, map[string]any{"Data": string(data), "Regex": "(?P<All>" + regex + ")"})
		var got []string
		err := s.each(t.Context(), `SELECT All FROM parse_records_with_regex(accessor='data', file=Data, buffer_size=256, regex=Regex)`, func(row *vql.Dict) error {
			text, _ := row.GetString("All")
			got = append(got, text)
			return nil
		})
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %d matches, want %d, error %v", regex, len(got), len(want), err)
		}
	}
	s := newSession(t, nil)
	s.want(`SELECT A FROM parse_records_with_regex(accessor='data', file='aaab a', regex='^(?P<A>a)')`, `{"A":"a"}`)
	s.want(`SELECT A FROM parse_records_with_regex(accessor='data', file='foobar bar', regex=['foo(?P<A>)', '(?P<A>\\bbar)'])`, `{"A":""}`, `{"A":"bar"}`)
}

func TestDocumentsOfManyNodesAreRefused(t *testing.T) {
	s := newSession(t, map[string]any{
		"Flow": "[" + strings.Repeat("a,", 1<<20) + "a]", "Block": strings.Repeat("- a\n", 1<<20), "Nested": strings.Repeat("- ", 1<<20+1),
		"Tags": "<r>" + strings.Repeat("<a/>", 1<<20) + "</r>", "Attributes": "<r>" + strings.Repeat(`<a b="" c=""/>`, 400_000) + "</r>",
		"Few": "<r>" + strings.Repeat("<a/>", 50_000) + "</r>", "List": strings.Repeat("- a\n", 50_000),
	})
	s.want(`SELECT parse_yaml(accessor='data', filename=Flow) AS A, parse_yaml(accessor='data', filename=Block) AS B, parse_yaml(accessor='data', filename=Nested) AS C,
	   parse_xml(accessor='data', file=Tags) AS D, parse_xml(accessor='data', file=Attributes) AS E,
	   len(list=parse_xml(accessor='data', file=Few).r.a) AS F, len(list=parse_yaml(accessor='data', filename=List)) AS G FROM scope()`,
		`{"A":null,"B":null,"C":null,"D":null,"E":null,"F":50000,"G":50000}`)
	s.wantLog("too many nodes")
	s.wantLog("elements and attributes")
}
