package hunts_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tidwall/gjson"

	"raptorpack/hunts"
)

const oddRow = `{"ClientId":"C.1","Name":"lsass.exe","Path":"C:\\Windows\\System32","N":-12.5e3,"B":true,"Z":null,"E":"",` +
	`"Nested":{"a":["x","\u00e4\ud83d\ude00"],"q":"say \"hi\""},"Url":"http:\/\/x","K\u0065y":"odd key","Ä":"Ünï"}`

func TestColumnsAreFoundWithoutDecoding(t *testing.T) {
	for name, want := range map[string]string{
		"ClientId": `"C.1"`, "name": `"lsass.exe"`, "N": "-12.5e3", "B": "true", "Z": "null", "E": `""`, "Key": `"odd key"`,
		"Nested": `{"a":["x","\u00e4\ud83d\ude00"],"q":"say \"hi\""}`, "Missing": "", "a": "",
	} {
		if got := hunts.Column([]byte(oddRow), name); string(got) != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, bad := range []string{"", "x", "{", `{"a`, `{"a"`, `{"a":`, `{"a":"`, `{"a":[`, `{"a":{"b":"`, `{"a":1`, `[1]`, `{"a":"\`} {
		if got := hunts.Column([]byte(bad), "b"); got != nil {
			t.Errorf("%q has a column %q", bad, got)
		}
	}
}

func TestFilterTakes(t *testing.T) {
	for filter, want := range map[string]bool{
		"": true, "LSASS": true, "lsass.exe": true, `c:\windows\`: true, `c:\\windows`: false, "say \"hi\"": true,
		"name=LSASS.EXE": true, "Name = lsass.exe": true, "name=lsass": false, "name~sass": true, "path~lsass": false,
		"ClientId": false, "clientid=c.1": true, "n=-12.5e3": true, "n=-12": false, "b=true": true, "z=": true, "e=": true,
		"missing=": true, "name=": false, "missing~": false, "z=null": true, "ä😀": true, "Ä😀": true, "http://x": true, "url=http://x": true,
		`"name=lsass.exe"`: false, "key=odd KEY": true, "ä=ünï": true, "ünï": true, "nothing of it": false, `q":"say`: true,
	} {
		f, err := hunts.ParseFilter(filter)
		if err != nil {
			t.Fatal(err)
		}
		if got := f.Takes([]byte(oddRow)); got != want {
			t.Errorf("%s: %v, want %v", filter, got, want)
		}
		took := 0
		f.Each([]byte("{\"x\":1}\n"+oddRow+"\n"), func(number int64, line []byte) bool {
			if number == 1 && string(line) == oddRow {
				took++
			}
			return true
		})
		if (took == 1) != want {
			t.Errorf("%s: %d of its lines, want %v", filter, took, want)
		}
	}
	for _, bad := range []string{strings.Repeat("x", 2000), "\xff"} {
		if _, err := hunts.ParseFilter(bad); !errors.Is(err, hunts.ErrInvalid) {
			t.Errorf("filter %.20q: %v", bad, err)
		}
	}
}

// FuzzFilter holds the search over many lines to looking at each, and columns to what
// another reader of JSON finds.
func FuzzFilter(f *testing.F) {
	for _, filter := range []string{"lsass", "name=x", "n~1", `c:\`, "ä", "/", "\x01", `"`, "\\u", "K"} {
		f.Add(filter, oddRow, `{"a":"\\u0041\/","name":"x"}`)
	}
	f.Fuzz(func(t *testing.T, filter, one, two string) {
		parsed, err := hunts.ParseFilter(filter)
		if err != nil {
			return
		}
		hunts.Column([]byte(one), filter)
		parsed.Takes([]byte(one))
		var lines []byte
		var want []string
		for _, line := range []string{one, two, one} {
			if !json.Valid([]byte(line)) || line[0] != '{' || strings.Contains(line, "\n") || !utf8.ValidString(line) {
				continue
			}
			lines = append(append(lines, line...), '\n')
			if parsed.Takes([]byte(line)) {
				want = append(want, line)
			}
		}
		var got []string
		all := parsed.Each(lines, func(number int64, line []byte) bool {
			if lines := bytes.Split(lines, []byte{'\n'}); string(lines[number]) != string(line) {
				t.Errorf("line %d is %q", number, line)
			}
			got = append(got, string(line))
			return true
		})
		if !all || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("filter %q takes %q, want %q", filter, got, want)
		}
	})
}

func FuzzColumn(f *testing.F) {
	f.Add(oddRow, "Name")
	f.Add(`{"a":{"b":[1,{"c":"}"}]}, "d" : "\\" }`, "d")
	f.Fuzz(func(t *testing.T, line, name string) {
		got := hunts.Column([]byte(line), name)
		if !json.Valid([]byte(line)) || strings.ContainsAny(line, "\n") || !strings.HasPrefix(line, "{") || !utf8.ValidString(line) {
			return
		}
		first, found := "", false
		gjson.Parse(line).ForEach(func(key, value gjson.Result) bool {
			if !found && strings.EqualFold(key.String(), name) && (len(key.Raw) == len(name)+2 || strings.Contains(key.Raw, `\`)) {
				first, found = value.Raw, true
			}
			return true
		})
		if found != (got != nil) || string(got) != first {
			t.Errorf("%q of %q is %q, want %q", name, line, got, first)
		}
		if text := hunts.Text(got); len(got) > 1 && got[0] == '"' {
			var want string
			if err := json.Unmarshal(got, &want); err == nil && want != text {
				t.Errorf("%q reads %q, want %q", got, text, want)
			}
		}
	})
}
