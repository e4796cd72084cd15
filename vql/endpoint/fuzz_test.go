package endpoint_test

import (
	"path/filepath"
	"strings"
	"testing"

	"raptorpack/vql"
)

func FuzzGlobPattern(f *testing.F) {
	root := tree(f, map[string]string{"a/b/c": "", "a/x.txt": "", "up": "->a", "a/loop": "->.."})
	for _, seed := range []string{"**", "a/*", "{a,b}/**3/*.txt", "[a-", "[!]a]*", "{{a,b},c}", "**/**/**", "{\"Path\": \"/a\"}", "*****************b", "{a,", "../../*"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, pattern string) {
		if strings.Count(pattern, "{") > 8 || strings.Contains(pattern, "**") && strings.Count(pattern, "/") > 8 {
			t.Skip("slow rather than wrong")
		}
		s := newSession(t, map[string]any{"Root": root, "G": pattern})
		err := s.each(t.Context(), `SELECT OSPath FROM glob(root=Root, globs=G)`, func(row *vql.Dict) error {
			v, _ := row.Get("OSPath")
			if found := v.(*vql.Path).String(); found != root && !strings.HasPrefix(found, root+string(filepath.Separator)) {
				t.Errorf("%q found %q outside of the root", pattern, found)
			}
			return nil
		})
		if err != nil || strings.Contains(s.log(), "PANIC") {
			t.Error(err, s.log())
		}
	})
}

func FuzzCSV(f *testing.F) {
	for _, seed := range []string{"a,b\n1,2\n", "\"a\"\"b\",\"c\nd\"\n", "\"open\n\n\"x\n", "a\r\n\r\nb", "\xff\xfe\x00", "\"\"\n\"\"\"\n\"", "a,a\n\"b\"c,d\n"} {
		f.Add(seed, ",")
	}
	f.Fuzz(func(t *testing.T, data, separator string) {
		s := newSession(t, map[string]any{"Data": data, "Sep": separator})
		rows := s.rows(`SELECT * FROM parse_csv(accessor='data', filename=Data, separator=Sep, auto_headers=TRUE)`)
		if lines := strings.Count(data, "\n") + 1; len(rows) > lines {
			t.Errorf("%d rows of %d lines", len(rows), lines)
		}
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}

func FuzzTextParsers(f *testing.F) {
	f.Add(`{"a": [1, 2.5e3, "x\u00e9"], "b": {"c": null}}`)
	f.Add(`<a x="1"><b>t</b><b/></a>`)
	f.Add("a: &x [1]\nb: *x\n")
	f.Fuzz(func(t *testing.T, data string) {
		s := newSession(t, map[string]any{"Data": data})
		s.rows(`SELECT parse_json(data=Data) AS J, parse_xml(accessor='data', file=Data) AS X, parse_yaml(accessor='data', filename=Data) AS Y FROM scope()`)
		s.rows(`SELECT * FROM split_records(accessor='data', filenames=Data, record_regex='[,;]|x*', buffer_size=256)`)
		s.rows(`SELECT * FROM parse_records_with_regex(accessor='data', file=Data, regex='(?P<A>\\w+)|', buffer_size=256)`)
		if strings.Contains(s.log(), "PANIC") {
			t.Error(s.log())
		}
	})
}
